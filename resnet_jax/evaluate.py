"""The evaluate command: a trained run's loss and accuracy on its own test images, or on others."""

from pathlib import Path
from typing import Any

import optax

from resnet_jax.config import config_from_dict
from resnet_jax.data.batches import eval_batches
from resnet_jax.data.sources import SOURCES, Source, load_source
from resnet_jax.errors import UserError
from resnet_jax.training.checkpoint import open_best, open_newest
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import Normalization, build_model, compile_eval_fn, initial_state, load_split
from resnet_jax.training.mesh import check_batch_size, make_mesh
from resnet_jax.training.workdir import read_config


def evaluate_run(workdir: Path, data: str | None = None, which: str = "newest") -> dict[str, Any]:
    """{"workdir", "checkpoint", "step", "data", "loss", "accuracy", "count"} of a run's weights.

    data: "tfds:NAME[:SPLIT]" or "NAME[:SPLIT]" of a data set with as many classes; None is the run's own test set.
    which: "newest" or "best" (by validation accuracy).
    Raises UserError (a ValueError) if there is no such run, checkpoint or data.
    """
    config = config_from_dict(read_config(workdir))
    mesh = make_mesh()
    check_batch_size(config.batch_size, mesh)
    open_checkpoints = open_best if which == "best" else open_newest
    with open_checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.newest_step()
        if step is None:
            raise UserError(f"{checkpoints.directory} holds no checkpoint")
        position = checkpoints.position(step)
        num_classes = len(position["class_names"])
        source = load_split(config, "test") if data is None else _load(data, config.data_dir, config.image_size)
        if source.num_classes != num_classes:
            raise UserError(f"--data {data} has {source.num_classes} classes, the model in {workdir} {num_classes}")
        model = build_model(config, num_classes)
        state = checkpoints.restore_variables(initial_state(model, optax.identity(), config, mesh), step)
    eval_fn = compile_eval_fn(Normalization.from_json(position["normalization"]), config.dtype, mesh)
    result = evaluate(eval_fn, state, eval_batches(source, config.batch_size), mesh)
    return {
        "workdir": str(workdir),
        "checkpoint": which,
        "step": step,
        "data": data or f"{config.dataset}:test",
        **result,
    }


def _load(data: str, data_dir: str, image_size: int) -> Source:
    name, _, split = data.removeprefix("tfds:").partition(":")
    if name not in SOURCES:
        raise UserError(f"--data {data!r} must be [tfds:]NAME[:SPLIT] with NAME one of {', '.join(SOURCES)}")
    return load_source(name, split or "test", data_dir=data_dir, image_size=image_size)
