"""The training loop, and the work between its steps.

The loop keeps one step in flight: a step's metrics are fetched after the next one has been dispatched, so that the
device never waits for the host. Whatever a step number makes due (validation, then the checkpoint, then the test) is
decided from that number and the metrics log alone, so a resumed run does exactly what the unbroken one would have done.
"""

import signal
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from resnet_jax.checkpoint.folder import digest
from resnet_jax.data.prefetch import prefetch
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import Preempted
from resnet_jax.training.checkpointer import Checkpointer
from resnet_jax.training.evaluator import Evaluator
from resnet_jax.training.jit_steps import TrainStep
from resnet_jax.training.metric_writer import MetricWriter
from resnet_jax.training.periods import Periods
from resnet_jax.training.train_state import TrainState
from resnet_jax.training.validation_score import stops_early
from resnet_jax.training.workdir import Record


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its last step, its metrics log, the SHA-256 of its parameters and statistics, and what
    interrupted it, if something did before everything was done; there is no digest then.
    """

    step: int
    num_steps: int
    records: list[Record]
    digest: str
    interrupted_by: str


# Signals that another process sends, which soon kills this one.
KILLING = {one.name for one in signal.Signals} - {signal.SIGINT.name}


@dataclass(frozen=True)
class Run:
    """The objects that the loop works with, each made once.

    Attributes:
      load_batch: step k's batch, on the mesh.
      train_step: is donated the state.
      eval_state: makes from a state the one that evaluates the model, which differs only with precise batch norm.
    """

    load_batch: Callable[[int], Any]
    train_step: TrainStep
    due: Periods
    writer: MetricWriter
    evaluator: Evaluator
    checkpointer: Checkpointer
    preemption: PreemptionGuard
    eval_state: Callable[[TrainState], TrainState]
    has_precise_batch_norm: bool

    def batches(self, start: int) -> Generator[Any, None, None]:
        """Yields the batches of the steps from `start` to the last, prefetched."""
        steps = range(start, self.due.num_steps)
        with closing(prefetch(self.load_batch, steps)) as batches:
            yield from self.preemption.defer_errors_of(batches, len(steps))

    def stop_if_requested(self, step: int) -> None:
        """Raises Preempted if the run is to stop, unless `step` is its last."""
        if step < self.due.num_steps:
            self.preemption.stop_if_requested()

    def ends_early(self, step: int) -> bool:
        """Returns whether the run's patience is over at `step`, by its log, before the run's own end."""
        return bool(self.due.patience) and stops_early(
            self.writer.log.records, self.due.patience, step, self.due.num_steps
        )

    def result(self, step: int, state: TrainState, preempted_by: str = "") -> RunResult:
        """Returns how the run ended, when all that it wrote is on disk."""
        self.checkpointer.wait()
        self.writer.draw_last(is_to_be_killed=preempted_by in KILLING)
        sha256 = "" if preempted_by else digest(state.variables)
        return RunResult(step, self.due.num_steps, self.writer.log.records, sha256, preempted_by)


def train_loop(run: Run, state: TrainState) -> RunResult:
    """Trains `state` to the run's last step; the work after a step depends on its number and the log alone."""
    step, pending = int(state.step), None  # pending: metrics that the device still computes
    try:
        if after_step(run, state, step):  # the work that a killed run has left undone
            return run.result(step, state)
        with closing(run.batches(start=step)) as batches:  # sharded and prefetched; step k always gets batch k
            for batch in batches:
                state, metrics = run.train_step(state, batch)
                step += 1
                if pending is not None:
                    run.writer.write_train(step - 1, pending)
                pending = metrics
                if run.due.anything(step) or run.preemption.requested():
                    if after_step(run, state, step, pending):
                        break
                    pending = None
    except Preempted as stop:
        run.checkpointer.save(step, state)
        return run.result(step, state, preempted_by=str(stop))
    return run.result(step, state)


def after_step(run: Run, state: TrainState, step: int, metrics: dict[str, Any] | None = None) -> bool:
    """Does the work due after `step` updates: logs the last, validates, keeps the best, saves, tests, in this order.

    Returns:
      Whether the run ends early here, by its patience; the work that is due at a run's end is then done.

    Raises:
      Preempted: if the run is to stop before its end.
    """
    run.preemption.raise_deferred_errors()  # of this step too: nothing of it is recorded then
    if metrics is not None:
        run.writer.write_train(step, metrics)
    run.writer.pause_clock()
    run.stop_if_requested(step)  # before statistics are computed, which may take long
    eval_state = cache(partial(run.eval_state, state))  # once, and only where something asks for it
    if run.due.validates(step):
        score = run.evaluator.validate(step, eval_state)
        if score > run.checkpointer.best_score:
            run.checkpointer.save_best(eval_state(), score)
    ends = run.ends_early(step)
    if ends or run.due.saves(step):
        run.checkpointer.save(step, state, eval_state if run.has_precise_batch_norm else None)
    if run.due.tests(step) or (ends and run.due.test_every is not None):
        run.evaluator.test(step, eval_state)
    if not ends:
        run.stop_if_requested(step)
    return ends
