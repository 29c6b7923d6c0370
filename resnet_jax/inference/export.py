"""The export command: a network for inference in one file, StableHLO or ONNX, which is loaded again and compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import Side, as_side, height_and_width
from resnet_jax.errors import RunError, UserError
from resnet_jax.filesystem import atomic_write, check_parents
from resnet_jax.inference.onnx_graph import axes_in_file, import_onnx, to_onnx
from resnet_jax.inference.predictor import TrainedModel
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.shapes import num_input_channels
from resnet_jax.runtime import programs_not_kept
from resnet_jax.training.images import normalizer

Array = jax.Array

# How far the reloaded network's logits may be from JAX's, by the largest logit.
LIMITS = {".stablehlo": 1e-6, ".onnx": 1e-4}
BATCHES = (1, 7)  # that are compared
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    trained: TrainedModel,
    target: Path,
    *,
    preprocessing: bool = False,
    image_size: Side | None = None,
    channels_first: bool = False,
) -> dict[str, Any]:
    """Returns {..., "to", "format", "input", "output", "bytes", "difference"}: the network as a file, batch norm
    folded.

    Args:
      target: ends in .stablehlo (for `jax.export.deserialize`; for CPU, CUDA, ROCm and TPU) or .onnx (opset
        17).
      preprocessing: the input is (batch, H, W, C) uint8 and the normalisation is part of the network; otherwise it is
        normalised float32. The batch may be of any size.
      image_size: H = W in pixels, or (H, W); None: the network's own.
      channels_first: the input is (batch, C, H, W).

    The difference is between the logits of the file, loaded again, and JAX's: the largest by the largest logit.

    Raises:
      UserError: if the ending is another, the place cannot be written, or the network has no translation; RunError,
        with nothing written, if the file's answers differ from the network's.
    """
    check_export(target)
    height, width = trained.input_shape[:2] if image_size is None else height_and_width(image_size)
    if min(height, width) < 1:
        raise UserError(f"image_size={image_size} must be at least 1")
    mean = trained.normalization.mean
    if preprocessing and mean.ndim > 1 and mean.shape[:2] != (height, width):
        raise UserError(
            f"image_size={image_size} must be that of the mean image, {mean.shape[0]}x{mean.shape[1]}, which "
            "--preprocessing puts into the network: leave one of them out"
        )
    num_channels = num_input_channels(trained.model, trained.state.variables)
    shape, dtype = (height, width, num_channels), np.dtype(np.uint8 if preprocessing else np.float32)
    function = _inference(trained, preprocessing)
    if target.suffix == ".onnx":
        description = _described(trained, preprocessing, image_size)
        data, run = _onnx(function, shape, dtype, description, channels_first)
    else:
        data, run = _stablehlo(function, shape, dtype, channels_first)
    # ONNX Runtime computes on the CPU, and GPUs in TensorFloat-32 if nothing else is asked of them.
    with programs_not_kept(), jax.default_matmul_precision("highest" if target.suffix == ".onnx" else None):
        difference = max(_difference(function, run, (batch, *shape), dtype, channels_first) for batch in BATCHES)
    if not difference <= LIMITS[target.suffix]:
        raise RunError(f"{target} is not written: its logits differ from JAX's by {difference:.1e} of the largest")
    with atomic_write(target) as file:
        file.write(data)
    sides = ", ".join(map(str, axes_in_file(shape, channels_first)))
    return {
        **trained.origin,
        "to": str(target),
        "format": target.suffix[1:],
        "input": f"images (batch, {sides}) {dtype}{'' if preprocessing else ', normalised'}",
        "output": f"logits (batch, {trained.num_classes}) float32",
        "bytes": len(data),
        "difference": difference,
    }


def check_export(target: Path) -> None:
    """Raises UserError (a ValueError) if `target` cannot be written, or a package for it is not installed."""
    if target.suffix not in LIMITS:
        raise UserError(f"--to {target} must end in one of {', '.join(LIMITS)}")
    if target.is_dir():
        raise UserError(f"--to {target} is a folder: choose another name")
    check_parents(target)
    if target.suffix == ".onnx":
        import_onnx()
        _import_onnxruntime()


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "ONNX is compared by the package onnxruntime: pip install 'resnet-family-jax[export]'"
        ) from None
    return onnxruntime


def _inference(trained: TrainedModel, preprocessing: bool) -> Callable[[Array], Array]:
    """Returns the function images -> logits in float32, of ordinary convolutions that every platform has."""
    model = trained.model.clone(dtype="float32", conv_impl="xla", remat=False)
    variables: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(trained.state.variables))
    if model.batch_norm != "folded":
        model, variables = fold_batch_norm(model, variables)
    variables = jax.tree.map(np.asarray, variables)
    normalized = normalizer(trained.normalization, "float32") if preprocessing else lambda images: images

    def infer(images: Array) -> Array:
        return jnp.asarray(model.apply(variables, normalized(images), train=False))

    return infer


def _stablehlo(
    function: Callable[[Array], Array], shape: tuple[int, int, int], dtype: np.dtype, channels_first: bool
) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    (batch,) = jax.export.symbolic_shape("batch")

    def infer(images: Array) -> Array:
        return function(images.transpose(0, 2, 3, 1) if channels_first else images)

    images = jax.ShapeDtypeStruct((batch, *axes_in_file(shape, channels_first)), dtype)
    exported = jax.export.export(jax.jit(infer), platforms=PLATFORMS)(images)
    data = bytes(exported.serialize())
    reloaded = jax.jit(jax.export.deserialize(bytearray(data)).call)
    return data, lambda images: np.asarray(reloaded(images))


def _onnx(
    function: Callable[[Array], Array],
    shape: tuple[int, int, int],
    dtype: np.dtype,
    description: dict[str, str],
    channels_first: bool,
) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    onnx, onnxruntime = import_onnx(), _import_onnxruntime()
    model = to_onnx(function, shape, dtype, channels_first=channels_first)
    onnx.helper.set_model_props(model, description)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: session.run(None, {"images": images})[0]


def _described(trained: TrainedModel, preprocessing: bool, image_size: Side | None) -> dict[str, str]:
    """Returns the metadata of an ONNX file: class names, and how images are prepared.

    Args:
      image_size: of the file's images; None: the network's own.
    """
    prepare = trained.preprocess
    if image_size is not None:
        prepare = Adjustment(crop=as_side(*height_and_width(image_size))).adjust(prepare)
    preprocess = prepare.to_json() if trained.preprocess.changes_pixels else None
    normalization = "in the network" if preprocessing else json.dumps(trained.normalization.to_json())
    prepared = {"preprocess": json.dumps(preprocess), "normalization": normalization}
    return {
        "class_names": json.dumps(list(trained.class_names)),
        **(prepared if trained.preprocess_is_known else {}),
        **({"exif_rotation": "true"} if trained.apply_exif_orientation else {}),
        **({"multi_label": "true"} if trained.multi_label else {}),  # each logit's sigmoid is a probability
    }


def _difference(
    function: Callable[[Array], Array],
    run: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    channels_first: bool,
) -> float:
    """Returns the largest difference of the logits of `function` and of `run`, the file, by the largest logit.

    Args:
      shape: of random images (B, H, W, C), which the file may take as (B, C, H, W).
    """
    random = np.random.default_rng(shape[0])
    if dtype == np.uint8:
        images = random.integers(0, 256, shape, np.uint8)
    else:
        images = random.standard_normal(shape, np.float32)
    expected = np.asarray(jax.jit(function)(images))
    given = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_first else images
    return float(np.max(np.abs(run(given) - expected)) / max(np.max(np.abs(expected)), np.finfo(np.float32).tiny))
