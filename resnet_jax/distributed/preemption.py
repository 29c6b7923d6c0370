"""What stops a run between steps: a signal, its time, or a failure; of many processes, all see it at the same step."""

import contextlib
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.distributed.mesh import replicated, split_by_rows
from resnet_jax.distributed.sync import together
from resnet_jax.errors import InterruptedRunError, NonFiniteError

Result = TypeVar("Result")
Item = TypeVar("Item")
# A compiled function of the train state and a batch.
Compiled = Callable[[Any, Any], Any]

# Kill, Ctrl-C, what batch systems are asked to send some time before they kill (Slurm's --signal=USR1@120), and the
# Ctrl-Break of Windows; those of them that this system has.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if name in signal.Signals.__members__ and hasattr(signal, name)
)
# What stops a run besides them, in numbers that are no signals': of several reasons the largest counts.
TIME_IS_UP, FAILED = 1000, 2000
SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """Whether something has asked the run to save and stop, or has failed so that it must not save.

    at_once: raise InterruptedRunError out of whatever runs, while there is nothing to save and nobody to meet.
    has_progressed: set by the loop; before, time that is up stops nothing, or short starts would never get on.

    A process that is alone asks itself. Of many, one may have a signal or a damaged image and the others not, or not
    yet, and none may leave a step that the others are in. So the step itself carries the reasons (see `watch`).
    """

    def __init__(self, num_processes: int, stop_after_minutes: float = 0.0) -> None:
        """Of this process and the others. stop_after_minutes: when its time is up, counted from now; 0: never."""
        self._alone = num_processes == 1
        self.at_once = self._alone
        self.has_progressed = False
        self._stop_after_minutes = stop_after_minutes
        self._deadline = time.monotonic() + 60.0 * stop_after_minutes if stop_after_minutes else math.inf
        self._own: int = 0
        self._agreed: int = 0
        self._failure: BaseException | None = None
        self._maxima: deque[jax.Array] = deque()
        self._rows: dict[int, jax.Array] = {}

    def take(self, number: int) -> None:
        """A signal has arrived at this process."""
        self._own = max(self._own, number)
        if self.at_once:
            self._raise()

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        """Inside, this process waits for no other, and a signal stops it at once."""
        at_once, self.at_once = self.at_once, True
        try:
            if self._own:  # it came before
                self._raise()
            yield
        finally:
            self.at_once = at_once

    def attempt(self, function: Callable[[], Result]) -> Result | None:
        """function(), which may fail in this process alone: that is raised, of many processes by all at a later step.

        Returns None where it has failed.
        """
        try:
            return function()
        except NonFiniteError:  # all find it in the same numbers
            raise
        except Exception as error:
            if self._alone:
                raise
            self._fail(error)
            return None

    def attempt_each(self, items: Iterator[Item], count: int) -> Iterator[Item]:
        """The `count` items; of many processes where the next cannot be made, the last one again until all stop."""
        if self._alone:
            yield from items
            return
        if count:
            item = together(lambda: next(items))  # there is no last one yet
            yield item
        for _ in range(1, count):
            if self._failure is None:
                item = self.attempt(lambda: next(items)) or item
            yield item

    def watch(self, function: Compiled, mesh: Mesh, donated: tuple[int, ...] = ()) -> Compiled:
        """`function` with the processes' reasons to stop in the same program; `function` itself for one process.

        The largest of all reasons comes back with each call's result, and `requested` reads that of the call before the
        last, which is done when the last one runs: nobody waits, and all read the same at the same place. donated: the
        arguments that `function` is donated.
        """
        if self._alone:
            return function

        def step(state: Any, batch: Any, reasons: jax.Array) -> tuple[Any, jax.Array]:
            return function(state, batch), jnp.max(reasons)

        rows = split_by_rows(mesh)
        compiled = jax.jit(step, donate_argnums=donated, out_shardings=replicated(mesh))

        def watched(state: Any, batch: Any) -> Any:
            number = self._reason()
            if number not in self._rows:
                reasons = np.full(len(mesh.local_devices), number, np.int32)
                self._rows[number] = jax.make_array_from_process_local_data(rows, reasons)
            result, maximum = compiled(state, batch, self._rows[number])
            self._maxima.append(maximum)
            return result

        return watched

    def requested(self) -> bool:
        """Whether the run is to stop; the same in all processes. Raises, in all of them, what has failed in one."""
        return self._read(1)

    def raise_if_requested(self) -> None:
        """Raise InterruptedRunError if the run is to stop, or what has failed."""
        if self.requested():
            self._raise()

    def raise_if_failed(self) -> None:
        """Raise, in all processes, what has failed in one of them so far; waits for the steps that are under way."""
        self._read(0)

    def raise_together(self) -> None:
        """Raise, in all processes, what has failed in one of them, also if no step has carried it; costs a round."""
        together(self._raise_failure)

    def _read(self, num_under_way: int) -> bool:
        if self._alone:
            self._agreed = self._reason()
        while len(self._maxima) > num_under_way:
            self._agreed = max(self._agreed, int(self._maxima.popleft()))
        if self._agreed == FAILED:
            together(self._raise_failure)
        return self._agreed > 0

    def _reason(self) -> int:
        time_is_up = self.has_progressed and time.monotonic() >= self._deadline
        return max(self._own, TIME_IS_UP) if time_is_up else self._own

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._own, self._failure = FAILED, error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _raise(self) -> NoReturn:
        number = self._agreed or self._own
        if number == TIME_IS_UP:
            raise InterruptedRunError(f"config.stop_after_minutes={self._stop_after_minutes:g}")
        raise InterruptedRunError(signal.Signals(number).name)


@contextlib.contextmanager
def catch_interruptions(num_processes: int = 1, stop_after_minutes: float = 0.0) -> Iterator[Interruption]:
    """Catch `SIGNALS`, which ask the run to stop, however often they come; but the second Ctrl-C ends it at once."""
    interruption = Interruption(num_processes, stop_after_minutes)
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: object) -> None:
        del frame
        if number == signal.SIGINT:
            # By the kernel: Python's own handler would wait for a step that hangs.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            with contextlib.suppress(OSError):
                cursor = SHOW_CURSOR if os.isatty(2) else b""
                os.write(2, cursor + b"interrupted: this step ends and is saved; Ctrl-C again ends at once\n")
        interruption.take(number)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
