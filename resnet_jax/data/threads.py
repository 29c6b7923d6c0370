"""Threads that decode and transform images."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from resnet_jax.runtime import num_cores


class DecodeThreads:
    """A pool that several batches share, each batch's images taken in turn by all threads."""

    def __init__(self, num_threads: int = 0) -> None:
        """num_threads: 0 is one for each core that the process may use."""
        self.num_threads = num_threads or max(1, int(num_cores()))
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode")

    def for_each(self, function: Callable[[int], None], count: int) -> None:
        """Calls function(i) for i in range(count), in any order; the first exception is raised when all threads are
        done.
        """
        numbers = iter(range(count))

        def work() -> None:
            for i in numbers:
                function(i)

        futures = [self._pool.submit(work) for _ in range(min(self.num_threads, count))]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
