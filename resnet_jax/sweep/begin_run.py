"""Begins a run's process on Linux: python begin_run.py PARENT CORES COMMAND …, which becomes the command.

The process computes on CORES, numbers with commas between, or all that it has where they are "". It is asked to save
and stop, by SIGTERM, when the process PARENT ends in whatever way, so that no run goes on that nobody knows of. Both
outlast the beginning of the command. Imports Python's own modules alone, as it is there before every run.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def main() -> None:
    """Settles both, and becomes the command."""
    parent, cores, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has ended before that
        sys.exit(f"process {parent}, which began this run, has ended")
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
