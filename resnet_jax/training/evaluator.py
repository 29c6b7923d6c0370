"""Decides when a run evaluates, writes the results, and chooses the best."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.source import Source
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.training.average_precision import average_precision, mean_average_precision
from resnet_jax.training.evaluation import Sums, evaluate
from resnet_jax.training.metric_writer import MetricWriter
from resnet_jax.training.train_state import TrainState
from resnet_jax.training.validation_score import validation_score


class Evaluator:
    """Evaluates a run on its validation and test images, and writes the results; once for each step and split."""

    def __init__(
        self,
        eval_step: Callable[[Any, Any], Sums],
        sources: Mapping[str, Source | None],
        batch_size: int,
        mesh: Mesh,
        writer: MetricWriter,
        preemption: PreemptionGuard,
    ) -> None:
        """sources: by split, "val" and "test"; of several labels an image, eval_step is `multi_label_eval_step`."""
        self._eval_step, self._mesh = preemption.with_stop_flag(eval_step, mesh), mesh
        self._batches = {
            split: EvalBatches(source, batch_size, jax.process_index(), jax.process_count())
            for split, source in sources.items()
            if source is not None
        }
        self._writer, self._preemption = writer, preemption

    def validate(self, step: int, state: Callable[[], TrainState]) -> float:
        """Returns the number by which the best is chosen, `validation_score`."""
        return validation_score(self._evaluate("val", step, state))

    def test(self, step: int, state: Callable[[], TrainState]) -> None:
        """Evaluates on the test images."""
        self._evaluate("test", step, state)

    def _evaluate(self, split: str, step: int, make_state: Callable[[], TrainState]) -> dict[str, float | int]:
        # A record may be there, without its best or its checkpoint: of a run that was killed between the two.
        recorded = self._writer.log.evaluation(step, split)
        if recorded is not None:
            return recorded
        state = make_state()
        metrics = self._metrics(split, state)
        if state.averaging is not None:
            of_average = self._metrics(split, state.averaged())
            metrics |= {f"ema_{name}": value for name, value in of_average.items() if name != "count"}
        self._writer.write_eval(step, split, metrics)
        return metrics

    def _metrics(self, split: str, state: TrainState) -> dict[str, float | int]:
        batches = self._batches[split]
        if not batches.source.multi_label:
            return evaluate(self._eval_step, state, batches, self._mesh, self._preemption)
        rows: list[dict[str, np.ndarray]] = []
        sums = evaluate(self._eval_step, state, batches, self._mesh, self._preemption, rows.append)
        labels, logits = (np.concatenate([part[name][part["counted"]] for part in rows]) for name in ("label", "logit"))
        values = average_precision(labels, logits)
        return {**sums, "map": mean_average_precision(values)}
