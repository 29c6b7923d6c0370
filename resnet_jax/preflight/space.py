"""Checks that a run's files fit the disk, and its step the memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from resnet_jax.checkpoint.folder import NUM_LATEST_KEPT
from resnet_jax.formatting import format_bytes
from resnet_jax.preflight.devices import device_memory
from resnet_jax.preflight.finding import Finding, error, ok, warning
from resnet_jax.preflight.memory import estimate_memory, num_bytes, state_bytes
from resnet_jax.runtime import free_memory
from resnet_jax.training.jit_steps import init_run_state

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Experiment

# Of a record of numbers: in metrics.jsonl, as TensorBoard's events, and in the picture.
BYTES_A_RECORD = 1024


def check_disk(
    experiment: "Experiment", workdir: Path, *, counts_known: bool, to_prepare: bool = False
) -> Iterator[Finding]:
    """Yields the free disk where `workdir` will lie.

    Args:
      counts_known: the experiment has the run's own number of steps.
      to_prepare: the images are yet to be prepared.
    """
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    num_checkpoints, one = checkpoints(experiment)
    logs = experiment.num_steps // experiment.log_every_steps * BYTES_A_RECORD if counts_known else 0
    there = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file()) if workdir.is_dir() else 0
    needed = max(num_checkpoints * one + logs - there, one)
    free = shutil.disk_usage(existing).free
    log = f", the log {format_bytes(logs)}" if counts_known else ""
    images = "; the images, which are yet to be prepared, are not counted" if to_prepare else ""
    found = (
        f"{format_bytes(free)} free in {existing}, {format_bytes(needed)} needed: {num_checkpoints} checkpoints of "
        f"{format_bytes(one)}{log}{images}"
    )
    if free < needed:
        yield error("disk", found, "free some, or choose another --workdir")
    else:
        yield ok("disk", found)


def checkpoints(experiment: "Experiment") -> tuple[int, int]:
    """Returns how many checkpoints lie on the disk at most, one that is being written included, and the bytes of
    one.
    """
    state = init_run_state(experiment, shapes_only=True)
    judged = num_bytes((state.batch_stats, state.ema_batch_stats)) if experiment.options.state.precise_bn_batches else 0
    return NUM_LATEST_KEPT + 1 + (experiment.validation is not None), state_bytes(state) + judged


def check_memory(experiment: "Experiment") -> Iterator[Finding]:
    """Yields the finding on free memory against a step's need."""
    devices = jax.devices()
    step = estimate_memory(experiment)
    free, where, needed = device_memory(devices[0]), "each device", step.total
    if devices[0].platform == "cpu":
        free, where, needed = free_memory(), "main memory", step.total * len(devices)
    found = (
        f"{format_bytes(needed)} needed of {where}: state and gradients "
        f"{format_bytes(step.total - step.activations - step.images)}, activations {format_bytes(step.activations)}"
    )
    if free is None:
        yield ok("memory", f"{found}; how much is free is not told")
    elif needed > free:
        yield warning(
            "memory",
            f"{format_bytes(free)} free, {found}",
            f"lower config.batch_size={experiment.batches.batch_size}, or raise config.accumulation_steps="
            f"{experiment.batches.num_parts}",
        )
    else:
        yield ok("memory", f"{format_bytes(free)} free, {found}")
