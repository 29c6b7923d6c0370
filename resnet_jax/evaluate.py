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

from resnet_jax.config import config_from_dict
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.folder import scan_folder
from resnet_jax.data.source import ArraySource, Source
from resnet_jax.data.sources import Reading, load_source, split_names
from resnet_jax.data.transforms import Preprocess, TenCrop
from resnet_jax.describe import describe_weights
from resnet_jax.errors import NonFiniteError, UserError
from resnet_jax.models import ResNet
from resnet_jax.paths import expand
from resnet_jax.training.agreement import together
from resnet_jax.training.checkpoint import CheckpointFolder, open_best, open_newest, warn_of_damage
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import build_model
from resnet_jax.training.images import Normalization, load_judging_images, make_reading
from resnet_jax.training.interruption import Interruption
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.programs import compile_eval_fn, initial_state
from resnet_jax.training.state import TrainState, create_train_state
from resnet_jax.training.workdir import read_config
from resnet_jax.weights.directory import NUM_LOOKS
from resnet_jax.weights.info import WeightsInfo, imagenet_names, imagenet_wordnet_ids
from resnet_jax.weights.load import import_state_dict
from resnet_jax.weights.manifest import DamagedCheckpointError

Channels = tuple[float, float, float]
# Images as they are: nothing but the normalisation, which happens on the device, is left to do.
AS_THEY_ARE = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Sets that --data knows without tfds: before their names.
PLAIN_NAMES = ("digits", "cifar10", "cifar100")


@dataclass(frozen=True)
class TrainedRun:
    """A run's model with its trained weights, and what it takes to feed it."""

    config: ConfigDict
    model: ResNet
    mesh: Mesh
    state: TrainState  # without the optimizer's; with the moving average, if the run keeps one
    step: int
    normalization: Normalization
    preprocess: Preprocess  # of encoded images
    class_names: tuple[str, ...]


def restore_run(workdir: Path, which: str = "newest") -> TrainedRun:
    """The run in `workdir` with its "newest" weights, or its "best" by validation accuracy.

    Raises UserError (a ValueError) if there is no such run or checkpoint.
    """
    config = config_from_dict(together(lambda: read_config(workdir)))
    mesh = make_mesh()
    checkpoints = open_best(workdir) if which == "best" else open_newest(workdir)
    position, state, step = _restore(checkpoints, config, mesh)
    class_names = tuple(position["class_names"])
    model = build_model(config, len(class_names))
    stored = position["preprocess"]
    return TrainedRun(
        config,
        model,
        mesh,
        state,
        step,
        Normalization.from_json(position["normalization"]),
        Preprocess.from_json(stored) if stored else AS_THEY_ARE,
        class_names,
    )


def _restore(checkpoints: CheckpointFolder, config: ConfigDict, mesh: Mesh) -> tuple[Any, TrainState, int]:
    """The position and state of the last step that is what was saved, and its number; a run may be saving meanwhile."""
    for _ in range(NUM_LOOKS):
        steps = checkpoints.steps()
        if not steps:
            break
        for step in reversed(steps):
            try:
                position = checkpoints.position(step)
                model = build_model(config, len(position["class_names"]))
                template = initial_state(model, optax.identity(), config, mesh)
                return position, checkpoints.restore_variables(template, step), step
            except DamagedCheckpointError as error:
                if step not in checkpoints.steps():  # the run has saved another one and removed it
                    break
                if step == steps[0]:
                    raise
                warn_of_damage(error, "the step before is taken")
    raise UserError(f"{checkpoints.directory} holds no checkpoint; train the run first")


def evaluate_run(
    workdir: Path,
    data: str | None = None,
    which: str = "newest",
    data_dir: str | None = None,
    *,
    ten_crop: bool = False,
    average: bool = True,
) -> dict[str, Any]:
    """{"workdir", "checkpoint", "step", "average", "data", "loss", "accuracy", "count"} of a run's weights.

    data: a folder or tar of class folders, or "tfds:NAME[:SPLIT]", of the run's classes; None is the run's own test
    set, or its validation images if it has none. which: "newest" or "best" (by validation accuracy). data_dir: where
    the run's images or TFDS's sets are, None: where the run had them. ten_crop: average ten views (`TenCrop`).
    average: take the moving average of the weights, if the run keeps one.
    Raises UserError (a ValueError) if there is no such run, checkpoint or data.
    """
    run = restore_run(workdir, which)
    if not average and run.state.averaging is None:
        raise UserError(f"the run in {workdir} keeps no moving average: leave out --no_average")
    config, mean = run.config, run.normalization.mean
    if data_dir is not None:
        config.data_dir = data_dir
    size = config.image_size if run.preprocess == AS_THEY_ARE else 0  # to which only images in memory are enlarged
    reading = replace(
        make_reading(config), image_size=size, preprocess=TenCrop(run.preprocess) if ten_crop else run.preprocess
    )
    if data is None:
        source, split = load_judging_images(config, reading)
        data = f"{config.dataset}:{split}"
        if source.class_names != run.class_names:
            raise UserError(
                f"{data} has the classes {', '.join(source.class_names[:3])} …, the run in {workdir} "
                f"{', '.join(run.class_names[:3])} …: they must be the same"
            )
    else:
        source = open_images(data, run.class_names, len(run.class_names), reading)
    if mean.ndim == 3 and mean.shape != source.image_shape:
        raise UserError(
            f"the run in {workdir} subtracts a mean image of shape {mean.shape}; "
            f"--data {data} has images of shape {source.image_shape}"
        )
    average = average and run.state.averaging is not None
    state = run.state.averaged() if average else run.state
    result = _evaluate(state, source, run.normalization, config.dtype, config.batch_size, run.mesh)
    return {"workdir": str(workdir), "checkpoint": which, "step": run.step, "average": average, "data": data, **result}


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
    ten_crop: bool = False,
) -> dict[str, Any]:
    """{"model", "weights", "data", "loss", "accuracy", "count"} of imported weights.

    weights: a file or checkpoint directory, as `load_weights` takes it. data: as for `evaluate_run`. model_name,
    model_args: what the weights do not tell. mean, std: of the channels, in [0, 1], instead of those that travel with
    the weights. batch_size: 128 if None. data_dir: where TFDS's sets are, None: its own default. ten_crop: average ten
    views (`TenCrop`).
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
    reading = Reading(data_dir or "", preprocess=TenCrop(preprocess) if ten_crop else preprocess)
    source = open_images(data, info.class_names, model.num_classes, reading)
    mesh = make_mesh()
    variables, _ = import_state_dict(weights, opened, model, "strict")
    state = create_train_state(model, variables, optax.identity())
    state = jax.device_put(state, replicated(mesh))
    normalization = Normalization(np.asarray(preprocess.mean), np.asarray(preprocess.std))
    result = _evaluate(state, source, normalization, model.dtype, batch_size, mesh)
    return {"model": info.model, "weights": str(weights), "data": data, **result}


def open_images(data: str, class_names: tuple[str, ...], num_classes: int, reading: Reading) -> Source:
    """The images that --data names, labelled as the model labels them.

    class_names: the model's, empty if unknown. Raises UserError (a ValueError) if there are none, or their classes are
    not the model's.
    """
    name, split = _data_set(data)
    folder = expand(data)
    source: Source
    if data.startswith("tfds:") or name in PLAIN_NAMES:
        if not split:
            split = "test" if "test" in split_names(name, reading.data_dir) else "validation"
        source = load_source(name, split, reading)
        if class_names and source.num_classes <= len(class_names):
            source = _labelled_as(source, class_names, data)
        if isinstance(source, ArraySource) and reading.preprocess.changes_pixels:
            source = replace(source, preprocess=reading.preprocess)
    elif folder.exists():
        source = reading.source(scan_folder(folder).images(class_names=_stored_names(folder, class_names)))
    else:
        raise UserError(f"--data {data!r} must be a folder, a tar or tfds:NAME[:SPLIT], for example tfds:cifar10:test")
    if source.num_classes != num_classes:
        raise UserError(f"--data {data} has {source.num_classes} classes, the model {num_classes}")
    return source


def _data_set(data: str) -> tuple[str, str]:
    """(name, split) of [tfds:]NAME[:VERSION][:SPLIT]; the split may be empty."""
    name, *rest = data.removeprefix("tfds:").split(":")
    split = rest.pop() if rest and rest[-1].isalpha() else ""
    return ":".join([name, *rest]), split


def _labelled_as(source: Source, class_names: tuple[str, ...], data: str) -> Source:
    """`source` with the labels that `class_names` give its classes."""
    names = class_names
    if class_names == imagenet_names() and not {*source.class_names} & {*class_names}:
        names = imagenet_wordnet_ids()
    if source.class_names == names:
        return source
    unknown = [name for name in source.class_names if name not in names]
    if unknown or not isinstance(source, EncodedSource):
        raise UserError(
            f"--data {data} has the classes {', '.join(source.class_names[:3])} ..., the model "
            f"{', '.join(class_names[:3])} ...: they must be the same"
        )
    labels = np.array([names.index(name) for name in source.class_names], np.int32)
    return replace(source, class_names=class_names, relabel=labels)


def _stored_names(folder: Path, class_names: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the folder's class folders are named after: ImageNet's are WordNet ids, in the order of its classes."""
    if class_names == imagenet_names() and any(folder.glob("n[0-9]*")):
        return imagenet_wordnet_ids()
    return class_names or None


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
    state: TrainState, source: Source, normalization: Normalization, dtype: str, batch_size: int, mesh: Mesh
) -> dict[str, float | int]:
    num_devices = mesh.devices.size
    batch_size = -(-batch_size // num_devices) * num_devices  # a run may have had other devices
    batches = EvalBatches(source, batch_size, jax.process_index(), jax.process_count())
    interruption = Interruption(jax.process_count())
    eval_fn = interruption.watch(compile_eval_fn(normalization, dtype, mesh), mesh)
    result = evaluate(eval_fn, state, batches, mesh, interruption)
    if not math.isfinite(result["loss"]):
        raise NonFiniteError(f"the loss is {result['loss']}: the weights are not finite, or not those of this model")
    return result
