"""The run that is broken off again and again: tiny, saved every few steps, with all that a checkpoint can hold."""

import os
import sys
from functools import cache
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
from processes import TINY, end, records, start, start_many

from resnet_jax.checkpoint.folder import digest, open_best, open_latest
from resnet_jax.config import load_config
from resnet_jax.training.checkpointer import restore_state
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state

__all__ = [
    "ENVIRONMENT",
    "NUM_STEPS",
    "WORDS",
    "digest",
    "end",
    "finish",
    "latest_step",
    "load_config",
    "open_latest",
    "records",
    "start",
    "start_many",
    "template",
    "whole",
]  # fmt: skip

NUM_STEPS = int(os.environ.get("RESNET_JAX_FAULTS_STEPS", "500"))
WORDS = [
    *TINY, f"--config.num_steps={NUM_STEPS}", "--config.checkpoint_every_steps=5", "--config.validation_fraction=0.1",
    "--config.ema_decay=0.9", "--config.augment.flip=True", "--config.model_args.dropout=0.1",
    "--config.log_every_steps=7", "--config.test_every_epochs=5",
]  # fmt: skip
# A process that waits for one that is dead gives up in seconds instead of minutes.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "RESNET_JAX_HEARTBEAT_SECONDS": "10", "RESNET_JAX_START_SECONDS": "20",
}  # fmt: skip


def finish(workdir, num_processes=1):
    """Run to the end in so many processes, which must succeed."""
    words = [*WORDS, "--workdir", workdir]
    if num_processes == 1:
        processes = [start(*words, environment=ENVIRONMENT)]
    else:
        processes = start_many(num_processes, *words, environment=ENVIRONMENT)
    results = [end(process) for process in processes]
    assert [code for code, *_ in results] == [0] * num_processes, results
    return results


def latest_step(workdir):
    """The last step that has its own name in checkpoints/; 0 if there is none."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


@cache
def template():
    """A train state of the run."""
    config = load_config("digits", [word for word in WORDS if word.startswith("--config.")])
    return init_run_state(build_experiment(options_of(config), jax.devices()[:1]))


def whole(workdir):
    """All that must be equal in two runs that ended: the log but for its timings, and every state that was saved.

    A state is told by its own digest, after it was checked against those saved with it.
    """
    saved = {}
    for checkpoints in (open_latest(workdir), open_best(workdir)):
        for step in checkpoints.steps():
            state = restore_state(checkpoints, template(), step)
            saved[checkpoints.directory.name, step] = digest(state), checkpoints.position(step)
    return records(workdir), saved
