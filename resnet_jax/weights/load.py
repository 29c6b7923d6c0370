"""Weights from a file or checkpoint directory into a model's variables."""

import logging
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.arguments import DTYPES
from resnet_jax.models.resnet import ResNet, make_dense
from resnet_jax.models.shapes import RGB, stem_kernel, variable_shapes
from resnet_jax.models.variants import create_model
from resnet_jax.storage.run_files import read_run
from resnet_jax.weights.adapt_stem import adapt_kernel
from resnet_jax.weights.infer_architecture import TRACELESS, WITHOUT_PARAMETERS
from resnet_jax.weights.lazy_tensor import Unreadable
from resnet_jax.weights.names import jax_axes, torch_shapes
from resnet_jax.weights.open_weights import open_weights
from resnet_jax.weights.report import Report, compare, complaint
from resnet_jax.weights.state_dict import STRUCTURE, Choice, StateDict, Tensor
from resnet_jax.weights.structure import by_structure
from resnet_jax.weights.traceless import contradiction, untold

logger = logging.getLogger(__name__)

HEAD_CHOICES = ("strict", "reset")
ALIGNMENT = 64  # bytes


def load_weights(
    path: str | Path,
    model: ResNet,
    head: str = "strict",
    num_channels: int | None = None,
    *,
    prefix: str | None = None,
    use: str | None = None,
    bgr: bool = False,
    layout: str | None = None,
) -> dict[str, Any]:
    """Returns the model's variables {"params": ..., "batch_stats": ...}, read from `path`.

    Args:
      path: a torch file (.pth, .th, .pt; torch is not needed and nothing in it is executed), a .safetensors file, or
        a checkpoint directory, of a run or of the convert command. The names of torchvision, timm,
        transformers, akamaster's CIFAR networks and tutorials are recognised. Half-precision weights are widened.
        Also BiT's .npz, msgpack files and Orbax folders of Flax, Keras' files (.keras, .h5), detectron2's .pkl. Or the
        address of one of these in a bucket, s3://… or gs://….
      head: "strict" takes the head from the file, "reset" initialises its last layer (with key 0) whatever the
        file has: of a model with base_classes the layer on top of the head.
      num_channels: of the images. If the file's first convolution takes three, it is adapted to them as timm does
        (`adapt_kernel`), with a warning. None: as many as the file's.
      prefix: of the wanted network's names, if the file holds several networks: "encoder_q", "teacher.backbone".
        The rest of the file is left, with a warning.
      use: "weights", or "ema" for their moving average, if a file holds both. None: the weights, and a line says so.
      bgr: the file's network takes colours in OpenCV's order, blue first, as detectron2's and Caffe's do. The result
        takes red first.
      layout: "structure" matches modules by their order in the file and their shapes, whatever their names. None: by
        the names of the known layouts.

    Raises:
      UserError: if a tensor finds no place; the message names all of them.
    """
    check_choice("head", head, HEAD_CHOICES)
    if not isinstance(model, ResNet):
        raise TypeError(f"model={model!r} must be a ResNet: create_model({str(model)!r}), for example")
    path = read_run(path)
    if layout is not None:
        check_choice("layout", layout, (STRUCTURE,))
    state = open_weights(path, choice=Choice(prefix, use, bgr, layout))
    variables, report = import_state_dict(path, state, model, head, num_channels, adapt_stem=True)
    for line in (report.adapted, report.describe_left(), _other_network(path, state, model)):
        if line:
            logger.warning(line)
    return variables


def _other_network(path: Path, state: StateDict, model: ResNet) -> str:
    """Returns a line that says in what the network that weights are recorded to be of computes otherwise than `model`,
    as far as their tensors show nothing of it; empty if nothing is recorded, or they agree.
    """
    from resnet_jax.weights.describe import told_info  # which asks for weights itself, for other uses

    try:
        told = told_info(path)
        theirs = told.model and create_model(told.model, **{**state.arguments, **told.model_args})
    except (UserError, KeyError):  # of a config that is not read here, or a manifest without it
        return ""
    if not theirs:
        return ""
    differing = {name: getattr(theirs, name) for name in TRACELESS if getattr(theirs, name) != getattr(model, name)}
    if theirs.shortcut != model.shortcut and {theirs.shortcut, model.shortcut} <= {*WITHOUT_PARAMETERS}:
        differing["shortcut"] = theirs.shortcut
    if {theirs.stem, model.stem} == {"cifar", "cifar_pooled"}:
        differing["stem"] = theirs.stem
    if not differing:
        return ""
    call = ", ".join(f"{name}={value!r}" for name, value in differing.items())
    return f"{path} is of a {told.model} with {call}: the same tensors in another network answer otherwise"


def _untold(path: Path, state: StateDict, model: ResNet) -> str | None:
    """Returns the line of `untold` on weights of which no network is recorded; None if there is none."""
    from resnet_jax.weights.describe import told_info

    try:
        is_recorded = bool(told_info(path).model)
    except (UserError, KeyError):
        is_recorded = False
    return None if is_recorded or state.bgr else untold(path, state.layout, model) or None


def import_weights(path: str | Path, model: ResNet, head: str = "strict") -> tuple[dict[str, Any], Report]:
    """Returns the variables, as `load_weights` does, and the report on them."""
    check_choice("head", head, HEAD_CHOICES)
    path = read_run(path)
    return import_state_dict(path, open_weights(path), model, head)


def import_state_dict(
    path: Path,
    state: StateDict,
    model: ResNet,
    head: str,
    num_channels: int | None = None,
    *,
    adapt_stem: bool = False,
) -> tuple[dict[str, Any], Report]:
    """Returns the result of `import_weights`, of weights at `path` that are open already.

    Args:
      num_channels: that the images have; None: as many as the weights are for.
      adapt_stem: a first convolution for three channels becomes one for num_channels, as the report says; otherwise
        such weights are refused.
    """
    if state.layout == STRUCTURE:
        state = by_structure(path, state, model)
    _check_arguments(path, state, model)
    report = compare(path, state, model, head, num_channels, adapt_stem=adapt_stem)
    if report.missing or report.unexpected or report.misshapen:
        raise UserError(complaint(report, state, model))
    if (line := contradiction(path, model) or _untold(path, state, model)) is not None:
        logger.warning(line)
    dtype = np.dtype(DTYPES[model.dtype][1])
    flat = {}
    for name, (leaf_path, shape) in torch_shapes(variable_shapes(model, report.num_channels)).items():
        if name in report.loaded:
            flat[leaf_path] = _in_our_order(path, name, state.tensors[name], shape, dtype)
        elif name in report.zeroed:
            flat[leaf_path] = np.zeros(shape, dtype)
    stem = ("params", *stem_kernel(model))
    if state.bgr:
        if report.num_channels != RGB:
            raise UserError(
                f"{path} has no first convolution of three channels to reverse: leave out bgr=True (convert --bgr)"
            )
        flat[stem] = np.ascontiguousarray(flat[stem][:, :, ::-1])
    if report.adapted and num_channels is not None:
        flat[stem], report.num_channels = adapt_kernel(flat[stem], num_channels), num_channels
    variables = unflatten_dict(jax.device_put(flat))
    if report.reset:
        name, num_outputs = model.head_layers[-1]
        num_inputs = report.reset[f"{name}.weight"][1]
        layer = make_dense(model, name, num_outputs)
        variables["params"][name] = layer.init(jax.random.key(0), jnp.zeros((1, num_inputs)))["params"]
    return variables, report


def _check_arguments(path: Path, state: StateDict, model: ResNet) -> None:
    """Raises UserError if the model would compute otherwise than the network that the weights are of."""
    differing = {name: value for name, value in state.arguments.items() if getattr(model, name) != value}
    if differing:
        call = ", ".join(f"{name}={value!r}" for name, value in differing.items())
        options = " ".join(f"{name}={value}" for name, value in differing.items())
        raise UserError(
            f"{path} has the names of {state.layout}, whose networks have {call}: create the model with that "
            f"(--model_args {options})"
        )


def _in_our_order(
    path: Path, name: str, tensor: Tensor | Unreadable, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Returns the tensor's elements, one tensor at a time in memory twice."""
    assert not isinstance(tensor, Unreadable)
    torch_array = tensor.read().reshape(shape)
    array = torch_array.transpose(jax_axes(torch_array.ndim))
    aligned = _aligned_empty(array.shape, dtype)
    try:
        with np.errstate(over="raise"):
            np.copyto(aligned, array, casting="same_kind")
    except FloatingPointError:
        raise UserError(f"{path}: {name} has {array.dtype} numbers beyond the range of {dtype}") from None
    return aligned


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Does as np.empty, at an address from which JAX takes an array over on the CPU without copying it."""
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)
