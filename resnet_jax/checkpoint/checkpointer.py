"""Checkpoints: the newest in `checkpoints/`, the best in `best/`, each step a folder of its own.

A step holds the items `variables` (parameters and statistics), `average` (those of the moving average, if the run
keeps one), `judged` (the statistics computed anew before the model was judged, if they are) and `optimizer` (step and
optimizer state), written by Orbax, and a manifest: the digest of every array, and what else the run needs to go on.

Process 0 writes, in the background, under another name; when all is on disk the folder gets its own name, and only
then are older steps renamed and removed. So a step is whole or absent whenever the process is killed; what a killed
one has left is removed by the next run. A step is read by every process and is what was saved, bit for bit, or refused.

Beside the two folders `checkpoints.json` and `best.json` hold the last step that was saved in each, so that a folder
that was moved away or emptied is not taken for one in which nothing was saved yet.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.checkpoint.arrays import read_item, write_item
from resnet_jax.checkpoint.background import BackgroundSaves
from resnet_jax.checkpoint.directory import AVERAGE, JUDGED, VARIABLES
from resnet_jax.checkpoint.manifest import (
    DamagedCheckpointError,
    Leaves,
    check_fits,
    leaf_digests,
    read_manifest,
    write_manifest,
)
from resnet_jax.distributed.sync import from_first, together
from resnet_jax.errors import NonFiniteError, RunError, UserError
from resnet_jax.filesystem import PARTIAL, sync_folder, sync_path, write_text, writing
from resnet_jax.training.train_state import TrainState

NEWEST_DIR = "checkpoints"
BEST_DIR = "best"
DAMAGED_DIR = "damaged"
NUM_NEWEST_KEPT = 2

# What the name of a step's folder ends with while its successor of the same step takes its place, and while it is
# removed; PARTIAL: while it is written.
REPLACED, REMOVED = ".replaced", ".removed"

OPTIMIZER = "optimizer"
# The fields of a train state by the checkpoint's item.
ITEMS = {
    VARIABLES: ("params", "batch_stats"),
    AVERAGE: ("ema_params", "ema_batch_stats"),
    OPTIMIZER: ("step", "opt_state"),
}
STATISTICS = ("batch_stats", "ema_batch_stats")

Position = dict[str, Any]
Result = TypeVar("Result")


class CheckpointFolder:
    """The checkpoints in one folder, named by their step. All processes call the same methods in the same order."""

    def __init__(self, directory: Path, *, num_kept: int) -> None:
        """`num_kept` newest steps stay when another one is saved."""
        self.directory = directory.absolute()
        self._note = self.directory.with_name(f"{self.directory.name}.json")
        self._num_kept = num_kept
        self._saving: int | None = None

    def clean(self) -> None:
        """Make the folder, and remove what a killed run has left there; for the run that holds the workdir."""
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.iterdir():
                if path.suffix == REPLACED and not path.with_suffix("").exists():
                    path.rename(path.with_suffix(""))
                elif path.suffix in (PARTIAL, REPLACED, REMOVED):
                    shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that are completely written, in order; the same for all processes."""
        return from_first(self.list_steps)

    def newest_step(self) -> int | None:
        """The last of `steps`, or None."""
        return max(self.steps(), default=None)

    def lost_step(self) -> int | None:
        """The step that was saved last, if it is neither there nor set aside; None if all is as it was left.

        As this process sees the folder. Raises UserError (a ValueError) if the file that holds it cannot be read.
        """
        try:
            step = json.loads(self._note.read_text())["step"]
        except FileNotFoundError:  # nothing has been saved
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            step = None
        if type(step) is not int:
            raise UserError(f"{self._note} must hold the step that was saved last: bring it back, or remove it")
        place = self.directory / str(step)
        # REPLACED: `clean` brings it back.
        is_there = place.is_dir() or place.with_suffix(REPLACED).is_dir() or self._aside(step).is_dir()
        return None if is_there else step

    def is_bare(self) -> bool:
        """Whether no step is there: none that `clean` brings back, and none set aside. As this process sees it."""
        aside = self._aside("*")
        return not (self.list_steps() or any(self.directory.glob(f"*{REPLACED}")) or any(aside.parent.glob(aside.name)))

    def save(
        self,
        saves: BackgroundSaves,
        state: TrainState,
        content: dict[str, Any],
        *,
        judged: TrainState | None = None,
    ) -> None:
        """Write `state` under its step by a job of `saves`; one that is there is replaced.

        content: of the manifest, what JSON can hold, with the "position" in it. judged: the same with the statistics by
        which it was judged. The state may be donated when this returns. The job fails, with nothing written, if the
        state is not finite.
        """
        if jax.process_index():
            return
        step = int(state.step)
        copy = saves.copy(state)
        items = {item: _fields(copy, item) for item in _items(state)}
        if judged is not None:
            items[JUDGED] = jax.tree.map(np.array, _statistics(judged))
        content = deepcopy(content)  # it may hold what the loop goes on counting with
        saves.submit(
            f"checkpoint {self.directory / str(step)} could not be written", lambda: self._write(step, items, content)
        )
        self._saving = step

    def restore(self, template: TrainState, step: int) -> TrainState:
        """The state saved as `step`, placed as `template` is.

        Raises DamagedCheckpointError if it is not what was saved, and UserError (a ValueError) if it is of another
        model: the same in all processes.
        """
        return self._restore(template, step, _items(template))

    def restore_variables(self, template: TrainState, step: int) -> TrainState:
        """`template` with the parameters and statistics saved as `step`, and their moving averages if it has them,
        whatever optimizer they were saved with. The statistics are those by which the model was judged.
        """
        items = [item for item in _items(template) if item != OPTIMIZER]
        if JUDGED in self.manifest(step)["leaves"]:
            items.append(JUDGED)
        return self._restore(template, step, items)

    def position(self, step: int) -> Position:
        """The position saved with `step`; errors are those of `restore`."""
        return self.manifest(step)["position"]

    def manifest(self, step: int) -> dict[str, Any]:
        """All that was saved with `step` besides its arrays; errors are those of `restore`."""

        def read() -> dict[str, Any]:
            folder = self.directory / str(step)
            manifest = read_manifest(folder)
            if manifest["step"] != step:
                raise DamagedCheckpointError(f"{folder} is damaged: it holds step {manifest['step']}")
            return manifest

        return _read_by_all(read)

    def is_saved(self, step: int, *, judged: bool = False) -> bool:
        """Whether `step` is there, or being written; judged: with the statistics by which it was judged."""

        def look() -> bool:
            if step == self._saving:
                return True
            if step not in self.list_steps():
                return False
            return not judged or JUDGED in read_manifest(self.directory / str(step))["leaves"]

        return from_first(look)

    def check(self, template: TrainState, step: int) -> None:
        """Compare what was saved as `step` with its digests; errors are those of `restore`, and nothing is placed."""
        leaves = self.manifest(step)["leaves"]
        targets = {item: _fields(template, item) for item in _items(template)}

        def read() -> None:
            self._read(step, leaves, targets)

        from_first(read)

    def aside(self) -> list[Path]:
        """Where steps of this folder have been moved to and still are."""
        pattern = self._aside("*")
        found = from_first(lambda: sorted(map(str, pattern.parent.glob(pattern.name))))
        return [Path(path) for path in found]

    def newest_step_aside(self) -> int:
        """The last of the steps that have been moved aside; -1 if there is none."""
        names = (path.name.rpartition("-")[2] for path in self.aside())
        return max((int(name) for name in names if name.isdecimal()), default=-1)

    def set_aside(self, step: int) -> Path:
        """Move `step` to where no run looks for it, beside this folder, and return its new place."""
        target = self._aside(step)

        def move() -> None:
            with writing(target):
                target.parent.mkdir(exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)
                (self.directory / str(step)).rename(target)

        from_first(move)
        return target

    def list_steps(self) -> list[int]:
        """The steps that are completely written, in order, as this process sees them."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def _aside(self, step: int | str) -> Path:
        return self.directory.parent / DAMAGED_DIR / f"{self.directory.name}-{step}"

    def _restore(self, template: TrainState, step: int, items: Iterable[str]) -> TrainState:
        leaves = self.manifest(step)["leaves"]
        targets = {item: _statistics(template) if item == JUDGED else _fields(template, item) for item in items}
        arrays = _read_by_all(lambda: self._read(step, leaves, targets))
        fields: dict[str, Any] = {}
        for item, target in targets.items():
            fields |= jax.tree.map(_placed, target, arrays[item])
        return template.replace(**fields)

    def _read(self, step: int, leaves: dict[str, Leaves], targets: dict[str, Any]) -> dict[str, Any]:
        """The arrays of the items, in host memory, by this process alone."""
        folder = self.directory / str(step)
        for item, target in targets.items():
            check_fits(folder / item, leaves.get(item, {}), target)
        return {item: read_item(folder / item, leaves[item], target) for item, target in targets.items()}

    def _write(self, step: int, items: dict[str, Any], content: dict[str, Any]) -> None:
        _check_finite(items)
        final = self.directory / str(step)
        partial, replaced = (final.with_suffix(suffix) for suffix in (PARTIAL, REPLACED))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with ThreadPoolExecutor(1) as pool:
            digests = pool.submit(lambda: {item: leaf_digests(tree) for item, tree in items.items()})
            for item, tree in items.items():
                write_item(partial / item, tree)
            write_manifest(partial, {"step": step, **content}, digests.result())
        sync_folder(partial)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        sync_path(self.directory)
        write_text(self._note, json.dumps({"step": step}) + "\n")
        others = [other for other in self.list_steps() if other != step]
        for old in others[: max(len(others) + 1 - self._num_kept, 0)]:
            path = self.directory / str(old)
            path.rename(path.with_suffix(REMOVED))
        for path in (replaced, *self.directory.glob(f"*{REMOVED}")):
            shutil.rmtree(path, ignore_errors=True)


def open_newest(workdir: Path) -> CheckpointFolder:
    """The run's newest checkpoints; two are kept, so that there is one to fall back to."""
    return CheckpointFolder(workdir / NEWEST_DIR, num_kept=NUM_NEWEST_KEPT)


def open_best(workdir: Path) -> CheckpointFolder:
    """The run's best checkpoint by validation accuracy."""
    return CheckpointFolder(workdir / BEST_DIR, num_kept=1)


def digest(tree: Any) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and bytes of a tree of arrays: equal if bit-identical."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _read_by_all(read: Callable[[], Result]) -> Result:
    """read() in every process; whether a checkpoint is damaged, process 0 alone decides, which has written it.

    Network file systems may show another process a new file late, and that is no reason to set the checkpoint aside.
    """

    def as_fault_elsewhere() -> Result:
        try:
            return read()
        except DamagedCheckpointError as error:
            if jax.process_index():
                raise RunError(f"what process 0 may see is not seen here: {error}") from error
            raise

    return together(as_fault_elsewhere)


def _check_finite(tree: Any) -> None:
    """Raise NonFiniteError if an array of the tree, in host memory, holds NaN or infinity."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            raise NonFiniteError(f"{jax.tree_util.keystr(path)} is not finite: lower config.learning_rate")


def _placed(template: Any, array: np.ndarray) -> jax.Array:
    """The array as `template` lies on the devices; each process brings its own, without comparing them."""
    return jax.make_array_from_callback(array.shape, template.sharding, lambda index: array[index])


def _items(state: TrainState) -> list[str]:
    return [item for item in ITEMS if item != AVERAGE or state.averaging is not None]


def _statistics(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in STATISTICS if getattr(state, name) is not None}


def _fields(state: TrainState, item: str) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ITEMS[item]}
