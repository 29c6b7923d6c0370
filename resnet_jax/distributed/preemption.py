"""Stops a run between steps: on a signal, at its time, or after a failure. All processes stop at the same step."""

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.distributed.mesh import data_sharding, replicated
from resnet_jax.distributed.sync import sync_errors
from resnet_jax.errors import NonFiniteError, Preempted

Result = TypeVar("Result")
Item = TypeVar("Item")
# A compiled function of the train state and a batch.
Compiled = Callable[[Any, Any], Any]

# Kill, Ctrl-C, what batch systems are asked to send some time before they kill (Slurm's --signal=USR1@120), and the
# Ctrl-Break of Windows, as far as this system has them.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if name in signal.Signals.__members__ and hasattr(signal, name)
)
# What stops a run besides them, in numbers that are none of these signals': of several reasons the largest counts.
STOPPED, TIME_IS_UP, FAILED = 1, 1000, 2000
INTERRUPTED = b"interrupted: this step ends and is saved; Ctrl-C again ends at once\n"
SHOW_CURSOR = b"\x1b[?25h"


class PreemptionGuard:
    """Says when a run is to save and stop, and holds back what failed in one process until all processes know of it.

    A process that is alone asks itself. Of many, one may have a signal or a damaged image and the others not, or not
    yet, and none may leave a step that the others are in. So the step itself carries a flag (see `with_stop_flag`), and
    all processes read the same of it at the same place.

    Attributes:
      interrupt_immediately: raise Preempted out of whatever runs, while there is nothing to save and nobody to meet.
    """

    def __init__(self, num_processes: int, stop_after_minutes: float = 0.0) -> None:
        """Guards a run of so many processes.

        Args:
          stop_after_minutes: when its time is up, counted from now; 0: never.
        """
        self._alone = num_processes == 1
        self.interrupt_immediately = self._alone
        self._has_progressed = False
        self._stop_after_minutes = stop_after_minutes
        self._deadline = time.monotonic() + 60.0 * stop_after_minutes if stop_after_minutes else math.inf
        self._own: int = 0
        self._agreed: int = 0
        self._stop_reason = "a callback"
        self._failure: BaseException | None = None
        self._flags: deque[jax.Array] = deque()
        self._inputs: dict[int, jax.Array] = {}
        self._checks: list[Callable[[], object]] = []

    def receive(self, number: int) -> None:
        """Takes in a signal that has arrived at this process."""
        self._own = max(self._own, number)
        if self.interrupt_immediately:
            self._raise()

    def stop(self, reason: str) -> None:
        """Has the run save and stop, as a signal does, for a reason of this process's own."""
        self._own, self._stop_reason = max(self._own, STOPPED), reason or "a callback"

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets a signal stop this process immediately, inside: it waits for no other there."""
        before, self.interrupt_immediately = self.interrupt_immediately, True
        try:
            if self._own:  # it came before
                self._raise()
            yield
        finally:
            self.interrupt_immediately = before

    def defer_errors(self, function: Callable[..., Result], *arguments: Any) -> Result | None:
        """Returns function(*arguments), or None where it fails in this process alone: of many, all raise that later."""
        try:
            return function(*arguments)
        except NonFiniteError:  # all find it in the same numbers
            raise
        except Exception as error:
            if self._alone:
                raise
            self._defer(error)
            return None

    def defer_errors_of(self, items: Iterator[Item], count: int) -> Iterator[Item]:
        """Yields the `count` items; of many processes where the next fails, the last one again until all stop."""
        if self._alone:
            yield from items
            return
        if count:
            item = sync_errors(partial(next, items))  # there is no last one yet
            yield item
        for _ in range(1, count):
            if self._failure is None:
                item = self.defer_errors(next, items) or item
            yield item

    def check_each_step(self, check: Callable[[], object]) -> None:
        """Has `requested` call `check`, whose error stops the run as any that is deferred."""
        self._checks.append(check)

    def with_stop_flag(self, function: Compiled, mesh: Mesh, donated: tuple[int, ...] = ()) -> Compiled:
        """Returns `function` with the processes' reasons to stop in the same program; itself for one process.

        The largest of all reasons comes back with each call's result. `requested` reads it from the call before the
        last, which is done when the last one runs: nobody waits, and all read the same at the same place.

        Args:
          function: jitted, of a train state and a batch.
          mesh: on which it runs.
          donated: the arguments that it is donated.
        """
        if self._alone:
            return function

        def step(state: Any, batch: Any, reasons: jax.Array) -> tuple[Any, jax.Array]:
            return function(state, batch), jnp.max(reasons)

        compiled = jax.jit(step, donate_argnums=donated, out_shardings=replicated(mesh))
        return partial(self._call_with_flag, compiled, mesh)

    def marking_progress(self, function: Compiled) -> Compiled:
        """Returns `function`, whose first call ends the time in which a run that is late does not stop.

        Without any progress short starts would never get on.
        """

        def call(state: Any, batch: Any) -> Any:
            result = function(state, batch)
            self._has_progressed = True
            return result

        return call

    def requested(self) -> bool:
        """Returns whether the run is to stop, the same in all processes.

        Raises, in all processes, an error that one has had.
        """
        for check in self._checks:
            self.defer_errors(check)
        return self._read(1)

    def stop_if_requested(self) -> None:
        """Raises Preempted if the run is to stop, or the error of a failure."""
        if self.requested():
            self._raise()

    def stop_if_interrupted(self) -> None:
        """Does as `stop_if_requested`, but lets an evaluation end that only `stop` would stop: it is not urgent."""
        if self.requested() and self._agreed != STOPPED:
            self._raise()

    def raise_deferred_errors(self) -> None:
        """Raises, in all processes, an error that one of them has had; waits for the steps that are under way."""
        self._read(0)

    def sync_deferred_errors(self) -> None:
        """Raises, in all processes, an error that one of them has had, even if no step carried it; costs a round."""
        sync_errors(self._raise_failure)

    def _call_with_flag(self, compiled: Callable[..., Any], mesh: Mesh, state: Any, batch: Any) -> Any:
        reason = self._reason()
        if reason not in self._inputs:
            reasons = np.full(len(mesh.local_devices), reason, np.int32)
            self._inputs[reason] = jax.make_array_from_process_local_data(data_sharding(mesh), reasons)
        result, flag = compiled(state, batch, self._inputs[reason])
        self._flags.append(flag)
        return result

    def _read(self, num_under_way: int) -> bool:
        if self._alone:
            self._agreed = self._reason()
        while len(self._flags) > num_under_way:
            self._agreed = max(self._agreed, int(self._flags.popleft()))
        if self._agreed == FAILED:
            sync_errors(self._raise_failure)
        return self._agreed > 0

    def _reason(self) -> int:
        time_is_up = self._has_progressed and time.monotonic() >= self._deadline
        return max(self._own, TIME_IS_UP) if time_is_up else self._own

    def _defer(self, error: BaseException) -> None:
        if self._failure is None:
            self._own, self._failure = FAILED, error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _raise(self) -> NoReturn:
        number = self._agreed or self._own
        if number == TIME_IS_UP:
            raise Preempted(f"config.stop_after_minutes={self._stop_after_minutes:g}")
        if number == STOPPED:
            raise Preempted(self._stop_reason)
        raise Preempted(signal.Signals(number).name)


@contextlib.contextmanager
def catch_preemption(num_processes: int = 1, stop_after_minutes: float = 0.0) -> Iterator[PreemptionGuard]:
    """Catches `SIGNALS`, which ask the run to stop, however often they come; but the second Ctrl-C ends it at once."""
    preemption = PreemptionGuard(num_processes, stop_after_minutes)
    # Python lets nobody but the main thread catch signals; a run that another one trains leaves them to the program.
    caught = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.getsignal(number) for number in caught}

    def handle(number: int, frame: object) -> None:
        del frame
        if number == signal.SIGINT:
            # By the kernel: Python's own handler would wait for a step that hangs.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Before the first step there is nothing to be saved.
            line = b"" if preemption.interrupt_immediately else INTERRUPTED
            with contextlib.suppress(OSError):
                cursor = SHOW_CURSOR if os.isatty(2) else b""
                os.write(2, cursor + line)
        preemption.receive(number)

    for number in caught:
        signal.signal(number, handle)
    try:
        yield preemption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
