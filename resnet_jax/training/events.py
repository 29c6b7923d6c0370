"""TensorBoard's events of a run, written as they come: no thread or queue that a full disk could leave hanging."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "val", "test")


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Yields `module` cannot be imported meanwhile, unless it has been already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# tensorboardX imports torch where it is installed, for nothing used here: seconds, and torch's CUDA libraries.
with _hidden("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar


def grouped_tag(name: str) -> str:
    """Returns TensorBoard's tag of a metric: "loss/train" of "train_loss", "accuracy/val_ema" of "val_ema_accuracy"."""
    split, _, metric = name.partition("_")
    if split not in SPLITS:
        return name
    average = "_ema" if metric.startswith("ema_") else ""
    return f"{metric.removeprefix('ema_')}/{split}{average}"


class EventLog:
    """An events file in the run's folder.

    Everything raises OSError where the disk does.
    """

    def __init__(self, workdir: Path, first_step: int, tags: str = "grouped") -> None:
        """Begins a file; what earlier ones hold of `first_step` and later ones no longer counts.

        Args:
          tags: how metrics are called: "grouped", so that a metric's curves of training, validation and test share a
            chart, or "plain", by their names.
        """
        self._tags = tags
        self._writer = EventsWriter(str(workdir / "events"), filename_suffix=f".{os.getpid()}")
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one event for each of `values` after `step` updates, on disk when this returns."""
        for name, value in values.items():
            tag = grouped_tag(name) if self._tags == "grouped" else name
            self._write(Event(step=step, summary=scalar(tag, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
