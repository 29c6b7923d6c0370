"""Shows how far a run is while it works: a live bar in a terminal and in a notebook, logged lines elsewhere."""

import logging
import sys
import time
from html import escape
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resnet_jax.formatting import format_clock
from resnet_jax.runtime import in_notebook

logger = logging.getLogger(__name__)

NOTEBOOK_EVERY_SECONDS = 0.25


class ProgressDisplay:
    """Shows epoch, step, loss, accuracy, images/s and time left; a context manager."""

    def __init__(self, first_step: int, num_steps: int, steps_per_epoch: int, *, quiet: bool = False) -> None:
        """For a run that begins after `first_step` of `num_steps` updates; quiet: show nothing."""
        self._first_step, self._num_steps = first_step, num_steps
        self._steps_per_epoch = steps_per_epoch
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._notebook = NotebookBar(num_steps) if in_notebook() and not quiet else None
        self._live = self._console.is_terminal and not quiet and self._notebook is None
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[status]}"),
            console=self._console, disable=not self._live, transient=True, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._bar.add_task("compiling", total=num_steps, completed=first_step, status="")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        if self._notebook is not None:
            self._notebook.show("compiling", self._first_step)
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
        elif self._notebook is not None and self._notebook.is_due(step):
            status = self._status(loss, accuracy, images_per_second, seconds_left)
            self._notebook.show(f"{self._position(step)}  {status}", step)

    def log(self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float) -> None:
        """Logs a line, when it is due, where there is no bar."""
        if not self._live and self._notebook is None:
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


class NotebookBar:
    """A bar and a line below a notebook's cell, each update in the place of the last."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps, self._handle, self._shown = num_steps, None, 0.0

    def is_due(self, step: int) -> bool:
        """Returns whether the last was shown long enough, or `step` is the run's last."""
        return step == self._num_steps or time.monotonic() - self._shown > NOTEBOOK_EVERY_SECONDS

    def show(self, line: str, step: int) -> None:
        """Shows that `step` updates are done, and a line."""
        from IPython.display import display

        self._shown = time.monotonic()
        bar = f'<progress value="{step}" max="{self._num_steps}" style="width: 12em"></progress>'
        content: dict[str, Any] = {"text/plain": line, "text/html": f"{bar} <code>{escape(line)}</code>"}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
