"""A network's checkpoint: how long a save takes, and for how much of it the training loop stands still."""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from resnet_jax.checkpoint.background_writer import BackgroundWriter
from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.checkpoint.manifest import leaf_digests
from resnet_jax.cli.printing import print_result
from resnet_jax.config import default_config
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import UserError
from resnet_jax.models.variants import create_model
from resnet_jax.storage import open_workdir
from resnet_jax.training.checkpointer import restore_state, save_state
from resnet_jax.training.experiment import options_of
from resnet_jax.training.jit_steps import init_train_state
from resnet_jax.training.optimizer import sgd


def measure_saving(
    model: str, num_saves: int = 7, folder: Path | None = None, address: str | None = None
) -> dict[str, Any]:
    """Seconds for saving and restoring the train state of a network with momentum, on the disk of `folder`.

    folder: None for the system's own for temporary files. address: instead, as a run in a bucket. Returns medians over
    num_saves saves, each of which is waited for: {"model", "bytes", "save": from the call to the committed checkpoint,
    "blocked": of it, how long the call itself takes, in which the loop stands still, "first_blocked": the same in the
    first save, which allocates the copy, "hash": how long digests take by themselves (they are computed in the
    background, beside writing), "restore": reading, with the comparison of the digests, "blocked_share", "hash_share":
    of "save"}.
    Raises UserError (a ValueError) if num_saves is below 1.
    """
    if num_saves < 1:
        raise UserError(f"num_saves={num_saves} must be at least 1")
    options = options_of(default_config())
    state = init_train_state(
        create_model(model), sgd(options.optimizer.learning_rate, momentum=0.9), options, make_mesh()
    )
    blocked, saved, hashed, restored = [], [], [], []
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        open_workdir(address or name) as place,
        BackgroundWriter() as saves,
    ):
        latest = open_latest(place.path, place.publish)
        for step in range(1, num_saves + 2):
            state = jax.block_until_ready(state.replace(step=state.step + 1))
            started = time.perf_counter()
            save_state(latest, saves, state, {})
            blocked.append(time.perf_counter() - started)
            saves.wait()
            saved.append(time.perf_counter() - started)
            copy = saves.copy(state)
            started = time.perf_counter()
            leaf_digests(copy)
            hashed.append(time.perf_counter() - started)
            started = time.perf_counter()
            jax.block_until_ready(restore_state(latest, state, step))
            restored.append(time.perf_counter() - started)
    save, block, digests = (statistics.median(seconds[1:]) for seconds in (saved, blocked, hashed))
    return {
        "model": model,
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "save": save,
        "blocked": block,
        "first_blocked": blocked[0],
        "hash": digests,
        "restore": statistics.median(restored[1:]),
        "blocked_share": block / save,
        "hash_share": digests / save,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--saves", type=int, default=7, help="how many (default: 7)")
    parser.add_argument("--folder", type=Path, help="on whose disk (default: that of temporary files)")
    parser.add_argument("--address", help="instead, in a bucket: s3://bucket/folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        result = measure_saving(arguments.model, arguments.saves, arguments.folder, arguments.address)
        return print_result(result, arguments.json)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
