"""The training loop against its bare compiled step."""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.cli.printing import print_result
from resnet_jax.config import default_config
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.errors import UserError
from resnet_jax.models.variants import default_image_size
from resnet_jax.training.experiment import Experiment, build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state, jit_train_step
from resnet_jax.training.run import train

NUM_BATCHES = 50


def measure_loop(
    model: str, batch_size: int, image_size: int | None = None, num_steps: int = 12, num_pairs: int = 7
) -> dict[str, Any]:
    """Images a second of the bare step and of the loop around it, measured in turn.

    The bare step trains on one batch that lies on the device; the loop is a whole run on the enlarged digits, from
    which evaluation, saving and compiling are left out, as in its own images/s. Returns {"model", "batch_size",
    "image_size", "num_steps", "bare", "loop": medians in images/s, "ratio": median of loop / bare pair by pair,
    "batch_share": of a bare step's time, what making a batch of images in memory and bringing it to the device takes}.
    Raises UserError (a ValueError) for what cannot be measured.
    """
    if num_pairs < 1:
        raise UserError(f"num_pairs={num_pairs} must be at least 1")
    image_size = default_image_size(model) if image_size is None else image_size
    if image_size < 1:
        raise UserError(f"image_size={image_size} must be a positive multiple of 8")
    config = _config(model, batch_size, image_size, num_steps)
    experiment = build_experiment(options_of(config))
    pairs = [(_bare_rate(experiment), _loop_rate(config)) for _ in range(num_pairs)]
    bare = statistics.median(bare for bare, _ in pairs)
    return {
        "model": model,
        "batch_size": batch_size,
        "image_size": config.image_size,
        "num_steps": num_steps,
        "bare": bare,
        "loop": statistics.median(loop for _, loop in pairs),
        "ratio": statistics.median(loop / bare for bare, loop in pairs),
        "batch_share": _seconds_per_batch(experiment) * bare / batch_size,
    }


def _config(model: str, batch_size: int, image_size: int, num_steps: int) -> ConfigDict:
    config = default_config()
    config.model = model
    config.dataset = "digits"
    config.image_size = image_size
    config.batch_size = batch_size
    config.num_steps = num_steps
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.log_every_steps = num_steps
    config.checkpoint_every_steps = num_steps
    return config


def _bare_rate(experiment: Experiment) -> float:
    mesh, batch_size = experiment.mesh, experiment.batches.batch_size
    state = init_run_state(experiment)
    step = jit_train_step(experiment)
    batch = shard_batch(experiment.batches[0], mesh)
    state, _ = jax.block_until_ready(step(state, batch))  # compiles
    started = time.perf_counter()
    for _ in range(experiment.num_steps - 1):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    return (experiment.num_steps - 1) * batch_size / (time.perf_counter() - started)


def _seconds_per_batch(experiment: Experiment) -> float:
    seconds = []
    for step in range(NUM_BATCHES):
        started = time.perf_counter()
        jax.block_until_ready(shard_batch(experiment.batches[step], experiment.mesh))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _loop_rate(config: ConfigDict) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = train(options_of(config), Path(folder) / "run", "benchmark")
    if result.interrupted_by:
        raise KeyboardInterrupt
    return next(record["images_per_second"] for record in result.records if "images_per_second" in record)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, help="default: the model's")
    parser.add_argument("--steps", type=int, default=12, help="of a run (default: 12)")
    parser.add_argument("--pairs", type=int, default=7, help="of runs (default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        shapes = (arguments.model, arguments.batch_size, arguments.image_size)
        return print_result(measure_loop(*shapes, arguments.steps, arguments.pairs), arguments.json)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
