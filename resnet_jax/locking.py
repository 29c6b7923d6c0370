"""Locks on open files, which the operating system frees whatever ends the process: flock, on Windows LockFile."""

import errno
import os
import time
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    _HAS_FLOCK = False
else:
    _HAS_FLOCK = True

# The byte that Windows locks, which nobody may read then: far behind the end of any file that is locked here.
_LOCKED_BYTE = 2**30
_RETRY_SECONDS = 0.2


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Locks an open file for this process if no other holds it; returns whether it does now.

    shared: only against those that do not share it; on Windows it is exclusive all the same. Raises OSError where the
    file system has no locks.
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
    """Locks an open file for this process, after whoever holds it now. Errors are those of `try_lock`."""
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
