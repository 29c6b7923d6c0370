"""The evaluate command: a trained run's loss and accuracy on its own test images, or on others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.config import config_from_dict
from resnet_jax.data.batches import eval_batches
from resnet_jax.data.sources import SOURCES, Source, load_source
from resnet_jax.errors import UserError
from resnet_jax.models import ResNet
from resnet_jax.training.checkpoint import open_best, open_newest
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import Normalization, build_model, compile_eval_fn, initial_state, load_split
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.steps import TrainState
from resnet_jax.training.workdir import read_config


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


def evaluate_run(workdir: Path, data: str | None = None, which: str = "newest") -> dict[str, Any]:
    """{"workdir", "checkpoint", "step", "data", "loss", "accuracy", "count"} of a run's weights.

    data: "[tfds:]NAME[:SPLIT]", a data set with as many classes; None is the run's own test set.
    which: "newest" or "best" (by validation accuracy).
    Raises UserError (a ValueError) if there is no such run, checkpoint or data.
    """
    run = restore_run(workdir, which)
    config = run.config
    source = load_split(config, "test") if data is None else _load(data, config)
    if source.num_classes != len(run.class_names):
        raise UserError(
            f"--data {data} has {source.num_classes} classes, the model in {workdir} {len(run.class_names)}"
        )
    if run.normalization.mean.ndim == 3 and run.normalization.mean.shape != source.images.shape[1:]:
        raise UserError(
            f"the run in {workdir} subtracts a mean image of shape {run.normalization.mean.shape}; "
            f"--data {data} has images of shape {source.images.shape[1:]}"
        )
    eval_fn = compile_eval_fn(run.normalization, config.dtype, run.mesh)
    num_devices = run.mesh.devices.size
    batch_size = -(-config.batch_size // num_devices) * num_devices  # the run may have had other devices
    batches = eval_batches(source, batch_size, jax.process_index(), jax.process_count())
    result = evaluate(eval_fn, run.state, batches, run.mesh)
    data = data or f"{config.dataset}:test"
    return {"workdir": str(workdir), "checkpoint": which, "step": run.step, "data": data, **result}


def _load(data: str, config: ConfigDict) -> Source:
    name, _, split = data.removeprefix("tfds:").partition(":")
    if name not in SOURCES:
        raise UserError(f"--data {data!r} must be [tfds:]NAME[:SPLIT] with NAME one of {', '.join(SOURCES)}")
    return load_source(name, split or "test", data_dir=config.data_dir, image_size=config.image_size)
