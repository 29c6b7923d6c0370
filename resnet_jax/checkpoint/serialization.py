"""A checkpoint's items: trees of arrays in folders that Orbax writes and reads, by one process and for itself alone.

Whoever has several processes decides which of them writes; none waits here for another.
"""

import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.checkpoint.manifest import NOT_THERE, Leaves, check_leaves
from resnet_jax.errors import DamagedCheckpointError, RunError, first_line, os_error_code

# asyncio's words, when TensorStore's threads call the loop of Orbax that is over; and how late they may do so.
LATE = "Event loop is closed"
LATE_SECONDS = 0.2


def load_orbax() -> None:
    """Imports the modules that write and read, which takes part of a second, before something must be written fast."""
    import orbax.checkpoint  # noqa: F401


def write_item(folder: Path, tree: Any) -> None:
    """Writes a tree of NumPy arrays as the new `folder`.

    Raises whatever Orbax and TensorStore raise, of every kind.
    """
    import orbax.checkpoint as ocp

    with _without_late_callbacks(), _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def read_item(folder: Path, leaves: Leaves, template: Any = None) -> Any:
    """Returns the tree of NumPy arrays in `folder`: nested dicts, or of the structure of `template`.

    Args:
      leaves: what the manifest says of it;
      template: its arrays have no data, only types and shapes.

    Raises:
      DamagedCheckpointError: if the arrays are not those or not there, RunError if the disk does not give them.
    """
    restored = read_tree(folder, template)
    check_leaves(folder, restored, leaves)
    return restored


def read_tree(folder: Path, template: Any = None) -> Any:
    """Returns the tree in `folder` whatever its arrays are, as `read_item` does.

    Raises:
      DamagedCheckpointError: if it is not there or cannot be understood, RunError if the disk does not give it.
    """
    import orbax.checkpoint as ocp

    try:
        with _without_late_callbacks(), _checkpointer() as checkpointer:
            if template is None:
                tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
            else:
                tree = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), template)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            arguments = ocp.args.PyTreeRestore(item=None if template is None else tree, restore_args=as_numpy)
            return checkpointer.restore(folder.absolute(), args=arguments)
    except MemoryError as error:
        raise RunError(f"{folder} cannot be read: there is not enough memory") from error
    except Exception as error:  # Orbax and TensorStore raise nearly every kind
        if os_error_code(error) not in (None, *NOT_THERE):
            raise RunError(f"{folder} cannot be read: {first_line(error)}") from error
        raise DamagedCheckpointError(f"{folder} is damaged: {first_line(error)}") from error


@contextmanager
def _without_late_callbacks() -> Iterator[None]:
    """Keeps libraries from telling of each array that fails, also later, besides the one that is raised."""
    hook = sys.unraisablehook
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    sys.unraisablehook = lambda event: None if LATE in str(event.exc_value) else hook(event)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except BaseException as error:
        time.sleep(LATE_SECONDS)
        # asyncio reports a failed array when its future is collected, and the frames of the error hold some of them.
        _clear_frames(error)
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _clear_frames(error: BaseException | None) -> None:
    """Lets the local variables go of the functions that an error, and what led to it, has left."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _checkpointer() -> Iterator[Any]:
    import orbax.checkpoint as ocp

    # Of many processes each works for itself: Orbax's barriers are then between one.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    options = alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        yield checkpointer
