"""SIGTERM and Ctrl-C as a flag that the loop looks at between steps; of many processes, all see it at the same step."""

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.errors import InterruptedRunError
from resnet_jax.training.mesh import replicated, split_by_rows

# A compiled function of the train state and a batch.
Compiled = Callable[[Any, Any], Any]


class Interruption:
    """Whether a signal has asked the run to save and stop.

    at_once: raise InterruptedRunError out of whatever runs, while there is nothing to save and nobody to meet.

    A process that is alone asks its own signal handler. Of many, one may have a signal and the others not, or not yet,
    and none may leave a step that the others are in. So the step itself carries the signals (see `watch`).
    """

    def __init__(self, num_processes: int) -> None:
        """Of this process and the others."""
        self._alone = num_processes == 1
        self.at_once = self._alone
        self._own: int = 0
        self._agreed: int = 0
        self._maxima: deque[jax.Array] = deque()
        self._rows: dict[int, jax.Array] = {}

    def take(self, number: int) -> None:
        """A signal has arrived at this process."""
        self._own = number
        if self.at_once:
            raise InterruptedRunError(signal.Signals(number).name)

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        """Inside, this process waits for no other, and a signal stops it at once."""
        at_once, self.at_once = self.at_once, True
        try:
            yield
        finally:
            self.at_once = at_once

    def watch(self, function: Compiled, mesh: Mesh, donated: tuple[int, ...] = ()) -> Compiled:
        """`function` with the processes' signals in the same program; `function` itself if there is one process.

        The largest of all signals comes back with each call's result, and `requested` reads that of the call before the
        last, which is done when the last one runs: nobody waits, and all read the same at the same place. donated: the
        arguments that `function` is donated.
        """
        if self._alone:
            return function

        def step(state: Any, batch: Any, signals: jax.Array) -> tuple[Any, jax.Array]:
            return function(state, batch), jnp.max(signals)

        rows = split_by_rows(mesh)
        compiled = jax.jit(step, donate_argnums=donated, out_shardings=replicated(mesh))

        def watched(state: Any, batch: Any) -> Any:
            number = self._own
            if number not in self._rows:
                signals = np.full(len(mesh.local_devices), number, np.int32)
                self._rows[number] = jax.make_array_from_process_local_data(rows, signals)
            result, maximum = compiled(state, batch, self._rows[number])
            self._maxima.append(maximum)
            return result

        return watched

    def requested(self) -> bool:
        """Whether the run is to stop; the same in all processes."""
        if self._alone:
            self._agreed = self._own
        while len(self._maxima) > 1:
            self._agreed = self._agreed or int(self._maxima.popleft())
        return self._agreed > 0

    def raise_if_requested(self) -> None:
        """Raise InterruptedRunError if the run is to stop."""
        if self.requested():
            raise InterruptedRunError(signal.Signals(self._agreed).name)


@contextlib.contextmanager
def catch_interruptions(num_processes: int = 1) -> Iterator[Interruption]:
    """Catch the first SIGTERM or SIGINT; a second one acts as it always does, at once."""
    interruption = Interruption(num_processes)
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        del frame
        restore()
        interruption.take(number)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield interruption
    finally:
        restore()
