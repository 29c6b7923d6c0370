"""SIGTERM and Ctrl-C as a flag that the loop looks at between steps."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from resnet_jax.errors import InterruptedRunError


@dataclass
class Interruption:
    """`signal_name` is empty until a signal has asked the run to save and stop.

    at_once: raise InterruptedRunError out of whatever runs, while there is nothing to save.
    """

    signal_name: str = ""
    at_once: bool = True

    def raise_if_requested(self) -> None:
        """Raise InterruptedRunError if a signal has arrived."""
        if self.signal_name:
            raise InterruptedRunError(self.signal_name)


@contextlib.contextmanager
def catch_interruptions() -> Iterator[Interruption]:
    """Catch the first SIGTERM or SIGINT; a second one acts as it always does, at once."""
    interruption = Interruption()
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.signal_name = signal.Signals(number).name
        restore()
        if interruption.at_once:
            interruption.raise_if_requested()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield interruption
    finally:
        restore()
