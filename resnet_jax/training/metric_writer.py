"""Where a run's numbers go: the metrics log, TensorBoard, the progress display and the curves."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.distributed.processes import warn
from resnet_jax.distributed.sync import broadcast_from_process_0
from resnet_jax.errors import NonFiniteError
from resnet_jax.plotting.curves import CURVES_FILE, draw_curves
from resnet_jax.plotting.figures import describe_unwritten
from resnet_jax.training.progress import ProgressDisplay
from resnet_jax.training.validation_score import best_validation, validation_score
from resnet_jax.training.workdir import MetricsLog, Record

if TYPE_CHECKING:
    from resnet_jax.training.events import EventLog

CURVES_EVERY_SECONDS = 60


@dataclass
class MetricSums:
    """Metrics since the last log record; saved with a checkpoint, so that a resumed run logs the same means."""

    loss: float = 0.0
    accuracy: float = 0.0
    steps: int = 0
    skipped: int = 0  # updates whose loss or gradient was not finite
    skipped_in_succession: int = 0  # the last of them without a break; no log record resets this


class MetricWriter:
    """Takes in each step's metrics and each evaluation's result; a context manager."""

    def __init__(
        self, workdir: Path, name: str, *, step: int, sums: MetricSums, num_steps: int, steps_per_epoch: int,
        batch_size: int, log_every_steps: int, preemption: PreemptionGuard, max_skipped: int = 0,
        keep_later: bool = False, tensorboard_tags: str = "grouped",
    ) -> None:  # fmt: skip
        """For a run that begins after `step` updates: log records of later steps are dropped, to be made again.

        Args:
          keep_later: copy the log to another name before, if it has such records: they do not come from a
            killed run's last steps.
          max_skipped: if the step itself skips an update whose loss or gradient is not finite, so many in succession
            may be; 0: none is skipped.
        """
        self._has_drawn_last = False
        self.listeners: list[Callable[[Record], None]] = []  # of process 0, called with each record once it is written
        self.sums = sums
        self.log = MetricsLog(workdir, broadcast_from_process_0(lambda: begin_log(workdir, step, keep_later)))
        self._writes, self._preemption = jax.process_index() == 0, preemption
        self.display = ProgressDisplay(step, num_steps, steps_per_epoch, quiet=not self._writes)
        self._events: EventLog | None = None
        self._writes_events, self._tensorboard_tags = self._writes, tensorboard_tags
        self._workdir, self._first_step = workdir, step + 1
        folder = workdir.resolve().name  # several runs of one config differ in it
        self._title = folder if folder == name else f"{folder} ({name})"
        self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
        self._batch_size, self._log_every_steps = batch_size, log_every_steps
        self._max_skipped = max_skipped
        self._clock_started, self._clock_steps, self._images_per_second = 0.0, 0, 0.0
        self._curves_drawn = time.monotonic()

    def __enter__(self) -> "MetricWriter":
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)
        if self._events is not None:
            self._try_events(self._events.close)
        if not self._has_drawn_last:  # an error ends the run
            self.draw()

    def write_train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes in the metrics of update `step` (from 1); when they are due writes their means.

        Waits for the update to be done. A record that this process cannot write stops the run at a later step.

        Raises:
          NonFiniteError: if the loss or a gradient is not finite, unless such updates are skipped: then it is
            logged, counted, and left out of the means.
        """
        self._preemption.defer_errors(self._write_train, step, metrics)

    def write_eval(self, step: int, split: str, metrics: dict[str, float | int]) -> None:
        """Writes an evaluation's "loss", "accuracy", "count", of several labels an image "map", and, if any, the
        moving average's on `split`, "val" or "test", after `step` updates.

        A record that this process cannot write stops the run at a later step.
        """
        self._preemption.defer_errors(self._write_eval, step, split, metrics)

    def _write_train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._tick()
        if all(map(math.isfinite, values.values())):
            self.sums.loss += values["loss"]
            self.sums.accuracy += values["accuracy"]
            self.sums.steps += 1
            self.sums.skipped_in_succession = 0
        else:
            self._take_nonfinite(f"step {step}: loss {values['loss']}, gradient norm {values['gradient_norm']}")
        taken = max(self.sums.steps, 1)
        loss, accuracy = self.sums.loss / taken, self.sums.accuracy / taken
        rate = self._images_per_second
        shown = (step, loss, accuracy, rate, (self._num_steps - step) * self._batch_size / rate if rate else 0.0)
        self.display.update(*shown)
        if step % self._log_every_steps == 0 or step == self._num_steps:
            means: dict[str, Any] = {"train_loss": loss, "train_accuracy": accuracy} if self.sums.steps else {}
            means |= {"learning_rate": values["learning_rate"]}
            if self.sums.skipped:
                means |= {"skipped_updates": self.sums.skipped}
            self.sums = MetricSums(skipped_in_succession=self.sums.skipped_in_succession)
            self.display.log(*shown)
            self._write(step, {**means, **({"images_per_second": round(rate, 1)} if rate else {})})

    def _write_eval(self, step: int, split: str, result: dict[str, float | int]) -> None:
        self._write(step, {f"{split}_{name}": value for name, value in result.items()})
        epoch = step / self._steps_per_epoch
        names = [name for name in result if name != "count"]
        numbers = "  ".join(f"{split}_{name} {result[name]:.4f}" for name in names)
        self.display.say(f"epoch {epoch:g}  step {step}  {numbers}{self._best_so_far(split)}")
        if time.monotonic() - self._curves_drawn > CURVES_EVERY_SECONDS:
            self.draw()

    def _best_so_far(self, split: str) -> str:
        """Returns the addition to the line of an evaluation just recorded."""
        best = best_validation(self.log.records) if split == "val" else None
        if best is None:
            return ""
        if best is self.log.records[-1]:
            return "  (best so far)"
        return f"  (best so far {validation_score(best, 'val_'):.4f} at epoch {best['epoch']:g})"

    def pause_clock(self) -> None:
        """Leaves the time until the next step out of images/s."""
        self._clock_started = 0.0

    def draw(self) -> None:
        """Draws the curves from the log; a picture that cannot be written stops nothing."""
        self._curves_drawn = time.monotonic()
        if not self._writes:
            return
        try:
            draw_curves(self.log.records, self._workdir / CURVES_FILE, self._title)
        except Exception as error:  # the log has all the numbers
            warn(describe_unwritten(self._workdir / CURVES_FILE, error))

    def draw_last(self, *, is_to_be_killed: bool) -> None:
        """Draws the curves of a start that ends; a process that is about to be killed leaves them to the next start."""
        self._has_drawn_last = True
        if not is_to_be_killed:
            self.draw()

    def _take_nonfinite(self, what: str) -> None:
        if not self._max_skipped:
            raise NonFiniteError(
                f"{what}: nothing of this step is saved; lower config.learning_rate or lengthen the warm-up"
            )
        self.sums.skipped += 1
        self.sums.skipped_in_succession += 1
        if self.sums.skipped_in_succession >= self._max_skipped:
            raise NonFiniteError(
                f"{what}: the {self._max_skipped} last updates were skipped (config.max_skipped_updates); "
                "lower config.learning_rate"
            )
        self.display.say(f"warning: {what}: the update is skipped (config.on_nonfinite='skip')")

    def _tick(self) -> None:
        now = time.perf_counter()
        if not self._clock_started:  # the first step after a pause only starts the clock: it may have compiled
            self._clock_started, self._clock_steps = now, 0
            return
        self._clock_steps += 1
        self._images_per_second = self._clock_steps * self._batch_size / (now - self._clock_started)

    def _write(self, step: int, values: dict[str, Any]) -> None:
        record: Record = {"step": step, "epoch": round(step / self._steps_per_epoch, 4), **values}
        if not self._writes:
            self.log.records.append(record)
            return
        self.log.append(record)
        self._try_events(lambda: self._write_events(step, values))
        for listener in self.listeners:
            listener(record)

    def _write_events(self, step: int, values: dict[str, Any]) -> None:
        if self._events is None:  # not before the first step, which need not wait for it
            from resnet_jax.training.events import EventLog

            self._events = EventLog(self._workdir, self._first_step, self._tensorboard_tags)
        self._events.add_scalars(step, values)

    def _try_events(self, write: Callable[[], None]) -> None:
        """Calls write(); where the events cannot be written, go on without them: all they hold is in the log."""
        if not self._writes_events:
            return
        try:
            write()
        except OSError as error:
            self._events, self._writes_events = None, False
            warn(f"TensorBoard's events could not be written: {error.strerror or error}; the run goes on without")


def begin_log(workdir: Path, step: int, keep_later: bool) -> list[Record]:
    """Returns the records up to `step`; later ones are about to be made again and are dropped, on disk as well.

    Whatever else would be lost is kept under another name: damaged lines, and with `keep_later` the later records.
    """
    log = MetricsLog(workdir)
    has_later = any(record["step"] > step for record in log.records)
    if log.num_damaged or (keep_later and has_later):
        reason = f"goes on to step {log.records[-1]['step']}" if has_later else "has damaged lines"
        warn(f"{log.path} {reason}, and this start begins after step {step}: it is kept as {log.keep_copy()}")
    log.forget_after(step)
    return log.records
