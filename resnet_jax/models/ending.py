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
    """Have this process wait, when it ends, for what its CPU devices compute; before JAX does, which came first."""
    atexit.register(wait_for_computations)


def wait_for_computations() -> None:
    """Return when the CPU devices compute nothing, whether the results are still wanted or not.

    Of many processes nobody waits: what one computes may need another that is no longer there.
    """
    if jax.process_count() > 1:
        return
    for array in jax.live_arrays("cpu"):
        with contextlib.suppress(RuntimeError):  # deleted meanwhile, or computed in vain
            array.block_until_ready()
    # Results that nobody holds are computed all the same, by threads that then run. Threads of others may run for ever.
    end = time.monotonic() + PATIENCE_SECONDS
    quiet_looks = 0
    while quiet_looks < NUM_LOOKS and time.monotonic() < end:
        quiet_looks = 0 if _other_threads_run() else quiet_looks + 1
        time.sleep(LOOK_SECONDS)


def _other_threads_run() -> bool:
    """Whether a thread of this process but the calling one runs, or would if a core were free (Linux)."""
    this_thread = str(threading.get_native_id())
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if task.name != this_thread and (task / "stat").read_text().rpartition(") ")[2].startswith("R"):
                return True
    return False
