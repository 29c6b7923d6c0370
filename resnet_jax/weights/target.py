"""Where weights are written: the folders around a file, and the file itself, which appears whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resnet_jax.errors import UserError

PARTIAL = ".partial"


def check_parents(path: Path) -> None:
    """Raise UserError (a ValueError) if the folders that `path` is to lie in are not there and cannot be made."""
    if not path.name:
        raise UserError(f"{path} is no name of a file or folder to write")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{path} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: there is no permission to write in {existing}")


def check_folder(path: Path) -> None:
    """Raise UserError (a ValueError) unless files can be written into a folder `path`, which is made for the trial."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} cannot be written into: it is a file; give the name of a folder")
    missing = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written into: {error.strerror or error}") from error
    finally:
        for folder in missing:  # the innermost first
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when all is on disk; whatever fails, the old one remains.

    Raises UserError (a ValueError) if it cannot be written.
    """
    try:
        with making_parents(path), _partial_beside(path) as partial:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _partial_beside(path: Path) -> Iterator[Path]:
    """An empty file in the folder of `path` under a name that is nobody else's; gone afterwards unless renamed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, delete=False) as file:
        partial = Path(file.name)
    try:
        partial.chmod(0o666 & ~_umask())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def making_parents(path: Path) -> Iterator[None]:
    """Makes the folders that `path` is to lie in; if what follows fails, those that it made go again."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:  # the innermost first
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def sync_folder(folder: Path) -> None:
    """Bring all that is in `folder` to the disk: what is renamed afterwards holds what was written before."""
    for path, _, files in os.walk(folder):
        for name in files:
            sync_path(Path(path) / name)
        sync_path(Path(path))


def sync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; some file systems do not know that of a folder."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        # For writing: Windows flushes nothing else, and no folder.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """The process's mask for new files, which temporary ones do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
