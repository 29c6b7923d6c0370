"""What the processes of a run decide together, between steps: the same for all, or the same error for all.

Every function here is called by all processes, in the same order, and costs a round over the network; a process that is
alone just calls what it is given.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.errors import InterruptedRunError, NonFiniteError, RunError, UserError
from resnet_jax.weights.manifest import DamagedCheckpointError

Result = TypeVar("Result")
# What a failure is raised as where it did not happen; any other bad input becomes a UserError, the rest a RuntimeError.
FAILURES = (UserError, DamagedCheckpointError, InterruptedRunError, RunError, NonFiniteError)
NUM_BYTES = 3000  # of a failure's message


def together(function: Callable[[], Result]) -> Result:
    """function() of this process, which must not wait for other processes.

    Raises its error, or, where it succeeded, that of the first process where it did not: no process goes on alone.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    try:
        result = function()
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    failures = [_decode(text) for text in multihost_utils.process_allgather(_encode(error))]
    if error is not None:
        raise error
    for process, failure in enumerate(failures):
        if failure:
            kind, text = failure
            text = text if kind == InterruptedRunError.__name__ else f"process {process}: {text}"
            raise next((known for known in FAILURES if known.__name__ == kind), RuntimeError)(text)
    return result  # type: ignore[return-value]


def from_first(function: Callable[[], Result]) -> Result:
    """function() of process 0, for all; it returns what JSON can hold. An error there is raised by all."""
    if jax.process_count() == 1:
        return function()
    value = together(lambda: json.dumps(function()).encode() if jax.process_index() == 0 else b"")
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(value))))
    text = multihost_utils.broadcast_one_to_all(np.frombuffer(value.ljust(size), np.uint8))
    return json.loads(np.asarray(text).tobytes())


def gather(value: Any) -> list[Any]:
    """The `value` of each process, in their order; what JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    data = json.dumps(value).encode()
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(data)))))
    rows = multihost_utils.process_allgather(np.frombuffer(data.ljust(longest), np.uint8))
    return [json.loads(row.tobytes()) for row in np.asarray(rows)]


def check_same(what: str, value: str) -> None:
    """Raise UserError (a ValueError) in all processes unless `value` is the same in all."""
    first = from_first(lambda: value)

    def compare() -> None:
        if value != first:
            raise UserError(f"{what} are not those of process 0: start all processes with the same")

    together(compare)


def _encode(error: BaseException | None) -> np.ndarray:
    """Of a fixed length; all zeros if there is none."""
    text = ""
    if error is not None:
        message = str(error).encode()[: NUM_BYTES // 6].decode(errors="ignore")  # JSON writes some bytes as \\u0000
        bad_input = isinstance(error, UserError) and type(error) not in FAILURES  # a bad image, for one
        kind = UserError.__name__ if bad_input else type(error).__name__
        text = json.dumps([kind, message or kind], ensure_ascii=False)
    return np.frombuffer(text.encode().ljust(2 * NUM_BYTES, b"\0"), np.uint8)


def _decode(text: np.ndarray) -> list[str] | None:
    stripped = text.tobytes().rstrip(b"\0")
    return json.loads(stripped) if stripped else None
