"""A run's folder, wherever it is: on a disk, or in a bucket with a copy on this machine's disk (see `run_copy`)."""

import atexit
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.distributed.sync import broadcast_from_process_0, sync_errors
from resnet_jax.errors import RunError, UserError
from resnet_jax.filesystem import expand
from resnet_jax.storage.address import check_address, is_address
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.storage.run_copy import RunCopy
from resnet_jax.storage.run_files import download_run


@dataclass(frozen=True)
class Workdir:
    """A run's folder.

    Attributes:
      path: on this machine.
      address: as the user gave it.
      publish: brings all that has changed to where others see it; called when a checkpoint is whole, by any thread.
      check: raises RunError if another run writes there now.
    """

    path: Path
    address: str
    publish: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None

    @property
    def identity(self) -> str:
        """Returns the part that is the same for all processes of a run."""
        return self.address if is_address(self.address) else str(self.path.absolute())


@contextlib.contextmanager
def open_workdir(text: str | Path) -> Iterator[Workdir]:
    """Yields the folder of a run that is to be trained: a path as it is, or an address as this machine's copy of it.

    All processes call it. At the end everything that process 0 has in its copy is in the bucket, and the copy is
    removed; one whose files could not be brought there stays, with a message.

    Raises:
      UserError: a ValueError: a bucket that is not there or refuses, or a run that another one writes.
      RunError: the store could not be reached for as long as was waited.
    """
    if not is_address(text):
        path = expand(text)
        yield Workdir(path, str(path))
        return
    address = check_address(str(text))
    copy = sync_errors(lambda: RunCopy(address))
    with _named(copy.path, address):
        try:
            broadcast_from_process_0(copy.take)
            sync_errors(copy.look)
            yield Workdir(copy.path, address, copy.publish, copy.check)
        except BaseException:
            copy.close(has_failed=True)
            raise
        sync_errors(lambda: copy.close(has_failed=False))


def read_run(text: str | Path, *, arrays: bool = True, may_be_new: bool = False) -> Path:
    """Returns the folder of a run, or of converted weights, to read from: a path as it is, or of an address a copy that
    is removed when the process ends.

    Args:
      arrays: checkpoints are to be had as well, not only what a run says of itself.
      may_be_new: of an address where nothing is yet, an empty folder instead of an error.

    Raises as `open_workdir`; UserError if nothing is there.
    """
    if not is_address(text):
        return expand(text)
    parent = Path(tempfile.mkdtemp(prefix="resnet_jax-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    above, _, name = str(text).rstrip("/").rpartition("/")
    if Path(name).suffix and not above.endswith(
        ":/"
    ):  # of one file: a folder's name with a dot in it is looked for next
        if ObjectStore(above, may_be_bucket=True).download(name, parent / name):
            return parent / name
        (parent / name).unlink(missing_ok=True)
    store = ObjectStore(str(text))
    if not download_run(store, parent / name, arrays=arrays) and not may_be_new:
        raise UserError(f"{store.address} holds no run and no weights: nothing is there")
    return parent / name


@contextlib.contextmanager
def _named(path: Path, address: str) -> Iterator[None]:
    """Has errors and the log name the run by its address, not by this machine's copy."""

    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(str(path), address), ()
        return True

    handlers = logging.getLogger("resnet_jax").handlers
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    except (UserError, RunError) as error:
        error.args = tuple(str(part).replace(str(path), address) for part in error.args)
        raise
    finally:
        for handler in handlers:
            handler.removeFilter(rename)
