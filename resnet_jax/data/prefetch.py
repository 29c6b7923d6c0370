"""Batches made ahead of their use, in threads, so that the device never waits for the host."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

# The device holds the running step's batch and the next two.
DEPTH = 2


def prefetch(make: Callable[[int], Item], positions: Iterable[int], depth: int = DEPTH) -> Generator[Item, None, None]:
    """Yields make(position) for each of `positions`, in order, `depth` of them ahead, each made in a separate thread.

    An error of `make` is raised in place of its result. Closing the generator waits for those in the making.
    """
    remaining = iter(positions)
    pending: deque[Future[Item]] = deque()
    threads = ThreadPoolExecutor(depth, thread_name_prefix="prefetch")

    def submit_next() -> None:
        for position in remaining:
            pending.append(threads.submit(make, position))
            return

    try:
        for _ in range(depth):
            submit_next()
        while pending:
            item = pending.popleft().result()
            submit_next()
            yield item
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
