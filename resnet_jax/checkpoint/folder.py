"""Checkpoints: the latest in `checkpoints/`, the best in `best/`, each step in a separate folder.

A step holds items, which are trees of arrays written by Orbax, and a manifest: the digest of every array, and what else
the run needs to go on.

Process 0 writes, in the background, under another name; when all is on disk the folder gets its own name, and only
then are older steps renamed and removed. So a step is whole or absent whenever the process is killed; what a killed
one has left is removed by the next run. A step is read by every process and is what was saved, bit for bit, or refused.

Beside the two folders `checkpoints.json` and `best.json` hold the last step that was saved in each, so that a folder
that was moved away or emptied is not taken for one in which nothing was saved yet.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.checkpoint.background_writer import BackgroundWriter
from resnet_jax.checkpoint.items import VARIABLES
from resnet_jax.checkpoint.manifest import Leaves, check_fits, leaf_digests, read_manifest, write_manifest
from resnet_jax.checkpoint.serialization import read_item, write_item
from resnet_jax.distributed.sync import broadcast_from_process_0, sync_errors
from resnet_jax.errors import DamagedCheckpointError, NonFiniteError, RunError, UserError
from resnet_jax.filesystem import PARTIAL, sync_folder, sync_path, write_text, writing

LATEST_DIR = "checkpoints"
BEST_DIR = "best"
DAMAGED_DIR = "damaged"
NUM_LATEST_KEPT = 2

# What the name of a step's folder ends with while its successor of the same step takes its place, and while it is
# removed; PARTIAL: while it is written.
REPLACED, REMOVED = ".replaced", ".removed"

Position = dict[str, Any]
Result = TypeVar("Result")


class CheckpointFolder:
    """The checkpoints in one folder, named by their step.

    All processes call the same methods in the same order.
    """

    def __init__(self, directory: Path, *, num_kept: int, publish: Callable[[], None] = lambda: None) -> None:
        """`num_kept` latest steps stay when another one is saved.

        publish: called when a step is on disk, by the thread that writes; if it raises, the save fails.
        """
        self.directory = directory.absolute()
        self._note = self.directory.with_name(f"{self.directory.name}.json")
        self._num_kept, self._publish = num_kept, publish
        self._saving: int | None = None

    def clean(self) -> None:
        """Makes the folder, and removes a killed run's leftovers there; for the run that holds the workdir."""
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.iterdir():
                if path.suffix == REPLACED and not path.with_suffix("").exists():
                    path.rename(path.with_suffix(""))
                elif path.suffix in (PARTIAL, REPLACED, REMOVED):
                    shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps that are completely written, in order; the same for all processes."""
        return broadcast_from_process_0(self.list_steps)

    def latest_step(self) -> int | None:
        """Returns the last of `steps`, or None."""
        return max(self.steps(), default=None)

    def lost_step(self) -> int | None:
        """Returns the step that was saved last, if it is neither there nor set aside; None if all is as it was left.

        As this process sees the folder.

        Raises:
          UserError: if the file that holds it cannot be read.
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
        is_there = place.is_dir() or place.with_suffix(REPLACED).is_dir() or self._quarantined(step).is_dir()
        return None if is_there else step

    def is_bare(self) -> bool:
        """Returns whether no step is there: none that `clean` brings back, and none set aside.

        As this process sees it.
        """
        quarantined = self._quarantined("*")
        return not (
            self.list_steps()
            or any(self.directory.glob(f"*{REPLACED}"))
            or any(quarantined.parent.glob(quarantined.name))
        )

    def save(self, writer: BackgroundWriter, step: int, items: dict[str, Any], content: dict[str, Any]) -> None:
        """Writes a step by a job of `writer`; one that is there is replaced. Process 0 alone does it.

        Args:
          writer: that runs the job. It fails, with nothing written, if an array is not finite.
          step: the number of updates.
          items: by name, trees of arrays in host memory; they may not change before the job is done.
          content: of the manifest, what JSON can hold, with the "position" in it.
        """
        if jax.process_index():
            return
        content = deepcopy(content)  # it may hold what the loop goes on counting with
        writer.submit(
            f"checkpoint {self.directory / str(step)} could not be written", partial(self._write, step, items, content)
        )
        self._saving = step

    def restore(self, step: int, templates: dict[str, Any]) -> dict[str, Any]:
        """Returns the items of a step, each placed as its template is.

        Args:
          step: the step.
          templates: by item, a tree of arrays, or of their shapes with a sharding.

        Raises:
          DamagedCheckpointError: it differs from the saved state; the same in all processes.
          UserError: a ValueError: it is of another model; the same in all processes.
        """
        leaves = self.manifest(step)["leaves"]
        arrays = _read_by_all(partial(self._read, step, leaves, templates))
        return {item: jax.tree.map(_placed, template, arrays[item]) for item, template in templates.items()}

    def items(self, step: int) -> list[str]:
        """Returns the names of a step's items; raises as `restore` does."""
        return list(self.manifest(step)["leaves"])

    def position(self, step: int) -> Position:
        """Returns the position saved with `step`; raises as `restore` does."""
        return self.manifest(step)["position"]

    def manifest(self, step: int) -> dict[str, Any]:
        """Returns all that was saved with `step` besides its arrays; raises as `restore` does."""

        def read() -> dict[str, Any]:
            folder = self.directory / str(step)
            manifest = read_manifest(folder)
            if manifest["step"] != step:
                raise DamagedCheckpointError(f"{folder} is damaged: it holds step {manifest['step']}")
            return manifest

        return _read_by_all(read)

    def is_saved(self, step: int, item: str = VARIABLES) -> bool:
        """Returns whether `step` is there with this item, or being written."""

        def look() -> bool:
            if step == self._saving:
                return True
            if step not in self.list_steps():
                return False
            return item == VARIABLES or item in read_manifest(self.directory / str(step))["leaves"]

        return broadcast_from_process_0(look)

    def check(self, step: int, templates: dict[str, Any]) -> None:
        """Compares a step with its digests and places nothing; raises as `restore` does."""
        leaves = self.manifest(step)["leaves"]
        broadcast_from_process_0(partial(self._check, step, leaves, templates))

    def quarantined(self) -> list[Path]:
        """Returns where steps of this folder have been moved to and still are."""
        pattern = self._quarantined("*")
        found = broadcast_from_process_0(lambda: sorted(map(str, pattern.parent.glob(pattern.name))))
        return [Path(path) for path in found]

    def latest_quarantined_step(self) -> int:
        """Returns the last of the steps that have been moved aside; -1 if there is none."""
        names = (path.name.rpartition("-")[2] for path in self.quarantined())
        return max((int(name) for name in names if name.isdecimal()), default=-1)

    def quarantine(self, step: int) -> Path:
        """Moves `step` to where no run looks for it, beside this folder, and returns its new place."""
        target = self._quarantined(step)

        def move() -> None:
            with writing(target):
                target.parent.mkdir(exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)
                (self.directory / str(step)).rename(target)

        broadcast_from_process_0(move)
        return target

    def list_steps(self) -> list[int]:
        """Returns the steps that are completely written, in order, as this process sees them."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def _quarantined(self, step: int | str) -> Path:
        return self.directory.parent / DAMAGED_DIR / f"{self.directory.name}-{step}"

    def _check(self, step: int, leaves: dict[str, Leaves], templates: dict[str, Any]) -> None:
        self._read(step, leaves, templates)

    def _read(self, step: int, leaves: dict[str, Leaves], targets: dict[str, Any]) -> dict[str, Any]:
        """Returns the arrays of the items, in host memory, by this process alone."""
        folder = self.directory / str(step)
        for item, target in targets.items():
            check_fits(folder / item, leaves.get(item, {}), target)
        return {item: read_item(folder / item, leaves[item], target) for item, target in targets.items()}

    def _write(self, step: int, items: dict[str, Any], content: dict[str, Any]) -> None:
        _check_finite(items)
        final = self.directory / str(step)
        unfinished, replaced = (final.with_suffix(suffix) for suffix in (PARTIAL, REPLACED))
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with ThreadPoolExecutor(1) as pool:
            digests = pool.submit(lambda: {item: leaf_digests(tree) for item, tree in items.items()})
            for item, tree in items.items():
                write_item(unfinished / item, tree)
            write_manifest(unfinished, {"step": step, **content}, digests.result())
        sync_folder(unfinished)
        if final.exists():
            final.rename(replaced)
        unfinished.rename(final)
        sync_path(self.directory)
        write_text(self._note, json.dumps({"step": step}) + "\n")
        others = [other for other in self.list_steps() if other != step]
        for old in others[: max(len(others) + 1 - self._num_kept, 0)]:
            path = self.directory / str(old)
            path.rename(path.with_suffix(REMOVED))
        for path in (replaced, *self.directory.glob(f"*{REMOVED}")):
            shutil.rmtree(path, ignore_errors=True)
        self._publish()


def open_latest(workdir: Path, publish: Callable[[], None] = lambda: None) -> CheckpointFolder:
    """Returns the run's latest checkpoints; two are kept, so that there is one to fall back to."""
    return CheckpointFolder(workdir / LATEST_DIR, num_kept=NUM_LATEST_KEPT, publish=publish)


def open_best(workdir: Path, publish: Callable[[], None] = lambda: None) -> CheckpointFolder:
    """Returns the run's best checkpoint by validation accuracy."""
    return CheckpointFolder(workdir / BEST_DIR, num_kept=1, publish=publish)


def digest(tree: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of the names, types, shapes and bytes of a tree of arrays: equal if
    bit-identical.
    """
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _read_by_all(read: Callable[[], Result]) -> Result:
    """Returns read() in every process; whether a checkpoint is damaged, process 0 alone decides, which has written it.

    Network file systems may show another process a new file late, and that is no reason to set the checkpoint aside.
    """

    def as_fault_elsewhere() -> Result:
        try:
            return read()
        except DamagedCheckpointError as error:
            if jax.process_index():
                raise RunError(f"what process 0 may see is not seen here: {error}") from error
            raise

    return sync_errors(as_fault_elsewhere)


def _check_finite(tree: Any) -> None:
    """Raises NonFiniteError if an array of the tree, in host memory, holds NaN or infinity."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            raise NonFiniteError(f"{jax.tree_util.keystr(path)} is not finite: lower config.learning_rate")


def _placed(template: Any, array: np.ndarray) -> jax.Array:
    """Returns the array as `template` lies on the devices; each process brings its own, without comparing them."""
    return jax.make_array_from_callback(array.shape, template.sharding, lambda index: array[index])
