"""A checkpoint's items: trees of arrays in folders that Orbax writes and reads, by one process and for itself alone.

Whoever has several processes decides which of them writes; none waits here for another.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.weights.manifest import DamagedCheckpointError, Leaves, check_leaves

# asyncio's words, when TensorStore's threads call the loop of Orbax that is over; and how late they may do so.
LATE = "Event loop is closed"
LATE_SECONDS = 0.2
_OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")
_MOST_CHARACTERS = 400


def load_orbax() -> None:
    """Import what writes and reads, which takes part of a second, before there is something to write in a hurry."""
    import orbax.checkpoint  # noqa: F401


def write_item(folder: Path, tree: Any) -> None:
    """Write a tree of NumPy arrays as the new `folder`. Raises whatever Orbax and TensorStore raise, of every kind."""
    import orbax.checkpoint as ocp

    with _without_late_callbacks(), _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def read_item(folder: Path, leaves: Leaves, template: Any = None) -> Any:
    """The tree of NumPy arrays in `folder`: nested dicts, or of the structure of `template`.

    leaves: what the manifest says of it; template: its arrays have no data, only types and shapes.
    Raises DamagedCheckpointError if the arrays cannot be read or are not those.
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
            restored = checkpointer.restore(folder.absolute(), args=arguments)
    except Exception as error:  # Orbax and TensorStore raise nearly every kind
        raise DamagedCheckpointError(f"{folder} is damaged: {first_line(error)}") from error
    check_leaves(folder, restored, leaves)
    return restored


def first_line(error: BaseException) -> str:
    """An exception's message in one line, without all that TensorStore adds to it; its type if it has none."""
    text = str(error)
    if (code := _OS_ERROR.search(text)) is not None:  # what the operating system said, however it was wrapped
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" [tensorstore_spec=")[0][:_MOST_CHARACTERS]


@contextmanager
def _without_late_callbacks() -> Iterator[None]:
    """Keeps Python from printing what arrays raise that are ready when reading or writing another has failed."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda event: None if LATE in str(event.exc_value) else hook(event)
    try:
        yield
    except BaseException:
        time.sleep(LATE_SECONDS)
        raise
    finally:
        sys.unraisablehook = hook


@contextmanager
def _checkpointer() -> Iterator[Any]:
    import orbax.checkpoint as ocp

    for name in ("absl", "asyncio"):  # they would tell of each array that fails, besides what is raised
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Of many processes each works for itself: Orbax's barriers are then between one.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    options = alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        yield checkpointer
