"""Writing in the background: one thread, one job after the other, and nothing more after the first that fails."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import RunError, first_line

Job = Callable[[], None]


class BackgroundWriter:
    """Jobs that run in the order in which they were given; a context manager that waits for all of them.

    After a failure the jobs that wait are dropped: a later checkpoint may say that an earlier one is there.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[str, Job] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failure: RunError | None = None
        self._copy = HostCopy()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def submit(self, what: str, job: Job) -> None:
        """Runs `job` after those given before; `what`, for the message if it fails: "FILE could not be written"."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="saves")
            self._thread.start()
        self._jobs.put((what, job))

    def copy(self, state: Any) -> Any:
        """Returns a copy of the state, a tree of arrays, in host memory; it is valid until you ask for
        the copy of another state.

        That waits until all jobs are done, since they may still be writing the last copy.
        """
        if not self._copy.is_of(state):
            self._jobs.join()
        return self._copy.of(state)

    def raise_failure(self) -> None:
        """Raises RunError if a job has failed."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Returns when all jobs are done.

        Raises:
          RunError: if one has failed.
        """
        self._jobs.join()
        self.raise_failure()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            what, job = entry
            try:
                if self._failure is None:
                    job()
            except BaseException as error:  # of Orbax and TensorStore nearly every kind
                self._failure = RunError(f"{what}: {first_line(error)}")
            finally:
                self._jobs.task_done()
        self._jobs.task_done()


class HostCopy:
    """A copy of a tree of arrays in host memory, which the next tree's copy overwrites.

    New memory would cost several times what copying does.
    """

    def __init__(self) -> None:
        self._original: Any = None
        self._arrays: list[np.ndarray] = []
        self._tree: Any = None

    def is_of(self, tree: Any) -> bool:
        """Returns whether the copy was made from this very tree."""
        return self._original is tree

    def of(self, tree: Any) -> Any:
        """Returns the copy of `tree`."""
        if self.is_of(tree):
            return self._tree
        leaves, structure = jax.tree.flatten(tree)
        leaves = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
        # Of one device, which holds all: a separate array, whose view does not keep the state from being donated.
        shards = [leaf.addressable_data(0) for leaf in leaves]
        for shard in shards:
            # All at once from an accelerator. On the CPU jax 0.11's copy is the array itself, then not donated.
            if all(device.platform != "cpu" for device in shard.devices()):
                shard.copy_to_host_async()
        if [(array.shape, array.dtype) for array in self._arrays] != [(leaf.shape, leaf.dtype) for leaf in leaves]:
            self._arrays = [np.empty(leaf.shape, leaf.dtype) for leaf in leaves]
        for array, shard in zip(self._arrays, shards, strict=True):
            np.copyto(array, np.asarray(shard))
        self._original, self._tree = tree, jax.tree.unflatten(structure, self._arrays)
        return self._tree
