"""A run's folder: its config, its lock and its metrics log."""

import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.filesystem import PARTIAL, sync_path, try_lock, unlock, write_text, writing

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
IMAGES_FILE = "images.json"  # how a folder of images was understood
LOCK_FILE = ".lock"

Record = dict[str, Any]


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns the fields that the run in `workdir` was started with.

    Raises:
      UserError: if there is no run.
    """
    path = workdir / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"workdir {workdir} holds no run: {path} does not exist") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}): restore it, or use another workdir") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one JSON object: restore it, or use another workdir")
    return values


def check_workdir(workdir: Path, fields: dict[str, Any], may_change: tuple[str, ...], defaults: dict[str, Any]) -> None:
    """Raises UserError (a ValueError) unless `workdir` is new, empty, or holds the run that `fields` describe.

    Args:
      fields: the config as in a config.json.
      may_change: the dotted paths in which a continued run may differ.
      defaults: by dotted path, the value in a run that began before the field existed.
    """
    from resnet_jax.checkpoint.folder import BEST_DIR, LATEST_DIR  # which imports JAX, and this module does not

    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    for place in (existing, workdir / LATEST_DIR, workdir / BEST_DIR):  # these may be another user's
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            which = "" if place == existing else f": {place}"
            raise UserError(f"workdir {workdir}{which} cannot be written to: choose another --workdir")
    if existing != workdir and existing.is_dir():
        return
    if not existing.is_dir():
        raise UserError(f"workdir {workdir}: {existing} is a file; choose another --workdir")
    if not (workdir / CONFIG_FILE).exists():
        others = [path.name for path in workdir.iterdir() if not _is_left_by_a_start(path)]
        if others:
            raise UserError(
                f"workdir {workdir} is no run's: it holds {others[0]!r} but no {CONFIG_FILE}; choose another --workdir"
            )
        return
    fields, stored = flatten_fields(fields), {**flatten_fields(defaults), **flatten_fields(read_config(workdir))}
    for path in [*fields, *(path for path in stored if path not in fields)]:
        if path not in may_change and stored.get(path) != fields.get(path):
            raise UserError(
                f"workdir {workdir} holds another run: config.{path} is {stored.get(path)!r} there and "
                f"{fields.get(path)!r} here; choose another --workdir"
            )


def flatten_fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns every field of a config.json by its dotted path."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(flatten_fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds `workdir` (made if need be) for this process; the operating system frees it whatever ends the process.

    A folder that is made is the user's alone; one that is there keeps its permissions, with a warning if everybody may
    write in it.

    Raises:
      UserError: if another process holds it, which it names.
    """
    try:
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and workdir.stat().st_mode & stat.S_IWOTH:
            logger.warning(f"everybody may write in workdir {workdir}, and what is there is believed: chmod o-w")
        lock = (workdir / LOCK_FILE).open("a+")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written to ({error.strerror}): choose another") from None
    with lock as file:
        try:
            is_free = try_lock(file)
        except OSError as error:
            raise UserError(
                f"workdir {workdir} cannot be locked ({error.strerror}): choose one on a file system that knows locks"
            ) from None
        if not is_free:
            raise _in_use(workdir)
        with contextlib.suppress(OSError):  # a full disk: who holds it is of no use then
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            unlock(file)


def check_unlocked(workdir: Path) -> None:
    """Raises UserError (a ValueError) if a run holds `workdir`; nothing is written, and nothing is held afterwards."""
    with contextlib.suppress(FileNotFoundError), (workdir / LOCK_FILE).open() as file:
        try:
            is_free = try_lock(file, shared=True)
        except OSError:  # no such locks here: starting a run reports it
            return
        if not is_free:
            raise _in_use(workdir)
        unlock(file)


def _in_use(workdir: Path) -> UserError:
    holder = (workdir / LOCK_FILE).read_text()[:200].strip()
    return UserError(
        f"workdir {workdir} is in use by another run{f' ({holder})' if holder else ''}: wait for it or choose another"
    )


def wait_for_workdir(workdir: Path, num_seconds: float = 120.0) -> None:
    """Returns when this process sees the folder that another one, perhaps on another host, holds.

    Network file systems may show a new folder late.

    Raises:
      UserError: if it is not the same folder.
    """
    end = time.monotonic() + num_seconds
    while not (workdir / LOCK_FILE).exists():
        if time.monotonic() > end:
            raise UserError(
                f"workdir {workdir} is not where process 0 sees it: it must be on a disk that all hosts share"
            )
        time.sleep(0.5)


class MetricsLog:
    """The records of `metrics.jsonl`, one JSON object a line, each with "step" and "epoch"."""

    def __init__(self, workdir: Path, records: list[Record] | None = None) -> None:
        """Reads the existing log, unless it is given as `records`.

        A last line cut off by a crash is dropped; other lines that are no records are as well, with a warning.
        """
        self.path = workdir / METRICS_FILE
        self.records: list[Record] = records or []
        self.num_damaged = 0
        if records is None and self.path.exists():
            self.records, self.num_damaged = _parse(self.path.read_bytes())
            if self.num_damaged:
                logger.warning(f"{self.path}: {self.num_damaged} damaged lines are left out")

    def keep_copy(self) -> Path:
        """Copies the file to the first free of `metrics-1.jsonl`, `metrics-2.jsonl` … and returns that."""
        numbers = itertools.count(1)
        copy = next(path for k in numbers if not (path := self.path.with_stem(f"{self.path.stem}-{k}")).exists())
        with writing(copy):
            shutil.copyfile(self.path, copy)
            sync_path(copy)
        return copy

    def forget_after(self, step: int) -> None:
        """Drops the records of later steps than `step`: they are about to be made again."""
        self.records = [record for record in self.records if record["step"] <= step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def append(self, record: Record) -> None:
        """Adds a record, on disk when this returns.

        Raises:
          RunError: if it cannot be written.
        """
        self.records.append(record)
        with writing(self.path), self.path.open("a", newline="\n") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def evaluation(self, step: int, split: str) -> dict[str, Any] | None:
        """Returns the evaluation of `split` that has been recorded for `step`: its "loss", "accuracy" …; None if
        none has.
        """
        found = (evaluation_in(record, split) for record in self.records if record["step"] == step)
        return next((metrics for metrics in found if metrics is not None), None)


def evaluation_in(record: Record, split: str) -> dict[str, Any] | None:
    """Returns the evaluation of `split` in a record: its "loss", "accuracy" …; None if there is none."""
    prefix = f"{split}_"
    if f"{prefix}accuracy" not in record:
        return None
    return {name.removeprefix(prefix): record[name] for name in record if name.startswith(prefix)}


def _is_left_by_a_start(path: Path) -> bool:
    """Returns whether a start that was killed at once may have left a file or folder of a workdir."""
    is_partial_config = path.name.lstrip(".").startswith(f"{CONFIG_FILE}.") and path.suffix == PARTIAL
    return path.name == LOCK_FILE or is_partial_config or (path.is_dir() and not any(path.iterdir()))


def read_records(workdir: Path) -> list[Record]:
    """Returns the records of the metrics log, without a word on damaged lines; none where there is no log."""
    path = workdir / METRICS_FILE
    return _parse(path.read_bytes())[0] if path.exists() else []


def last_record(workdir: Path) -> Record | None:
    """Returns the record of the latest step in the metrics log; None without one."""
    return max(read_records(workdir), key=lambda record: record["step"], default=None)


def _parse(text: bytes) -> tuple[list[Record], int]:
    """Returns the records of a log, and how many of its whole lines are none."""
    records: list[Record] = []
    damaged = 0
    for line in text.splitlines(keepends=True):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or type(record["step"]) is not int or "epoch" not in record:
                raise ValueError(line)
            records.append(record)
        except (ValueError, KeyError):
            damaged += line.endswith(b"\n")
    return records, damaged
