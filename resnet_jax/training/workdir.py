"""A run's folder: its config, its lock and its metrics log."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"
PARTIAL = ".partial"

Record = dict[str, Any]


def read_config(workdir: Path) -> dict[str, Any]:
    """What the run in `workdir` was started with. Raises UserError (a ValueError) if there is no run."""
    path = workdir / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"workdir {workdir} holds no run: {path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}): restore it, or use another workdir") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one JSON object: restore it, or use another workdir")
    return values


def check_workdir(workdir: Path, fields: dict[str, Any], may_change: tuple[str, ...]) -> None:
    """Raise UserError (a ValueError) unless `workdir` is new, empty, or holds the run that `fields` describe.

    fields: the config by dotted path, of JSON values. may_change: the paths in which a continued run may differ.
    """
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"workdir {workdir} cannot be written to: choose another --workdir")
    if existing != workdir and existing.is_dir():
        return
    if not existing.is_dir():
        raise UserError(f"workdir {workdir}: {existing} is a file; choose another --workdir")
    if not (workdir / CONFIG_FILE).exists():
        ours = (LOCK_FILE, CONFIG_FILE + PARTIAL)  # what a start that was killed at once leaves
        others = [
            path.name
            for path in workdir.iterdir()
            if path.name not in ours and not (path.is_dir() and not any(path.iterdir()))
        ]
        if others:
            raise UserError(
                f"workdir {workdir} is no run's: it holds {others[0]!r} but no {CONFIG_FILE}; choose another --workdir"
            )
        return
    stored = _flatten(read_config(workdir))
    for path in [*fields, *(path for path in stored if path not in fields)]:
        if path not in may_change and stored.get(path) != fields.get(path):
            raise UserError(
                f"workdir {workdir} holds another run: config.{path} is {stored.get(path)!r} there and "
                f"{fields.get(path)!r} here; choose another --workdir"
            )


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Hold `workdir` (made if need be) for this process; the operating system frees it whatever ends the process.

    Raises UserError (a ValueError) if another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK_FILE).open("w")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written to ({error.strerror}): choose another") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"workdir {workdir} is in use by another run: wait for it or choose another") from None
        yield


def wait_for_workdir(workdir: Path, num_seconds: float = 120.0) -> None:
    """Return when this process sees the folder that another one, perhaps on another host, holds.

    Network file systems may show a new folder late. Raises UserError (a ValueError) if it is not the same folder.
    """
    end = time.monotonic() + num_seconds
    while not (workdir / LOCK_FILE).exists():
        if time.monotonic() > end:
            raise UserError(
                f"workdir {workdir} is not where process 0 sees it: it must be on a disk that all hosts share"
            )
        time.sleep(0.5)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at once: after a crash it holds either the old text or the new."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class MetricsLog:
    """The records of `metrics.jsonl`, one JSON object a line, each with "step" and "epoch"."""

    def __init__(self, workdir: Path, records: list[Record] | None = None) -> None:
        """Reads what is there, if it is not given as `records`; a last line cut off by a crash is dropped."""
        self.path = workdir / METRICS_FILE
        self.records: list[Record] = records or []
        if records is None and self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    break

    def forget_after(self, step: int) -> None:
        """Drop the records of later steps than `step`: they are about to be made again."""
        self.records = [record for record in self.records if record["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def append(self, record: Record) -> None:
        """Add a record, on disk when this returns."""
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, step: int, field: str) -> bool:
        """Whether `field` has been recorded for `step`."""
        return any(record["step"] == step and field in record for record in self.records)
