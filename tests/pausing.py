"""Kills a training run at a known place: a callback of it waits there."""

import time

# To be the last of a program's callbacks: the others have taken the record of these steps by then.
PROGRAM = """
import time

class Pause:
    def on_record(self, run, record):
        step = record["step"]
        if step in {steps} and "train_loss" in record:
            (run.workdir / f"at-{{step}}").touch()
            while not (run.workdir / f"go-{{step}}").exists():
                time.sleep(0.02)
"""


def kill_at(process, workdir, step, number, arrived=lambda: True):
    """Sends a signal to a process that trains with Pause, when it is at `step` and `arrived()`; its exit code."""
    end = time.monotonic() + 200
    while not ((workdir / f"at-{step}").exists() and arrived()):
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"the run never was at step {step}: {process.communicate(timeout=5)}")
        time.sleep(0.02)
    process.send_signal(number)
    (workdir / f"go-{step}").touch()
    process.communicate(timeout=200)
    return process.returncode
