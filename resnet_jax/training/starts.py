"""The starts of a run: when, how long, on what machine and by which code each of them trained."""

import contextlib
import dataclasses
import json
import secrets
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from resnet_jax.distributed.processes import warn
from resnet_jax.errors import RunError
from resnet_jax.filesystem import write_text
from resnet_jax.runtime import processor_name, source_digest, versions
from resnet_jax.training.workdir import Record

STARTS_FILE = "starts.json"
DAMAGED_FILE = "starts-damaged.json"
WRITE_EVERY_SECONDS = 30


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      run_id: eight hexadecimal digits drawn at the run's first start, and kept.
      began: in UTC, as ISO 8601 has it.
      seconds: from there to the last time that it was written: at most half a minute before a process was killed.
      from_step, to_step: updates that were done before it, and after it.
      finished: it got to the run's end.
      command: the command that started it.
      processor: of the host that wrote this, and how many of its cores were to be had.
      devices: "8 x NVIDIA H200", of all processes.
      num_processes: in how many it ran.
      versions: of Python and the libraries that computed it.
      source: a digest of the package's own code.
    """

    run_id: str
    began: str
    seconds: float
    from_step: int
    to_step: int
    finished: bool
    command: str
    processor: str
    devices: str
    num_processes: int
    versions: dict[str, str]
    source: str


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("run_id", "began", "command", "processor", "devices", "source"), str),
    **dict.fromkeys(("from_step", "to_step", "num_processes"), int),
    "seconds": int | float,
    "finished": bool,
    "versions": dict,
}
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of what is no record of starts


def read_starts(workdir: Path) -> list[Start]:
    """Returns the starts of the run in `workdir`, in order; none of a run that is older than this file, or where it
    cannot be read.
    """
    try:
        return _parse((workdir / STARTS_FILE).read_text())
    except (OSError, *_MALFORMED):
        return []


def _parse(text: str) -> list[Start]:
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise TypeError(entries)
    return [_start_of(entry) for entry in entries]


def _start_of(entry: dict[str, Any]) -> Start:
    start = Start(**{field.name: entry[field.name] for field in dataclasses.fields(Start)})
    if not all(isinstance(getattr(start, name), kind) for name, kind in _KINDS.items()):
        raise TypeError(entry)
    return start


class StartLog:
    """Keeps this start in the run's folder while it trains; a context manager. Only process 0 writes.

    It cannot stop a run: where it cannot be written, a warning says so, once.
    """

    def __init__(self, workdir: Path, step: int, began: float, *, is_over: bool) -> None:
        """Begins an entry.

        Args:
          workdir: the run's folder.
          step: the updates that were done before.
          began: when this start began, as time.time() counts.
          is_over: nothing is left to be done; then nothing is written unless something is done all the same.
        """
        self._path = workdir / STARTS_FILE
        self._began = time.monotonic() - max(time.time() - began, 0.0)  # a clock may be set meanwhile
        self._writes = jax.process_index() == 0
        self._earlier = self._read_earlier() if self._writes else []
        self._start = Start(
            run_id=self._earlier[0].run_id if self._earlier else secrets.token_hex(4),
            began=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            seconds=0.0,
            from_step=step,
            to_step=step,
            finished=False,
            command=shlex.join(["python", *sys.orig_argv[1:]]),
            processor=processor_name(),
            devices=describe_devices(),
            num_processes=jax.process_count(),
            versions=versions(),
            source=source_digest(),
        )
        self._written = 0.0
        # A run that was killed between its end and the last entry's: this start says that it is finished.
        self._changed = not is_over or (bool(self._earlier) and not self._earlier[-1].finished)

    @property
    def run_id(self) -> str:
        """Eight hexadecimal digits that identify this run, the same in each of its starts."""
        return self._start.run_id

    def __enter__(self) -> "StartLog":
        if self._changed:
            self._write()
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._write()

    def record(self, record: Record) -> None:
        """Takes in a record of the metrics log: so many updates are done."""
        self._changed = True
        self._start = dataclasses.replace(self._start, to_step=record["step"])

    def write_if_due(self) -> None:
        """Writes the entry if it has been half a minute."""
        if self._changed and time.monotonic() - self._written > WRITE_EVERY_SECONDS:
            self._write()

    def finish(self, step: int, *, finished: bool) -> None:
        """Takes in how the start ended, and writes it."""
        self._changed = self._changed or step > self._start.to_step
        self._start = dataclasses.replace(self._start, to_step=step, finished=finished)
        if self._changed:
            self._write()

    def _read_earlier(self) -> list[Start]:
        try:
            return _parse(self._path.read_text())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._writes = False
            warn(f"{self._path} cannot be read ({error.strerror}): this start is not written there")
            return []
        except _MALFORMED:
            with contextlib.suppress(OSError):  # `_write` says it
                self._path.replace(self._path.with_name(DAMAGED_FILE))
                warn(f"{self._path} is not readable: it is kept as {DAMAGED_FILE}, and a new one begins")
            return []

    def _write(self) -> None:
        if not self._writes:
            return
        self._written = time.monotonic()
        self._start = dataclasses.replace(self._start, seconds=round(time.monotonic() - self._began, 1))
        entries = [dataclasses.asdict(start) for start in (*self._earlier, self._start)]
        try:
            write_text(self._path, json.dumps(entries, indent=1) + "\n")
        except RunError as error:
            self._writes = False
            warn(f"{error}; the run goes on without")


def describe_devices() -> str:
    """Returns the devices of all processes, as in "8 x NVIDIA H200" or "1 x cpu"."""
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def describe_machine(start: Start) -> str:
    """Returns where a start ran, in a few words: its devices, or on CPUs the processor and its cores."""
    processes = "" if start.num_processes == 1 else f", {start.num_processes} processes"
    on_cpu = start.devices.endswith(" x cpu")
    return f"{start.processor if on_cpu else start.devices}{processes}"
