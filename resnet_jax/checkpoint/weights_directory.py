"""Directories of weights, as the convert command writes them; and where they are in a run's folder."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.checkpoint.items import VARIABLES
from resnet_jax.checkpoint.manifest import INFO_FILE, MANIFEST_FILE, leaf_digests, read_manifest, write_manifest
from resnet_jax.checkpoint.serialization import write_item
from resnet_jax.errors import DamagedCheckpointError, UserError, first_line
from resnet_jax.filesystem import PARTIAL, check_parents, making_parents, sync_folder


def find_checkpoint(path: Path, which: str | None = None) -> Path:
    """Returns the folder that holds the variables in a checkpoint directory, as `read_directory` takes it."""
    if which is not None:
        folder = path / ("best" if which == "best" else "checkpoints")
        if not folder.is_dir():
            raise UserError(f"--checkpoint belongs to a run's folder, and {path} has no {folder.name}/: leave it out")
        return find_checkpoint(folder)

    def is_one(folder: Path) -> bool:  # also a folder that has lost one of them, which is then reported
        return (folder / VARIABLES).is_dir() or (folder / MANIFEST_FILE).is_file()

    for folder in (path, path / "checkpoints"):
        if is_one(folder):
            return folder
        steps = [step for step in folder.glob("*") if step.name.isdecimal() and is_one(step)]
        if steps:
            return max(steps, key=lambda step: int(step.name))
    raise UserError(f"{path} is no checkpoint directory: it has no {VARIABLES}/, and no checkpoints/ with one")


def read_info_text(path: Path) -> str | None:
    """Returns what the convert command wrote of the weights in the checkpoint directory `path`; None if it did not
    write it.

    Raises:
      DamagedCheckpointError: if it differs from the written content.
    """
    if not (path / INFO_FILE).exists() and not (path / MANIFEST_FILE).exists():
        return None
    expected = read_manifest(path).get("files", {}).get(INFO_FILE)
    if expected is None:
        return None
    try:
        data = (path / INFO_FILE).read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {INFO_FILE} cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise DamagedCheckpointError(f"{path} is damaged: {INFO_FILE} is not what was saved; convert the weights again")
    return data.decode()


def write_directory(path: Path, variables: Mapping[str, Any], info: str) -> None:
    """Writes the variables and `info` (JSON) as a checkpoint directory, which appears at once when it is whole.

    An earlier one at `path` is replaced; anything else there is a UserError (a ValueError), as is a full disk.
    """
    check_replaceable(path)
    with replacing_folder(path) as new:
        arrays = jax.tree.map(np.asarray, dict(variables))
        write_item(new / VARIABLES, arrays)
        (new / INFO_FILE).write_bytes(info.encode())
        files = {INFO_FILE: hashlib.sha256(info.encode()).hexdigest()}
        write_manifest(new, {"files": files}, {VARIABLES: leaf_digests(arrays)})


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of the one at `path`, if any, when the context ends without error.

    Raises:
      UserError: if it cannot be written.
    """
    path = path.resolve()
    with (
        _one_line(path),
        making_parents(path),
        tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, ignore_cleanup_errors=True
        ) as scratch,
    ):
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        sync_folder(new)
        if path.exists():
            path.replace(old)
        try:
            new.replace(path)
        except BaseException:
            old.replace(path)
            raise


def check_replaceable(path: Path, files: tuple[str, ...] = (VARIABLES, INFO_FILE, MANIFEST_FILE)) -> None:
    """Raises UserError (a ValueError) if something other than converted weights is at `path`, or it cannot be made.

    Args:
      files: all that a folder of converted weights may hold.
    """
    check_parents(path)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        others = sorted(names - {*files})
        if others or len(names) == 1:
            raise UserError(
                f"{path} holds {(others or sorted(names))[0]!r}, no converted weights: choose another folder"
            )
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another name for the folder, or end the name with .safetensors")


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Raises Orbax's many-line errors as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise nearly every kind
        raise UserError(f"{path} cannot be written as a checkpoint: {first_line(error)}") from error
