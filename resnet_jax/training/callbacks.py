"""Callbacks: they report a run to a program while it trains, each event once, however often the run starts again."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax

from resnet_jax.checkpoint.folder import CheckpointFolder
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import UserError, suggestion, truncate
from resnet_jax.filesystem import write_text
from resnet_jax.training.workdir import MetricsLog, Record, evaluation_in

if TYPE_CHECKING:
    from resnet_jax.training.loop import RunResult

CALLBACKS_FILE = "callbacks.json"
HOOKS = ("on_start", "on_record", "on_evaluation", "on_checkpoint", "on_end")
SPLITS = ("val", "test")

Position = list[int]  # the step, and a number that older versions counted within it


class TrainingRun:
    """A run as its callbacks see it.

    Attributes:
      workdir: its folder.
      id: identifies the run, the same in each of its starts: eight hexadecimal digits.
      config: every field by its dotted path, as in "augment.flip".
      num_steps: updates to the run's end.
      steps_per_epoch: updates in an epoch.
    """

    def __init__(
        self, workdir: Path, run_id: str, config: Mapping[str, Any], num_steps: int, steps_per_epoch: int,
        log: MetricsLog, preemption: PreemptionGuard,
    ) -> None:  # fmt: skip
        self.workdir, self.id, self.config = workdir, run_id, dict(config)
        self.num_steps, self.steps_per_epoch = num_steps, steps_per_epoch
        self._log, self._preemption = log, preemption
        self._num_brought: int | None = None  # None: all

    @property
    def records(self) -> list[Record]:
        """The metrics log, earlier starts' records included, up to the one that is just brought; a copy."""
        return [dict(record) for record in self._log.records[: self._num_brought]]

    def stop(self, reason: str = "a callback") -> None:
        """Ends the run after the step that is under way: it saves, and its result says interrupted_by=reason.

        The same call continues it. `config.early_stopping_patience` ends a run for good instead.
        """
        self._preemption.stop(reason)


class Callback(Protocol):
    """The calls that a run makes; a callback has any of them, and need not inherit from this.

    All come from the thread that trains, between steps, and with many processes in process 0 alone. The run calls
    `on_record`, `on_evaluation` and `on_checkpoint` once for each record, evaluation and checkpoint, even if it is
    killed and makes some of them again. If a callback raises an error, the next start repeats that call. The run notes
    each call before it makes it: a kill in the middle of a call does not repeat it. A callback that is new to a run
    gets all calls that it has missed; a run knows callbacks by their class, and several of one class by their order.
    """

    def on_start(self, run: TrainingRun) -> None:
        """Takes the run at the beginning of each start."""

    def on_record(self, run: TrainingRun, record: Record) -> None:
        """Takes a record of `metrics.jsonl`: "step", "epoch", and the training's or an evaluation's numbers."""

    def on_evaluation(self, run: TrainingRun, split: str, metrics: dict[str, Any]) -> None:
        """Takes an evaluation of `split`, "val" or "test": "step", "loss", "accuracy", "count" …, after its record."""

    def on_checkpoint(self, run: TrainingRun, step: int, path: Path) -> None:
        """Takes a checkpoint that is on disk; path.parent.name is "checkpoints" or "best".

        The run removes it once there are newer ones: copy it to keep it. If checkpoints follow each other faster than
        steps, some are removed before this call.
        """

    def on_end(self, run: TrainingRun, result: "RunResult") -> None:
        """Takes the result of this start, after all is on disk; not called if the start raised an error."""


class CallbackList:
    """Calls a run's callbacks, in their order; a file in the run's folder says how far each of them has heard."""

    def __init__(self, callbacks: Sequence[Any], workdir: Path) -> None:
        """Takes the callbacks of process 0; others' are never called.

        Raises:
          UserError: if one is no callback, or the file cannot be read.
        """
        check_callbacks(callbacks)
        self._callbacks = list(callbacks) if jax.process_index() == 0 else []
        self._names = _names_of(self._callbacks)
        self._path = workdir / CALLBACKS_FILE
        self._heard = self._read_heard()  # its errors, before anything is written
        self._has_failed = False
        self._run: TrainingRun | None = None
        self._saved: deque[Path] = deque()  # by the thread that writes checkpoints

    def start(self, run: TrainingRun, folders: Iterable[CheckpointFolder]) -> None:
        """Begins: calls on_start, and the hooks for events before this start that were missed.

        folders: of the run's checkpoints.
        """
        self._run = run
        if not self._callbacks:
            return
        self._heard = self._read_heard()  # again: another start may have gone on before this one held the folder
        self._call_all("on_start")
        for number, record in enumerate(run.records, start=1):
            run._num_brought = number
            self.record(record)
        run._num_brought = None
        for folder in folders:
            self._saved.extend(folder.directory / str(step) for step in folder.list_steps())
        self.bring_checkpoints()

    def record(self, record: Record) -> None:
        """Brings a record that has been written."""
        if not self._callbacks:
            return
        step = record["step"]
        split = next((split for split in SPLITS if evaluation_in(record, split) is not None), "train")
        self._bring("on_record", f"records.{split}", [step, 1], dict(record))
        if (metrics := evaluation_in(record, split)) is not None and split in SPLITS:
            self._bring("on_evaluation", f"evaluations.{split}", [step, 1], split, {"step": step, **metrics})

    def checkpoint_saved(self, path: Path) -> None:
        """Takes in that a checkpoint is on disk; from any thread."""
        self._saved.append(path)

    def bring_checkpoints(self) -> None:
        """Brings those that are on disk by now."""
        while self._saved:
            path = self._saved.popleft()
            if path.is_dir():  # not replaced by a later one meanwhile
                step = int(path.name)
                self._bring("on_checkpoint", path.parent.name, [step, 1], step, path)

    def end(self, result: "RunResult") -> None:
        """Calls the hooks that are left, and on_end with this start's result."""
        self.bring_checkpoints()
        self._call_all("on_end", result)

    def _read_heard(self) -> dict[str, dict[str, Position]]:
        return _read_heard(self._path) if self._callbacks else {}

    def _call_all(self, hook: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            if hasattr(callback, hook):
                getattr(callback, hook)(self._run, *arguments)

    def _bring(self, hook: str, kind: str, position: Position, *arguments: Any) -> None:
        """Calls a hook of those that have not yet heard of what is at `position` among its kind.

        That they have is written before the call: a process that is killed during it does not call again.
        """
        for name, callback in zip(self._names, self._callbacks, strict=True):
            heard = self._heard.setdefault(name, {})
            # Older versions did not keep splits apart.
            before = heard.get(kind, heard.get(kind.partition(".")[0], [-1, 0]))
            if self._has_failed or not hasattr(callback, hook) or position <= before:
                continue
            self._write(name, kind, position)
            try:
                getattr(callback, hook)(self._run, *arguments)
            except BaseException:
                self._has_failed = True  # of many processes, the others go on for a step before all stop
                self._write(name, kind, before)
                raise

    def _write(self, name: str, kind: str, position: Position) -> None:
        self._heard[name][kind] = position
        write_text(self._path, json.dumps(self._heard, indent=1) + "\n")


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises UserError unless each of `callbacks` has one of `HOOKS` at least, and no other method on_…."""
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks={truncate(callbacks)} must be a list or tuple of callbacks")
    for callback in callbacks:
        if isinstance(callback, type):
            raise UserError(f"callbacks: {callback.__name__} is a class: give an object of it, {callback.__name__}()")
        methods = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name))]
        kind = type(callback).__name__
        for name in methods:
            if name not in HOOKS:
                raise UserError(f"callbacks: {kind}.{name} is never called{suggestion(name, HOOKS)}; {_known()}")
        if not methods:
            raise UserError(f"callbacks: {truncate(callback)} has nothing to call; {_known()}")


def _known() -> str:
    return f"a callback has any of {', '.join(HOOKS)}"


def _names_of(callbacks: Sequence[Any]) -> list[str]:
    """Returns a name for each: its class's, numbered where several are of one."""
    names: list[str] = []
    for callback in callbacks:
        name = type(callback).__qualname__
        count = sum(other.partition(" ")[0] == name for other in names)
        names.append(f"{name} {count + 1}" if count else name)
    return names


def _read_heard(path: Path) -> dict[str, dict[str, Position]]:
    try:
        heard = json.loads(path.read_text())
        return {
            name: {kind: [int(step), int(number)] for kind, (step, number) in kinds.items()}
            for name, kinds in heard.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} must say what the run's callbacks have heard: bring it back, or remove it, and they hear all anew"
        ) from None
