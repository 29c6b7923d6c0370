"""Exact evaluation: every image once, also in the last partial batch and over several devices."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.prefetch import prefetch
from resnet_jax.errors import UserError
from resnet_jax.training.interruption import Interruption
from resnet_jax.training.mesh import shard_batch

Sums = Mapping[str, Any]


def evaluate(
    eval_fn: Callable[[Any, Any], Sums],
    state: Any,
    batches: EvalBatches,
    mesh: Mesh,
    interruption: Interruption,
    take_rows: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> dict[str, float | int]:
    """{"loss", "accuracy", "count"} over all images of `batches`, each counted once by its mask.

    eval_fn: a jitted (state, batch) -> {"loss_sum", "correct", "count"}, watched by `interruption`, which stops it
    early. loss is the mean in nats, accuracy is in [0, 1]. The sums of a batch are fetched while the next one is
    computed. take_rows: is given what eval_fn returns as "rows" of each batch, in order. Raises UserError (a ValueError) if no image can be read, and what reading one raises.
    """
    totals = {"loss_sum": 0.0, "correct": 0, "count": 0}

    def add(sums: Sums) -> None:
        fetched = dict(jax.device_get(sums))
        rows = fetched.pop("rows", None)
        if take_rows is not None:
            take_rows(rows)
        for name, value in fetched.items():
            totals[name] += value.item()

    previous: Sums | None = None
    with closing(prefetch(lambda position: shard_batch(batches[position], mesh), range(len(batches)))) as sharded:
        for batch in interruption.attempt_each(sharded, len(batches)):
            interruption.raise_if_requested()
            current = eval_fn(state, batch)
            if previous is not None:
                add(previous)
            previous = current
    if previous is not None:
        add(previous)
    interruption.raise_if_failed()
    count = int(totals["count"])
    if not count:
        raise UserError("not one image of the evaluation can be read")
    return {"loss": totals["loss_sum"] / count, "accuracy": totals["correct"] / count, "count": count}
