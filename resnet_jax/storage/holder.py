"""Who writes a run in a bucket, and whether that process still lives."""

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID, _PROCESS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc")
_START_TIME = 19  # of the fields in /proc/PID/stat behind the name


@dataclass(frozen=True)
class Holder:
    """Who writes a run: a number drawn at random, and the process, by its host, the machine's start, its namespace of
    process numbers and its own start; and for how long it may say nothing.
    """

    id: str
    host: str
    process: int
    boot: str
    namespace: str
    started: str
    lease_seconds: float

    def is_dead(self) -> bool:
        """Returns whether the process is known to have ended: it was one of this machine, and of this container."""
        here = (socket.gethostname(), _boot_id(), _namespace())
        if not all(here) or (self.host, self.boot, self.namespace) != here or not self.started:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return _started(self.process) not in ("", self.started)  # its number is another's now

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def this_process(lease_seconds: float) -> Holder:
    """Returns this process as a holder that may say nothing for so long, with a number newly drawn."""
    me = os.getpid()
    return Holder(secrets.token_hex(8), socket.gethostname(), me, _boot_id(), _namespace(), _started(me), lease_seconds)


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink(_PROCESS / "self" / "ns" / "pid")
    return ""


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _started(process: int) -> str:
    """Returns when a process of this machine began, as Linux counts; empty if there is none, or elsewhere."""
    with contextlib.suppress(OSError, IndexError):
        text = (_PROCESS / str(process) / "stat").read_text()
        return text.rpartition(")")[2].split()[_START_TIME]
    return ""
