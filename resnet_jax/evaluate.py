"""The evaluate command: loss and accuracy of a trained run or of imported weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from resnet_jax.config import config_from_dict
from resnet_jax.data.batches import Images, ImageSource, LazySource, eval_batches
from resnet_jax.data.folder import load_folder
from resnet_jax.data.sources import SOURCES, load_source
from resnet_jax.data.transforms import Preprocess
from resnet_jax.describe import describe_weights
from resnet_jax.errors import NonFiniteError, UserError
from resnet_jax.models import ResNet
from resnet_jax.paths import expand
from resnet_jax.training.checkpoint import open_best, open_newest
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import Normalization, build_model, compile_eval_fn, initial_state, load_split
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.steps import TrainState, create_train_state
from resnet_jax.training.workdir import read_config
from resnet_jax.weights.info import WeightsInfo, imagenet_names, imagenet_wordnet_ids
from resnet_jax.weights.load import import_state_dict

Channels = tuple[float, float, float]
# Images as they are: nothing but the normalisation, which happens on the device, is left to do.
AS_THEY_ARE = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class TrainedRun:
    """A run's model with its trained weights, and what it takes to feed it."""

    config: ConfigDict
    model: ResNet
    mesh: Mesh
    state: TrainState  # without the optimizer's
    step: int
    normalization: Normalization
    class_names: tuple[str, ...]


def restore_run(workdir: Path, which: str = "newest") -> TrainedRun:
    """The run in `workdir` with its "newest" weights, or its "best" by validation accuracy.

    Raises UserError (a ValueError) if there is no such run or checkpoint.
    """
    config = config_from_dict(read_config(workdir))
    mesh = make_mesh()
    open_checkpoints = open_best if which == "best" else open_newest
    with open_checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.newest_step()
        if step is None:
            raise UserError(f"{checkpoints.directory} holds no checkpoint; train the run first")
        position = checkpoints.position(step)
        class_names = tuple(position["class_names"])
        model = build_model(config, len(class_names))
        state = checkpoints.restore_variables(initial_state(model, optax.identity(), config, mesh), step)
    return TrainedRun(config, model, mesh, state, step, Normalization.from_json(position["normalization"]), class_names)


def evaluate_run(
    workdir: Path, data: str | None = None, which: str = "newest", data_dir: str | None = None
) -> dict[str, Any]:
    """{"workdir", "checkpoint", "step", "data", "loss", "accuracy", "count"} of a run's weights.

    data: a folder of class folders, or "[tfds:]NAME[:SPLIT]", of the run's classes; None is the run's own test set.
    which: "newest" or "best" (by validation accuracy). data_dir: where TFDS's sets are, None: where the run had them.
    Raises UserError (a ValueError) if there is no such run, checkpoint or data.
    """
    run = restore_run(workdir, which)
    config, mean = run.config, run.normalization.mean
    if data_dir is not None:
        config.data_dir = data_dir
    source: ImageSource
    if data is None:
        source, data = load_split(config, "test"), f"{config.dataset}:test"
    else:
        source = open_images(
            data, run.class_names, len(run.class_names), AS_THEY_ARE, config.data_dir, config.image_size
        )
    if mean.ndim == 3 and mean.shape != source.images.shape[1:]:
        raise UserError(
            f"the run in {workdir} subtracts a mean image of shape {mean.shape}; "
            f"--data {data} has images of shape {source.images.shape[1:]}"
        )
    result = _evaluate(run.state, source, run.normalization, config.dtype, config.batch_size, run.mesh)
    return {"workdir": str(workdir), "checkpoint": which, "step": run.step, "data": data, **result}


def evaluate_weights(
    weights: Path,
    data: str,
    *,
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    batch_size: int | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """{"model", "weights", "data", "loss", "accuracy", "count"} of imported weights.

    weights: a file or checkpoint directory, as `load_weights` takes it. data: as for `evaluate_run`. model_name,
    model_args: what the weights do not tell. mean, std: of the channels, in [0, 1], instead of those that travel with
    the weights. batch_size: 128 if None. data_dir: where TFDS's sets are, None: its own default.
    Raises UserError (a ValueError) if the weights do not fit, or nothing tells how images are prepared;
    NonFiniteError if the loss is not finite.
    """
    batch_size = 128 if batch_size is None else batch_size
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    opened, model, info = describe_weights(weights, model_name, model_args or {})
    if model.num_classes is None:
        raise UserError(f"{weights} has no head: there is nothing to evaluate")
    preprocess = _preprocess(weights, info, mean, std)
    source = open_images(data, info.class_names, model.num_classes, preprocess, data_dir or "")
    mesh = make_mesh()
    variables, _ = import_state_dict(weights, opened, model, "strict")
    state = create_train_state(model, variables, optax.identity())
    state = jax.device_put(state, replicated(mesh))
    normalization = Normalization(np.asarray(preprocess.mean), np.asarray(preprocess.std))
    result = _evaluate(state, source, normalization, model.dtype, batch_size, mesh)
    return {"model": info.model, "weights": str(weights), "data": data, **result}


def open_images(
    data: str,
    class_names: tuple[str, ...],
    num_classes: int,
    preprocess: Preprocess,
    data_dir: str = "",
    image_size: int = 0,
) -> ImageSource:
    """The images that --data names, resized and cropped by `preprocess`, labelled as the model labels them.

    class_names: the model's, empty if unknown. data_dir, image_size: of a data set by name, as in `load_source`.
    Raises UserError (a ValueError) if there are none, or their classes are not the model's.
    """
    name, _, split = data.removeprefix("tfds:").partition(":")
    folder = expand(data)
    source: ImageSource
    if name in SOURCES:
        source = load_source(name, split or "test", data_dir=data_dir, image_size=image_size)
        if class_names and source.num_classes == len(class_names) and source.class_names != class_names:
            raise UserError(
                f"--data {data} has the classes {', '.join(source.class_names[:3])} ..., the model "
                f"{', '.join(class_names[:3])} ...: they must be the same"
            )
        if preprocess.resize is not None or preprocess.crop is not None:
            source = LazySource(_PreparedImages(source.images, preprocess), source.labels, source.class_names)
    elif folder.is_dir() and not data.startswith("tfds:"):
        source = load_folder(folder, preprocess, class_names=_folder_names(folder, class_names))
    else:
        raise UserError(f"--data {data!r} must be a folder or tfds:NAME[:SPLIT] with NAME one of {', '.join(SOURCES)}")
    if source.num_classes != num_classes:
        raise UserError(f"--data {data} has {source.num_classes} classes, the model {num_classes}")
    return source


def _folder_names(folder: Path, class_names: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the folder's class folders are named after: ImageNet's are WordNet ids, in the order of its classes."""
    if class_names == imagenet_names() and (any(folder.glob("n[0-9]*"))):
        return imagenet_wordnet_ids()
    return class_names or None


@dataclass(frozen=True)
class _PreparedImages:
    """Images in memory, resized and cropped when they are asked for."""

    images: Images
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.images.shape[0], *self[np.zeros(1, np.int64)].shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self.preprocess.pixels(Image.fromarray(image)) for image in self.images[indices]])


def _preprocess(weights: Path, info: WeightsInfo, mean: Channels | None, std: Channels | None) -> Preprocess:
    """How images are prepared for the weights: as they tell, with `mean` and `std` where those are given."""
    if info.preprocess is not None:
        return replace(info.preprocess, mean=mean or info.preprocess.mean, std=std or info.preprocess.std)
    if mean is None or std is None:
        raise UserError(
            f"{weights} does not tell how its images were prepared: give --mean and --std, or convert with --preprocess"
        )
    return replace(AS_THEY_ARE, mean=mean, std=std)


def _evaluate(
    state: TrainState, source: ImageSource, normalization: Normalization, dtype: str, batch_size: int, mesh: Mesh
) -> dict[str, float | int]:
    num_devices = mesh.devices.size
    batch_size = -(-batch_size // num_devices) * num_devices  # a run may have had other devices
    batches = eval_batches(source, batch_size, jax.process_index(), jax.process_count())
    result = evaluate(compile_eval_fn(normalization, dtype, mesh), state, batches, mesh)
    if not math.isfinite(result["loss"]):
        raise NonFiniteError(f"the loss is {result['loss']}: the weights are not finite, or not those of this model")
    return result
