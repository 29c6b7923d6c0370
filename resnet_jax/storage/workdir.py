"""A run's folder, wherever it is: on a disk, or in a bucket with a copy on this machine's disk (see `run_copy`)."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.distributed.sync import broadcast_from_process_0, sync_errors
from resnet_jax.errors import RunError, UserError
from resnet_jax.filesystem import expand
from resnet_jax.storage.address import check_address, is_address
from resnet_jax.storage.run_copy import RunCopy


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
