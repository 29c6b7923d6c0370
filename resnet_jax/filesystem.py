"""Paths as users write them, locks on open files, and files and folders that appear whole or not at all."""

import contextlib
import errno
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from resnet_jax.errors import RunError, UserError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    _HAS_FLOCK = False
else:
    _HAS_FLOCK = True

# What the name of a file or folder ends with while it is written.
PARTIAL = ".partial"
# The byte that Windows locks, which nobody may read then: far behind the end of any file that is locked here.
_LOCKED_BYTE = 2**30
_RETRY_SECONDS = 0.2
_UMASK_LOCK = threading.Lock()


def expand(text: str | Path) -> Path:
    """Returns the path with its `~` replaced by the home folder.

    Raises:
      UserError: for an empty one, and for an address like s3://bucket/file.
    """
    if not str(text):
        raise UserError("a path is empty: give the name of a file or folder")
    if re.match(r"\w\w+:[/\\]" if os.name == "nt" else r"\w+:/", str(text)):
        raise UserError(  # of a Path, too, which has one slash
            f"{text} is an address, and a path on this machine is needed here; addresses are taken as --workdir of a "
            "run, as weights, and as config.data_dir, in Python as strings"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{text}: {error}") from None


def check_parents(path: Path) -> None:
    """Raises UserError (a ValueError) if the folders that `path` is to lie in are not there and cannot be made."""
    if not path.name:
        raise UserError(f"{path} is no name of a file or folder to write")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{path} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: there is no permission to write in {existing}")


def check_folder(path: Path) -> None:
    """Raises UserError (a ValueError) unless files can be written into a folder `path`, which is made for the trial."""
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
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to, which takes the place of `path` when all is on disk; whatever fails, the old one
    remains.

    Raises:
      UserError: if it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a path to write a file to, for a library that wants a name: `atomic_write` otherwise.

    What a link leads to is replaced, not the link.
    """
    path = path.resolve() if path.is_symlink() else path
    try:
        with making_parents(path), _replaced(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yields an empty file in the folder of `path` under a name that is nobody else's, which then replaces `path`."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, delete=False) as file:
        partial = Path(file.name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        sync_path(partial)
        partial.replace(path)
        sync_path(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Replaces a text file at once: after a crash it holds either the old text or the new.

    Line ends stay as they are on every system.

    Raises:
      RunError: if it cannot.
    """
    with writing(path), _replaced(path) as partial:
        partial.write_bytes(text.encode(errors="surrogateescape"))


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
    """Brings all that is in `folder` to the disk: what is renamed afterwards holds what was written before."""
    for path, _, files in os.walk(folder):
        for name in files:
            sync_path(Path(path) / name)
        sync_path(Path(path))


def sync_path(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk; some file systems cannot do this for a folder."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        # For writing: Windows flushes nothing else, and no folder.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """Returns the process's mask for new files, which temporary ones do not follow."""
    with _UMASK_LOCK:  # it can only be read by setting it
        mask = os.umask(0)
        os.umask(mask)
    return mask


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Locks an open file for this process if no other holds it; returns whether it does now.

    Args:
      shared: only against those that do not share it; on Windows it is exclusive all the same.

    Raises:
      OSError: where the file system has no locks.
    """
    if _HAS_FLOCK:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    try:
        _lock_byte(file, msvcrt.LK_NBLCK)  # type: ignore[attr-defined, unused-ignore]
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def lock(file: IO[str]) -> None:
    """Locks an open file for this process, after whoever holds it now.

    Raises as `try_lock` does.
    """
    if _HAS_FLOCK:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while not try_lock(file):
        time.sleep(_RETRY_SECONDS)


def unlock(file: IO[str]) -> None:
    """Frees a lock of this process; closing the file does too, on Windows some time later."""
    if _HAS_FLOCK:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        _lock_byte(file, msvcrt.LK_UNLCK)  # type: ignore[attr-defined, unused-ignore]


def _lock_byte(file: IO[str], mode: int) -> None:
    descriptor = file.fileno()
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, mode, 1)  # type: ignore[attr-defined, unused-ignore]
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
