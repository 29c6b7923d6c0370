"""Runs the processes of a sweep, several at a time; hands on signals to stop, and waits for them to save."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from resnet_jax.comparison.groups import LENGTHS
from resnet_jax.comparison.runs import read_run
from resnet_jax.distributed.preemption import SIGNALS
from resnet_jax.errors import RunError, UserError
from resnet_jax.formatting import format_count, format_duration, format_percent
from resnet_jax.sweep import begin_run
from resnet_jax.sweep.shares import Share
from resnet_jax.training.workdir import CONFIG_FILE, flatten_fields

logger = logging.getLogger(__name__)

SAVED = 75  # the exit code of a run that was interrupted and has saved
ENDED_BY_CTRL_BREAK = 0xC000013A  # the exit code on Windows of a process that does not catch it
PROMPT = "$ "  # before the command, in the log
SECONDS_BETWEEN_LOOKS = 0.1
# The numbers of a run that are printed when it ends.
MAIN_NUMBERS = {"best": "best validation", "test_accuracy": "test", "test_map": "test map"}


@dataclass(frozen=True)
class Child:
    """A run that a process is to be started for.

    Attributes:
      place: which of how many it is, for the lines that are logged.
      command: its words.
      log: the file to which its output is added.
    """

    place: str
    name: str
    command: tuple[str, ...]
    workdir: Path
    log: Path

    @property
    def title(self) -> str:
        """Its place and name."""
        return f"{self.place}: {self.name}"


@dataclass(frozen=True)
class Outcomes:
    """Children that did not finish, and the signal that stopped all, if one did.

    Attributes:
      failed: those that did, and how: "exit code 2";
      interrupted: those that were, by themselves or by that signal;
      left: that it kept from beginning.
    """

    failed: list[tuple[Child, str]] = field(default_factory=list)
    interrupted: list[Child] = field(default_factory=list)
    left: list[Child] = field(default_factory=list)
    stopped_by: str = ""


@dataclass(frozen=True)
class _Process:
    child: Child
    share: Share
    popen: subprocess.Popen[bytes]
    start: float


def is_finished(workdir: Path, fields: dict[str, Any]) -> bool:
    """Returns whether the run in `workdir` has come to the end that `fields` say, its config as in a config.json.

    One whose images were elsewhere is not: only training sees whether they are the same.
    """
    if not (workdir / CONFIG_FILE).exists():
        return False
    run, wanted = read_run(workdir), flatten_fields(fields)
    return run.is_finished and all(run.fields[field] == wanted[field] for field in (*LENGTHS, "data_dir"))


def run_children(children: Sequence[Child], shares: Sequence[Share]) -> Outcomes:
    """Runs a process for each child in turn, as many at a time as there are shares, and logs a line as each begins and
    ends.

    One that fails keeps no other from running. Each of `SIGNALS` is handed on to those that run, as often as it comes;
    no other begins then.
    """
    waiting, free = deque(children), list(shares)
    running: list[_Process] = []
    outcomes, num_forwarded = Outcomes(), 0
    with _signals_received() as received:
        try:
            while running or (waiting and not received):
                while waiting and free and not received:
                    running.append(_start(waiting.popleft(), free.pop(0)))
                if len(received) > num_forwarded:
                    number = received[num_forwarded]
                    _forward(number, running)
                    num_forwarded += 1
                for process in [process for process in running if process.popen.poll() is not None]:
                    running.remove(process)
                    free.append(process.share)
                    _take_in(process, received, outcomes)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            _forward(signal.SIGTERM, running)  # some are left only where an error ends the loop
            for process in running:
                process.popen.wait()
    stopped_by = signal.Signals(received[0]).name if received else ""
    return replace(outcomes, left=list(waiting), stopped_by=stopped_by)


@contextlib.contextmanager
def _signals_received() -> Iterator[list[int]]:
    """Yields a list to which the numbers of the `SIGNALS` are added as they come."""
    received: list[int] = []
    previous = {number: signal.signal(number, partial(_add, received)) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _add(received: list[int], number: int, frame: object) -> None:
    del frame
    received.append(number)


def _start(child: Child, share: Share) -> _Process:
    """Starts a child in a new session: what is typed at this one's terminal does not reach it twice."""
    logger.info(f"{child.title} (log: {child.log})")
    child.log.parent.mkdir(parents=True, exist_ok=True)
    command = list(child.command)
    if sys.platform == "linux":
        cores = ",".join(map(str, share.cores))
        command = [sys.executable, "-I", "-S", begin_run.__file__, str(os.getpid()), cores, *command]
    with child.log.open("ab") as log:
        log.write(f"{PROMPT}{shlex.join(child.command)}\n".encode(errors="surrogateescape"))
        log.flush()
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **share.environment},
            start_new_session=True,  # does nothing on Windows, as the next one elsewhere
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    return _Process(child, share, popen, time.monotonic())


def _forward(number: int, running: Sequence[_Process]) -> None:
    """Sends a signal on to the processes that run, and says that they are waited for."""
    if running:
        name = signal.Signals(number).name
        logger.info(f"{name}: waiting for {format_count(len(running), 'run')} to save")
    for process in running:
        # Windows has no other signal for a process than that which ends it.
        process.popen.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))


def _take_in(process: _Process, received: Sequence[int], outcomes: Outcomes) -> None:
    """Sorts a process that has ended into the outcomes, and says how it ended."""
    child, code = process.child, process.popen.returncode
    duration = format_duration(time.monotonic() - process.start)
    # A process that has only just begun does not catch them yet; the second Ctrl-C ends one that does.
    ends_by_signals = {code for number in received for code in (-number, 128 + number, ENDED_BY_CTRL_BREAK)}
    if code == 0:
        logger.info(f"{child.title} done in {duration}{_main_numbers(child.workdir)}")
    elif code == SAVED or code in ends_by_signals:
        outcomes.interrupted.append(child)
        logger.info(f"{child.title} interrupted after {duration}")
    else:
        how = f"ended by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        outcomes.failed.append((child, how))
        logger.info(f"{child.title} failed after {duration} ({how})")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"


def _main_numbers(workdir: Path) -> str:
    with contextlib.suppress(UserError, RunError, OSError):
        numbers = read_run(workdir).numbers
        return "".join(
            f", {label} {format_percent(numbers[name])}" for name, label in MAIN_NUMBERS.items() if name in numbers
        )
    return ""


def last_line(log: Path) -> str:
    """Returns the last line that a child has said, without the "error: " that it may begin with; empty if it said
    nothing.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return "" if last.startswith(PROMPT) else last.removeprefix("error: ")
