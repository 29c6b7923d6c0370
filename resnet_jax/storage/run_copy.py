"""The copy of a run in a bucket on this machine's disk, in which the run works.

Its small files are brought to the bucket as they change, and a checkpoint when it is whole; the bucket's index names it
then (see `run_index`). So the bucket holds a run's folder like any other: whole files, that other tools can copy.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import jax

from resnet_jax.errors import RunError, UserError, first_line
from resnet_jax.filesystem import PARTIAL, try_lock
from resnet_jax.runtime import home
from resnet_jax.storage.object_store import FIRST_PATIENCE_SECONDS, ObjectStore, patience_seconds
from resnet_jax.storage.run_files import (
    MANIFEST_FILE,
    NUM_THREADS,
    bring_files,
    download_run,
    is_manifest,
    is_note,
    step_of,
)
from resnet_jax.storage.run_index import INDEX_FILE, Files, RunLease

logger = logging.getLogger(__name__)

# Beside the copy: that it is there, and that it holds what could not be sent.
_MARK, _UNSENT = ".resnet_jax-copy", ".resnet_jax-unsent"
_ALWAYS_THERE = ("config.json", "metrics.jsonl")  # once they are: without them the copy was emptied
_UNFINISHED = (PARTIAL, ".replaced", ".removed", ".lock")
_LATE_SECONDS = 2.0
_Stamp = tuple[int, int, int]  # a file's size, time and number: when it has changed, so has one of them


class RunCopy:
    """The copy of a run in a bucket on this machine; process 0's is what the run writes, others' only read."""

    def __init__(self, address: str) -> None:
        self._store = ObjectStore(address)
        self._lease = RunLease(self._store)
        self._patience = patience_seconds()
        self._writes = jax.process_index() == 0
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        # Several processes of one machine have one each.
        self._parent = home() / "buckets" / f"{digest}-{jax.process_index()}"
        self.path = self._parent / address.rpartition("/")[2]
        self._lock_file = self._lock_parent()
        self._sent: dict[str, _Stamp] = {}
        self._sending = threading.Lock()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_taken = False
        self._is_complete = False  # holds all that the bucket holds: what is not here has been removed by the run

    def _lock_parent(self) -> IO[str]:
        """Locks the copy; what a process that was killed has left there goes, what could not be sent stays aside."""
        self._parent.parent.mkdir(parents=True, exist_ok=True)
        file = self._parent.with_suffix(".lock").open("a+")
        if not try_lock(file):
            file.close()
            raise UserError(f"{self._store.address} is in use by another run on this machine: wait for it")
        if (self._parent / _UNSENT).exists():
            self._parent.rename(self._name_aside())
        shutil.rmtree(self._parent, ignore_errors=True)
        self._parent.mkdir(mode=0o700)
        (self._parent / _MARK).touch()
        return file

    def take(self) -> None:
        """Takes the run, says from then on that it is held, and brings its files here. Process 0 alone does it."""
        files = self._lease.acquire()
        self._has_taken = True
        self._thread = threading.Thread(target=self._beat, name="bucket", daemon=True)
        self._thread.start()
        missing = bring_files(self._store, files, self.path)
        if missing:  # once more, for stores that show an object late; what has really gone is as good as damaged
            time.sleep(_LATE_SECONDS)
            bring_files(self._store, {key: files[key] for key in missing}, self.path)
        self._bring_unnamed(files)
        self._sent = self._walk()
        self._lease.write({key: stamp[0] for key, stamp in self._sent.items()})  # which other processes go by
        self._store.patience = self._patience
        self._is_complete = True

    def _bring_unnamed(self, files: Files) -> None:
        """Brings what the index does not name: written just before a kill, or brought back by hand.

        Of a step only if it is whole; what a kill has left of others is removed.
        """
        steps: dict[str, Files] = {}
        for entry in self._store.list():
            if entry.key in files or entry.key == INDEX_FILE:
                continue
            if step := step_of(entry.key):
                steps.setdefault(step, {})[entry.key] = entry.num_bytes
            elif "/" not in entry.key:
                bring_files(self._store, {entry.key: entry.num_bytes}, self.path)
        for step, its in steps.items():
            is_named = any(step_of(key) == step for key in files)
            is_whole = f"{step}/{MANIFEST_FILE}" in its and not is_named
            if not is_whole or bring_files(self._store, its, self.path):
                if not is_named:
                    shutil.rmtree(self.path / step, ignore_errors=True)
                self._lease.write()  # nothing is removed where another run writes by now
                self._store.delete(its)

    def look(self) -> None:
        """Brings the run's files to a process that only reads them."""
        if not self._writes:
            download_run(self._store, self.path, arrays=True)
            (self.path / ".lock").touch()  # by which it knows the folder

    def check(self) -> None:
        """Raises RunError if another run is known to have taken this one's place."""
        self._lease.check()

    def publish(self) -> None:
        """Brings all that has changed here into the bucket, then the index, and removes the steps that are gone."""
        if not self._writes:
            return
        with self._sending:
            self._lease.write()  # nothing is sent to where another run writes
            here, named = self._walk(), self._lease.files
            if not (self._parent / _MARK).exists() or any(key in named and key not in here for key in _ALWAYS_THERE):
                raise RunError(f"{self.path} was removed or emptied while the run went on: nothing of it is sent")
            changed = [key for key, stamp in here.items() if self._sent.get(key) != stamp]
            replaced = {step_of(key) for key in changed if key in named} - {""}
            if replaced:  # of the same number: absent while it is neither the old nor the new one
                named = {key: size for key, size in named.items() if step_of(key) not in replaced}
                self._lease.write(named)
            gone = {key for key in self._sent if key not in here and step_of(key)}
            sizes = {key: stamp[0] for key, stamp in here.items()}
            self._send([key for key in changed if not is_manifest(key) and not is_note(key)], here)
            self._send([key for key in changed if is_manifest(key)], here)
            # A note of what was saved last comes when that is there, and before the one that it named goes.
            self._lease.write({**named, **{key: size for key, size in sizes.items() if not is_note(key)}})
            self._send([key for key in changed if is_note(key)], here)
            self._lease.write({**{key: size for key, size in named.items() if not step_of(key)}, **sizes})
            for key in gone:
                del self._sent[key]
            self._store.delete((key for key in gone if is_manifest(key)), self._lease.confirm)
            self._store.delete((key for key in gone if not is_manifest(key)), self._lease.confirm)

    def close(self, *, has_failed: bool) -> None:
        """Brings what is left into the bucket and lets the run go; an error that is under way stays the one raised.

        Raises:
          RunError: if that cannot be done; the copy stays then, unless another run has taken this one's place.
        """
        self._ends.set()
        if self._thread is not None:
            self._thread.join()
        if has_failed:  # perhaps because of the store, for which was waited already
            self._store.patience = min(self._patience, FIRST_PATIENCE_SECONDS)
        is_unsent, is_kept = self._is_complete and self._writes, False
        try:
            if self._is_complete:
                self.publish()
            is_unsent = False
            if self._has_taken:
                self._lease.release()
        except (RunError, UserError, OSError) as error:
            is_unsent = is_unsent and not self._lease.is_lost
            line = first_line(error)
            if is_unsent:
                kept = self._keep()
                line += "; what could not be brought there is kept: "
                if kept == self._parent:  # by the path of the copy itself messages mean the address
                    line += f"the run's folder is in {kept}, which the next start moves aside"
                else:
                    line += f"{kept / self.path.name} is the run's folder, in which it can go on"
                is_unsent, is_kept = False, True
            if not has_failed:
                raise RunError(line) from error
            logger.warning(line)
        finally:
            if is_unsent:  # interrupted
                logger.warning(f"what could not be brought to {self._store.address} is kept in {self._keep()}")
            elif not is_kept:
                shutil.rmtree(self._parent, ignore_errors=True)
            self._lock_file.close()

    def _keep(self) -> Path:
        """Moves the copy to where no start removes it, and returns that."""
        with contextlib.suppress(OSError):
            (self._parent / _UNSENT).touch()
        try:
            return self._parent.rename(self._name_aside())
        except OSError:  # a file is open, on Windows: the next start moves it
            return self._parent

    def _name_aside(self) -> Path:
        name = f"{self._parent.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{name}-{k}" if k else name for k in itertools.count())
        return next(path for path in map(self._parent.with_name, names) if not path.exists())

    def _walk(self) -> dict[str, _Stamp]:
        """Returns the files that are the run's, by their keys: nothing that is being written or removed."""
        found: dict[str, _Stamp] = {}
        for folder, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(_UNFINISHED)]
            for name in names:
                if name.startswith(".") or name.endswith(_UNFINISHED):
                    continue
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: the next time
                    status = path.stat()
                    found[path.relative_to(self.path).as_posix()] = status.st_size, status.st_mtime_ns, status.st_ino
        return found

    def _send(self, keys: Iterable[str], stamps: dict[str, _Stamp]) -> None:
        def send(key: str) -> None:
            self._store.put(key, self.path / key, before=self._lease.confirm)
            self._sent[key] = stamps[key]

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for _ in pool.map(send, keys):
                pass

    def _beat(self) -> None:
        """Says that the holder lives, and brings the small files that have changed, until the run ends."""
        is_said = False
        while not self._ends.wait(self._lease.beat_seconds):
            try:
                self._lease.write(patience=0.0)
                if self._is_complete and self._sending.acquire(
                    blocking=False
                ):  # else a checkpoint is being sent, and they with it
                    try:
                        self._send_small()
                    finally:
                        self._sending.release()
                is_said = False
            except (RunError, UserError, OSError) as error:
                if self._lease.is_lost:
                    return
                if not is_said:
                    logger.warning(f"{first_line(error)}; the run goes on, and tries again")
                is_said = True

    def _send_small(self) -> None:
        here = {key: stamp for key, stamp in self._walk().items() if "/" not in key and not is_note(key)}
        for key, stamp in here.items():
            if self._sent.get(key) != stamp:
                self._store.put(key, self.path / key, patience=0.0, before=self._lease.confirm)
                self._sent[key] = stamp
        if not here.keys() <= self._lease.files.keys():
            self._lease.write({**self._lease.files, **{key: stamp[0] for key, stamp in here.items()}}, patience=0.0)
