"""A trained network for predictions: a run's, or imported weights', and how images are prepared for it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from PIL import Image

from resnet_jax.checkpoint.fallback import read_latest
from resnet_jax.checkpoint.folder import BEST_DIR, CheckpointFolder, open_best, open_latest
from resnet_jax.checkpoint.items import NUM_LOOKS
from resnet_jax.data.decoding import DecodeOptions, exif_orientation, turned_upright
from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import (
    AS_THEY_ARE,
    PREPROCESS,
    Preprocess,
    Side,
    as_side,
    as_they_are,
)
from resnet_jax.data.transforms.sized import Sized
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.distributed.processes import warn
from resnet_jax.distributed.sync import broadcast_from_process_0, sync_errors
from resnet_jax.errors import DamagedCheckpointError, UserError, check_choice
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import default_image_size
from resnet_jax.training.checkpointer import restore_variables
from resnet_jax.training.experiment import Options, build_model, stored_options
from resnet_jax.training.images import Normalization
from resnet_jax.training.jit_steps import init_train_state
from resnet_jax.training.train_state import TrainState, create_train_state
from resnet_jax.training.workdir import read_config
from resnet_jax.weights.class_names import named_for
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.load import import_state_dict
from resnet_jax.weights.model_folder import hub_name


@dataclass(frozen=True)
class TrainedRun:
    """A run's model with its trained weights, and the means to feed it."""

    options: Options
    model: ResNet
    mesh: Mesh
    state: TrainState  # without the optimizer's; with the moving average, if the run keeps one
    step: int
    normalization: Normalization
    preprocess: Preprocess  # of encoded images
    image_size: Side | None  # None: the run is too old to say it
    class_names: tuple[str, ...]
    multi_label: bool  # an image may have several labels
    trained_on: str  # the digest of the training images


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights for evaluation, on every device of `mesh`, and the means to feed it.

    Attributes:
      load: reads the weights, when `state` is first asked for.
      preprocess: of encoded images.
      image_size: of the images that the network was trained with, in pixels: a side, or (height, width).
      size_is_known: it is; otherwise it is the one that the network was designed for.
      preprocess_is_known: so is how images are prepared; otherwise they are taken as they are.
      class_names: empty if unknown.
      origin: plain values for results, which say where the network comes from. apply_exif_orientation: rotate images
        as EXIF says.
      options: the run's; None of imported weights.
      multi_label: an image may have several labels: each logit's sigmoid is the probability of one.
      trained_on: the digest of the images that a run trained on; "" of imported weights.
    """

    model: ResNet
    load: Callable[[], TrainState]
    mesh: Mesh
    normalization: Normalization
    preprocess: Preprocess
    image_size: Side
    class_names: tuple[str, ...]
    origin: dict[str, Any]
    apply_exif_orientation: bool = False
    options: Options | None = None
    multi_label: bool = False
    size_is_known: bool = True
    preprocess_is_known: bool = True
    trained_on: str = ""

    @property
    def decode(self) -> DecodeOptions:
        """How image files become pixels: as for the run's images."""
        if self.options is not None:
            return self.options.images.decode()
        return DecodeOptions(self.preprocess.num_channels, self.preprocess.high_bit_depth)

    @cached_property
    def state(self) -> TrainState:
        """The train state without the optimizer's part; its variables are the moving average if that was asked for.

        Raises:
          UserError: if imported weights do not fit the model.
        """
        return self.load()

    @property
    def num_classes(self) -> int:
        """How many classes the network distinguishes."""
        assert self.model.num_classes is not None
        return self.model.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the result of `pixels`."""
        return self.sized.image_shape

    @property
    def sized(self) -> Sized:
        """Does as `pixels`."""
        return Sized(self.preprocess, self.preprocess.crop or self.preprocess.resize or self.image_size)

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns `image` as the network gets it, before the normalisation: `input_shape` uint8, whatever its size.

        It is prepared as in evaluation, a picture of Pillow's rotated as EXIF says if evaluation does that. If
        evaluation takes images as they are, small ones are enlarged pixel by pixel as for training, and others resized
        and cropped to the size that the network was trained with.
        """
        if self.apply_exif_orientation and isinstance(image, Image.Image):
            image = turned_upright(self.sized.read(image), exif_orientation(image))
        return self.sized.pixels(image)

    def class_name(self, label: int) -> str:
        """Returns the class's name, or its number if names are unknown."""
        return self.class_names[label] if self.class_names else f"class {label}"


def open_run(workdir: Path, which: str = "newest", *, average: bool = True) -> TrainedModel:
    """Returns the network of the run in `workdir`, with its "newest" weights or its "best" on the validation images.

    Args:
      average: take the moving average of the weights, if the run keeps one.

    Raises:
      UserError: if there is no such run or checkpoint, or no average to leave out.
    """
    run = restore_run(workdir, which)
    if not average and run.state.averaging is None:
        raise UserError(f"the run in {workdir} keeps no moving average: leave out --no_average")
    average = average and run.state.averaging is not None
    mean = run.normalization.mean
    known = run.image_size or run.options.images.image_size
    if mean.ndim == 3:
        known = as_side(*mean.shape[:2])
    return TrainedModel(
        run.model,
        run.state.averaged if average else lambda: run.state,
        run.mesh,
        run.normalization,
        run.preprocess,
        known or default_image_size(run.options.model.model),
        run.class_names,
        {"workdir": str(workdir), "checkpoint": which, "step": run.step, "average": average},
        apply_exif_orientation=run.options.images.exif_rotation,
        options=run.options,
        multi_label=run.multi_label,
        size_is_known=bool(known),
        trained_on=run.trained_on,
    )


def open_weights(
    weights: Path,
    *,
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    adjustment: Adjustment | None = None,
    judges: bool = True,
) -> TrainedModel:
    """Returns the network of imported weights: a file or checkpoint directory, as `load_weights` takes it.

    Args:
      model_name, model_args: facts that the weights do not give.
      preprocess: a name in PREPROCESS, instead of the weights' own; it brings its data set's class names if the
        weights have none.
      adjustment: of either, by hand; with mean and std it is enough if nothing else is known.
      judges: False if the caller does not need to know how images are prepared.

    Raises:
      UserError: if the weights have no head, or nothing says which model they are of and how images are prepared.
    """
    if preprocess is not None:
        check_choice("preprocess", preprocess, PREPROCESS)
    state_dict, model, info = describe_weights(weights, model_name, model_args or {})
    if model.num_classes is None:
        raise UserError(f"{weights} has no head: there is nothing to judge images by")
    class_names = info.class_names
    if preprocess is not None:
        info = replace(info, preprocess=PREPROCESS[preprocess])
        class_names = class_names or named_for(weights, preprocess, model.num_classes)
    adjustment = adjustment or Adjustment()
    is_known = info.preprocess is not None or bool(adjustment.mean and adjustment.std)
    prepared = adjustment.prepare(weights, info.preprocess) if judges or is_known or adjustment else AS_THEY_ARE
    num_channels = prepared.num_channels if judges else None
    mesh = make_mesh()

    def load() -> TrainState:
        variables, _ = import_state_dict(weights, state_dict, model, "strict", num_channels)
        return jax.device_put(create_train_state(model, variables, optax.identity()), replicated(mesh))

    assert info.model is not None
    return TrainedModel(
        model,
        load,
        mesh,
        Normalization(np.asarray(prepared.mean), np.asarray(prepared.std)),
        prepared,
        info.image_size or default_image_size(info.model),
        class_names,
        {
            "model": info.model,
            "weights": hub_name(weights) or str(weights),
            **(asdict(state_dict.taken) if state_dict.taken else {}),
        },
        apply_exif_orientation=info.exif_rotation,
        multi_label=info.multi_label,
        size_is_known=info.image_size is not None,
        preprocess_is_known=judges or is_known,
    )


def restore_run(workdir: Path, which: str = "newest") -> TrainedRun:
    """Returns the run in `workdir` with its "newest" weights, or its "best" on the validation images.

    Raises:
      UserError: if there is no such run or checkpoint.
    """
    options = stored_options(sync_errors(lambda: read_config(workdir)))
    mesh = make_mesh()
    checkpoints, others = open_latest(workdir), open_best(workdir)
    if which == "best":
        checkpoints, others = others, checkpoints
    try:
        position, state, step = _restore(checkpoints, others, options, mesh)
    except DamagedCheckpointError as error:
        remedy = "bring it back from a copy, or train anew in another --workdir"
        if others.steps():
            other = "newest" if which == "best" else "best"
            remedy = f"give --checkpoint {other}, or train on, which sets the damaged one aside"
        raise UserError(f"{error}; {remedy}") from error
    class_names = tuple(position["class_names"])
    model = build_model(options, len(class_names))
    stored = position["preprocess"]
    return TrainedRun(
        options,
        model,
        mesh,
        state,
        step,
        Normalization.from_json(position["normalization"]),
        Preprocess.from_json(stored) if stored else as_they_are(options.images.channels),
        as_side(*position["image_size"]) if "image_size" in position else None,
        class_names,
        position.get("multi_label", False),  # of one label an image it is not written
        position.get("train_digest", ""),
    )


class _RemovedStepError(Exception):
    """The run has saved another step meanwhile, and removed this one."""


def _restore(
    checkpoints: CheckpointFolder, others: CheckpointFolder, options: Options, mesh: Mesh
) -> tuple[Any, TrainState, int]:
    """Returns the position and state of the last step that is what was saved, and its number; a run may be saving
    meanwhile.
    """

    def read(folder: CheckpointFolder, step: int) -> tuple[Any, TrainState, int]:
        position = folder.position(step)
        model = build_model(options, len(position["class_names"]))
        return position, _restore_variables(folder, step, model, options, mesh), step

    def on_damaged(folder: CheckpointFolder, step: int, error: DamagedCheckpointError) -> None:
        steps = folder.steps()
        if step not in steps:
            raise _RemovedStepError
        if step == steps[0]:
            raise error
        warn(f"{error}; the step before is taken")

    for _ in range(NUM_LOOKS):
        try:
            restored = read_latest([checkpoints], read, on_damaged)
        except _RemovedStepError:
            continue
        if restored is not None:
            return restored
        break
    raise UserError(f"{checkpoints.directory} holds no checkpoint{_remedy(checkpoints, others)}")


def _remedy(checkpoints: CheckpointFolder, others: CheckpointFolder) -> str:
    lost, has_others = broadcast_from_process_0(checkpoints.lost_step), bool(others.steps())
    other = f"--checkpoint {'best' if others.directory.name == BEST_DIR else 'newest'}"
    if lost is None and not has_others:
        return "; train the run first"
    if lost is None:
        return f"; give {other}"
    return f", where this run saved step {lost}: bring it back{f', or give {other}' if has_others else ''}"


def _restore_variables(
    checkpoints: CheckpointFolder, step: int, model: ResNet, options: Options, mesh: Mesh
) -> TrainState:
    """Returns the state of `step` without the optimizer's part, replicated on the mesh; nothing is drawn or
    compiled.
    """
    template = init_train_state(model, optax.identity(), options, mesh, shapes_only=True)
    restored = restore_variables(checkpoints, template, step)
    start = np.zeros((), template.step.dtype)
    return restored.replace(step=jax.make_array_from_callback((), template.step.sharding, lambda index: start[index]))
