"""What a run shows while it works: a live bar where standard error is a terminal, logged lines elsewhere."""

import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resnet_jax.formatting import format_clock

logger = logging.getLogger(__name__)


class ProgressDisplay:
    """Shows epoch, step, loss, accuracy, images/s and time left; a context manager."""

    def __init__(self, first_step: int, num_steps: int, steps_per_epoch: int, *, quiet: bool = False) -> None:
        """For a run that begins after `first_step` of `num_steps` updates; quiet: show nothing."""
        self._num_steps = num_steps
        self._steps_per_epoch = steps_per_epoch
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[status]}"),
            console=self._console, disable=not self._live, transient=True, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._bar.add_task("compiling", total=num_steps, completed=first_step, status="")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float) -> None:
        """Moves the live bar, after each update."""
        if self._live:
            status = self._status(loss, accuracy, images_per_second, seconds_left)
            self._bar.update(self._task, completed=step, description=self._position(step), status=status)

    def log(self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float) -> None:
        """Logs a line, when it is due, where there is no bar."""
        if not self._live:
            self.say(f"{self._position(step)}  {self._status(loss, accuracy, images_per_second, seconds_left)}")

    def say(self, line: str) -> None:
        """Logs a line; a handler that prints it on standard error finds it above the bar."""
        if not self._console.quiet:
            logger.info(line)

    def _position(self, step: int) -> str:
        num_epochs = -(-self._num_steps // self._steps_per_epoch)
        epoch = min((step - 1) // self._steps_per_epoch + 1, num_epochs)
        return f"epoch {epoch}/{num_epochs}  step {step}/{self._num_steps}"

    @staticmethod
    def _status(loss: float, accuracy: float, images_per_second: float, seconds_left: float) -> str:
        rate = f"{images_per_second:.0f} images/s  {format_clock(seconds_left)} left" if images_per_second else ""
        return f"loss {loss:.4f}  accuracy {accuracy:.4f}  {rate}".rstrip()
