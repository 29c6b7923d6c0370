"""Checkpoints by Orbax: the newest in `checkpoints/`, the best in `best/`.

A checkpoint has the items `variables` (parameters and statistics), `average` (those of the moving average, if the run
keeps one), `judged` (the statistics computed anew before the model was judged, if they are), `optimizer` (step and
optimizer state) and `position` (a JSON dict). Orbax writes to a temporary folder and renames it, so a step is either
whole or absent; folders left by a killed run are removed when the next one opens.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from resnet_jax.errors import InterruptedRunError, NonFiniteError, UserError
from resnet_jax.training.state import TrainState
from resnet_jax.weights.directory import AVERAGE, JUDGED, VARIABLES

NEWEST_DIR = "checkpoints"
BEST_DIR = "best"
NUM_NEWEST_KEPT = 2

# The fields of a train state by the checkpoint's item.
ITEMS = {
    VARIABLES: ("params", "batch_stats"),
    AVERAGE: ("ema_params", "ema_batch_stats"),
    "optimizer": ("step", "opt_state"),
}
STATISTICS = ("batch_stats", "ema_batch_stats")

Position = dict[str, Any]


class CheckpointFolder:
    """The checkpoints in one folder, named by their step; a context manager that waits for the last save."""

    def __init__(self, directory: Path, *, num_kept: int, read_only: bool = False) -> None:
        """Opens the folder, made if need be; `num_kept` newest steps are kept."""
        logging.getLogger("absl").setLevel(logging.ERROR)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(num_kept),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            # One process reads which steps there are: two that read at two moments might resume from two of them.
            single_host_load_and_broadcast=jax.process_count() > 1,
        )
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "CheckpointFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing waits for the other processes. They come too unless this one alone has failed.
        if jax.process_count() == 1 or isinstance(error, NonFiniteError | InterruptedRunError | None):
            self._manager.close()

    def newest_step(self) -> int | None:
        """The last step that is completely written, or None."""
        step = self._manager.latest_step()
        return None if step is None else int(step)  # a broadcast one is NumPy's

    def save(
        self, state: TrainState, position: Position, *, judged: TrainState | None = None, replace: bool = False
    ) -> None:
        """Write `state` under its step, in the background; a step that is there stays, unless `replace`.

        judged: the same with the statistics by which it was judged.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if not replace:
                return
            self._manager.delete(step)
        arrays = {item: ocp.args.StandardSave(_fields(state, item)) for item in _items(state)}
        if judged is not None:
            arrays[JUDGED] = ocp.args.StandardSave(_statistics(judged))
        self._manager.save(step, args=ocp.args.Composite(**arrays, position=ocp.args.JsonSave(position)), force=True)

    def wait(self) -> None:
        """Return when everything saved is on disk; raises what a background write raised."""
        self._manager.wait_until_finished()

    def restore(self, template: TrainState, step: int) -> TrainState:
        """The state saved as `step`, placed as `template` is.

        Raises UserError (a ValueError) if the checkpoint is damaged or of another model.
        """
        return self._restore(template, step, _items(template))

    def restore_variables(self, template: TrainState, step: int) -> TrainState:
        """`template` with the parameters and statistics saved as `step`, and their moving averages if it has them,
        whatever optimizer they were saved with. The statistics are those by which the model was judged.
        """
        state = self._restore(template, step, [item for item in _items(template) if item != "optimizer"])
        if not (self.directory / str(step) / JUDGED).is_dir():
            return state
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _statistics(template))
        return state.replace(**self._read(step, {JUDGED: ocp.args.StandardRestore(target)})[JUDGED])

    def _restore(self, template: TrainState, step: int, items: Iterable[str]) -> TrainState:
        targets = {item: jax.tree.map(ocp.utils.to_shape_dtype_struct, _fields(template, item)) for item in items}
        arguments = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        restored = self._read(step, arguments)
        return template.replace(**{name: leaf for item in items for name, leaf in restored[item].items()})

    def position(self, step: int) -> Position:
        """The position saved with `step`."""
        return self._read(step, {"position": ocp.args.JsonRestore()})["position"]

    def _read(self, step: int, arguments: dict[str, ocp.args.CheckpointArgs]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except (ValueError, KeyError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"checkpoint {self.directory / str(step)} is damaged or of another model: {reason}"
            ) from error


def open_newest(workdir: Path, *, read_only: bool = False) -> CheckpointFolder:
    """The run's newest checkpoints; two are kept, so that there is one to fall back to."""
    return CheckpointFolder(workdir / NEWEST_DIR, num_kept=NUM_NEWEST_KEPT, read_only=read_only)


def open_best(workdir: Path, *, read_only: bool = False) -> CheckpointFolder:
    """The run's best checkpoint by validation accuracy."""
    return CheckpointFolder(workdir / BEST_DIR, num_kept=1, read_only=read_only)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no array of the tree holds NaN or infinity, () bool."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def digest(tree: Any) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and bytes of a tree of arrays: equal if bit-identical."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _items(state: TrainState) -> list[str]:
    return [item for item in ITEMS if item != AVERAGE or state.averaging is not None]


def _statistics(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in STATISTICS if getattr(state, name) is not None}


def _fields(state: TrainState, item: str) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ITEMS[item]}
