"""Decisions that the processes of a run make together, between steps: the same for all, or the same error for all.

Every function here is called by all processes, in the same order, and costs a round over the network; a process that is
alone calls only the function that it gets.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.distributed.processes import LOST
from resnet_jax.errors import FAULTS_OF_THE_DISK, DamagedCheckpointError, NonFiniteError, Preempted, RunError, UserError

Result = TypeVar("Result")
# What a failure is raised as where it did not happen: one of these, see `_kind`.
FAILURES = (UserError, DamagedCheckpointError, Preempted, RunError, NonFiniteError)
NUM_BYTES = 3000  # of a failure's message


def sync_errors(function: Callable[[], Result]) -> Result:
    """Returns function() of this process, which must not wait for other processes.

    Raises, in all processes, an error of the kind of the first that has one, so that all go on in the same way; where
    it did not happen, with that process's number. RunError if a process has gone.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    try:
        result = function()
    except (Exception, KeyboardInterrupt, Preempted) as raised:
        error = raised
    with _meeting():
        failures = [_decode(text) for text in multihost_utils.process_allgather(_encode(error))]
    process, failure = next(((i, failure) for i, failure in enumerate(failures) if failure), (0, None))
    if failure is None:
        return result  # type: ignore[return-value]
    kind, text = failure
    if error is not None and _kind(error) == kind:
        raise error
    text = text if kind == Preempted.__name__ else f"process {process}: {text}"
    raise next((known for known in FAILURES if known.__name__ == kind), RuntimeError)(text) from error


def broadcast_from_process_0(function: Callable[[], Result]) -> Result:
    """Returns function() of process 0, for all; its result must fit JSON.

    An error there is raised by all.
    """
    if jax.process_count() == 1:
        return function()
    value = sync_errors(lambda: json.dumps(function()).encode() if jax.process_index() == 0 else b"")
    with _meeting():
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(value))))
        text = multihost_utils.broadcast_one_to_all(np.frombuffer(value.ljust(size), np.uint8))
    return json.loads(np.asarray(text).tobytes())


def allgather(value: Any) -> list[Any]:
    """Returns the `value` of each process, in their order; it must fit JSON."""
    if jax.process_count() == 1:
        return [value]
    data = json.dumps(value).encode()
    with _meeting():
        longest = int(np.max(multihost_utils.process_allgather(np.int32(len(data)))))
        rows = multihost_utils.process_allgather(np.frombuffer(data.ljust(longest), np.uint8))
    return [json.loads(row.tobytes()) for row in np.asarray(rows)]


def assert_equal_across_processes(what: str, value: str) -> None:
    """Raises UserError (a ValueError) in all processes unless `value` is the same in all."""
    first = broadcast_from_process_0(lambda: value)

    def compare() -> None:
        if value != first:
            raise UserError(f"{what} are not those of process 0: start all processes with the same")

    sync_errors(compare)


@contextmanager
def _meeting() -> Iterator[None]:
    """Yields a round over the network, which fails if a process has gone; gloo's error then is of any kind."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{LOST} ({(str(error).splitlines() or [''])[0]})") from error


def _kind(error: BaseException) -> str:
    """Returns the name of what `error` is raised as by the other processes: as the commands would answer it."""
    if type(error) in FAILURES:
        return type(error).__name__
    if isinstance(error, OSError):
        return (RunError if error.errno in FAULTS_OF_THE_DISK else UserError).__name__
    return UserError.__name__ if isinstance(error, UserError) else type(error).__name__  # a bad image, for one


def _encode(error: BaseException | None) -> np.ndarray:
    """Returns of a fixed length; all zeros if there is none."""
    text = ""
    if error is not None:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        # JSON writes some bytes as \\u0000, and a path may hold bytes that are no text.
        cut = message.encode(errors="backslashreplace")[: NUM_BYTES // 6].decode(errors="ignore")
        text = json.dumps([_kind(error), cut or _kind(error)], ensure_ascii=False)
    return np.frombuffer(text.encode().ljust(2 * NUM_BYTES, b"\0"), np.uint8)


def _decode(text: np.ndarray) -> list[str] | None:
    stripped = text.tobytes().rstrip(b"\0")
    return json.loads(stripped) if stripped else None
