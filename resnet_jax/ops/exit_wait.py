"""The end of a process whose convolutions are oneDNN's: what is being computed ends first.

At exit JAX waits for the computations of its CPU client and holds the interpreter's lock, which our convolutions need
for a moment each (onednn.py): a program that ends with a result that it never looked at would wait for ever.
"""

import atexit
import contextlib
import functools
import threading
import time
from pathlib import Path

import jax

LOOK_SECONDS = 0.005
NUM_LOOKS = 3
PATIENCE_SECONDS = 60.0


@functools.cache
def wait_at_exit() -> None:
    """Has this process wait, when it ends, for what its CPU devices compute; before JAX does, which came first."""
    atexit.register(wait_for_computations)


def wait_for_computations() -> None:
    """Returns when the CPU devices compute nothing: what is still held, and for PATIENCE_SECONDS what nobody holds.

    A program on many processes does not wait: what one computes may need another that is no longer there. One of your
    own must look at its results before it ends.
    """
    with contextlib.suppress(RuntimeError, OSError):  # no CPU device any more, or no /proc
        if jax.process_count() > 1:
            return
        for array in jax.live_arrays("cpu"):
            with contextlib.suppress(RuntimeError):  # deleted meanwhile, or computed in vain
                array.block_until_ready()
        end = time.monotonic() + PATIENCE_SECONDS
        quiet_looks = 0
        while quiet_looks < NUM_LOOKS and time.monotonic() < end:
            quiet_looks = 0 if _computes() else quiet_looks + 1
            time.sleep(LOOK_SECONDS)


def _computes() -> bool:
    """Returns whether a thread that Python did not start runs, or would if a core were free (Linux)."""
    of_python = {str(thread.native_id) for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if task.name not in of_python and (task / "stat").read_text().rpartition(") ")[2].startswith("R"):
                return True
    return False
