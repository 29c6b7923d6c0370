"""The one object that says what a run in a bucket is: its files, and who is writing them.

`index.json` is only ever replaced where nobody else has replaced it since (a conditional write). So it does three
things: a file belongs to the run from the moment that the index names it, all of a checkpoint at once; a run that has
lost its place to another cannot write an index any more; and a holder that lives is seen by its index changing, however
wrong the clocks are.
"""

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass

from resnet_jax.errors import RunError, UserError, truncate
from resnet_jax.storage.address import check_key
from resnet_jax.storage.holder import Holder, this_process
from resnet_jax.storage.object_store import ObjectStore, Version
from resnet_jax.storage.settings import environment_number

logger = logging.getLogger(__name__)

INDEX_FILE = "index.json"
FORMAT = 1
# A holder writes the index every BEAT_SECONDS; one that has not for LEASE_SECONDS is taken for dead.
LEASE_SECONDS, BEAT_SECONDS = 60.0, 15.0
LEASE_VARIABLE = "RESNET_JAX_LEASE_SECONDS"
_LOOK_SECONDS = 1.0

Files = dict[str, int]  # bytes by key


@dataclass(frozen=True)
class Index:
    """The object's content; `version` is the store's, for the next conditional write."""

    files: Files
    holder: Holder | None
    version: Version


def lease_seconds() -> float:
    """Returns after how long a holder that says nothing is dead: RESNET_JAX_LEASE_SECONDS, or a minute.

    Raises:
      UserError: if that is less than a second.
    """
    return environment_number(
        LEASE_VARIABLE, LEASE_SECONDS, "a number of seconds, at least 1", lambda seconds: seconds >= 1
    )


def read_index(store: ObjectStore, patience: float | None = None) -> Index | None:
    """Returns the index; None if there is none. patience: instead of the store's.

    Raises:
      UserError: if it is not one that this version reads.
    """
    found = store.get(INDEX_FILE, patience)
    if found is None:
        return None
    data, version = found
    where = f"{store.address}/{INDEX_FILE}"
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise UserError(f"{where} is of format {content['format']}, and this version reads {FORMAT}")
        holder = None if content["holder"] is None else Holder(**content["holder"])
        files = {check_key(store.address, str(key)): int(size) for key, size in content["files"].items()}
        return Index(files, holder, version)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{where} is no index of a run: bring it back, or choose another place") from None


class RunLease:
    """The right to write a run in a bucket, and its list of files; one thread at a time writes the index."""

    def __init__(self, store: ObjectStore) -> None:
        """Holds nothing yet."""
        self._store, self._seconds = store, lease_seconds()
        self._me = this_process(self._seconds)
        self._confirmed = _now()
        self._version: Version | None = None
        self._files: Files = {}
        self._beat, self._lost = 0, ""
        self._lock = threading.Lock()

    @property
    def beat_seconds(self) -> float:
        """How often `write` is to be called at least."""
        return self._seconds * BEAT_SECONDS / LEASE_SECONDS

    def acquire(self) -> Files:
        """Takes the run, where nobody lives who holds it, and returns the files that its index names.

        Whoever held it is watched for as long as a holder may say nothing, unless it is known to be dead.

        Raises:
          UserError: if another run holds it, or what is there is no run.
        """
        index = read_index(self._store)
        if index is None:
            self._files = files_by_listing(self._store)  # of a run that was copied there by hand
        else:
            if index.holder is not None and not index.holder.is_dead():
                index = self._watch(index)
            self._files, self._version = index.files, index.version
        with self._lock:
            if not self._replace():
                raise self._in_use(read_index(self._store))
            first = self._version
            if not self._replace():
                raise self._in_use(read_index(self._store))
            held = self._version
            for wrong in (None, first):  # as if there were no index yet, or an older one
                self._version = wrong
                if self._replace():
                    raise UserError(
                        f"{self._store.address}: the store replaces objects without regard to their version, so two "
                        "runs could write in one place: use a store with conditional writes, or a disk"
                    )
            self._version = held
        return self._files

    def write(self, files: Files | None = None, patience: float | None = None) -> None:
        """Writes the index, with the same files as before if None, and so says that the holder lives.

        Raises:
          RunError: if another run has taken this one's place, at this call and all later ones.
        """
        with self._lock:
            self.check()
            before = self._files
            self._files = before if files is None else files
            try:
                self._replace_own(patience=patience)
            except BaseException:
                self._files = before
                raise
            self.check()

    def confirm(self) -> None:
        """Raises RunError if another run has taken this one's place; the store is asked if that may be by now."""
        self.check()
        if _now() - self._confirmed > self._seconds / 2:
            self.write()

    def check(self) -> None:
        """Raises RunError if another run is known to have taken this one's place."""
        if self._lost:
            raise RunError(self._lost)

    @property
    def files(self) -> Files:
        """The files that the index names."""
        return self._files

    @property
    def is_lost(self) -> bool:
        """Another run has taken this one's place."""
        return bool(self._lost)

    def release(self) -> None:
        """Writes the index with nobody as the holder."""
        with self._lock:
            if not self._lost:
                self._replace_own(is_held=False)

    def _watch(self, index: Index) -> Index:
        """Returns the index when its holder has said nothing for long enough, or has let it go; UserError as soon as it
        shows that it lives.
        """
        assert index.holder is not None
        seconds = max(self._seconds, index.holder.lease_seconds)
        logger.info(f"{self._store.address} is held by {index.holder}: waiting {seconds:g} s for a sign of life of it")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(_LOOK_SECONDS, self._seconds / 10))
            now = read_index(self._store)
            if now is not None and now.holder is None:
                return now
            if now is None or now.version != index.version:
                raise self._in_use(now)
        return index

    def _replace_own(self, *, is_held: bool = True, patience: float | None = None) -> None:
        """Writes the index if nobody else has; notes who has, if so.

        A write whose answer was lost may have arrived: then the store has a version that was never heard of here.
        """
        if self._replace(is_held=is_held, patience=patience):
            return
        index = read_index(self._store, patience)
        holder = None if index is None else index.holder
        if index is not None and holder is not None and holder.id == self._me.id:
            self._version = index.version
            if self._replace(is_held=is_held, patience=patience):
                return
        self._lost = (
            f"{self._store.address} was taken over by another run ({holder or 'nobody'}), since this one said nothing "
            f"for more than {self._seconds:g} s: it writes no more"
        )

    def _replace(self, *, is_held: bool = True, patience: float | None = None) -> bool:
        """Writes the index if it is still the one that was read or written last; returns whether it was."""
        self._beat += 1
        content = {
            "format": FORMAT,
            # Both distinguish two equal indexes, which S3 does not.
            "holder": asdict(self._me) if is_held else None,
            "written": f"{self._me.id} {self._beat}",
            "files": dict(sorted(self._files.items())),
        }
        data, began = json.dumps(content, indent=1).encode(), _now()
        version = self._store.replace(INDEX_FILE, data, self._version, patience)
        if version is None:
            return False
        self._version, self._confirmed = version, began
        return True

    def _in_use(self, index: Index | None) -> UserError:
        holder = "" if index is None or index.holder is None else f" ({index.holder})"
        return UserError(f"{self._store.address} is in use by another run{holder}: wait for it or choose another place")


def files_by_listing(store: ObjectStore) -> Files:
    """Returns the files of a run without an index, or of converted weights, as they were copied there.

    Raises:
      UserError: if something else is there.
    """
    files = {entry.key: entry.num_bytes for entry in store.list() if entry.key != INDEX_FILE}
    if files and not {"config.json", "manifest.json"} & files.keys():
        raise UserError(
            f"{store.address} is no run's: it holds {truncate(min(files))!r} but no config.json; choose another place"
        )
    return files


def _now() -> float:
    """Returns seconds on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
