"""Exact evaluation: every image once, also in the last partial batch and over several devices."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.prefetch import prefetch
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import UserError

Sums = Mapping[str, Any]


def evaluate(
    eval_fn: Callable[[Any, Any], Sums],
    state: Any,
    batches: EvalBatches,
    mesh: Mesh,
    preemption: PreemptionGuard,
    on_rows: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> dict[str, float | int]:
    """Returns {"loss", "accuracy", "count"} over all images of `batches`, each counted once by its mask.

    loss is the mean in nats. accuracy is in [0, 1]: the share of images that are classified correctly. If an image may
    have several labels, it is the share of correct decisions, one for each pair of image and label.

    Args:
      eval_fn: a jitted (state, batch) -> {"loss_sum", "correct", "count"}, watched by `preemption`, which stops it
        early.
      on_rows: called with the "rows" that eval_fn returns for each batch, in order.

    Raises:
      UserError: if no image can be read; errors from reading an image pass through.
    """
    totals = {"loss_sum": 0.0, "correct": 0, "count": 0}
    for result in batch_results(eval_fn, state, batches, mesh, preemption):
        for name in totals:
            totals[name] += result[name].item()
        if on_rows is not None:
            on_rows(result["rows"])
    count = int(totals["count"])
    if not count:
        raise UserError("not one image of the evaluation can be read")
    return {"loss": totals["loss_sum"] / count, "accuracy": totals["correct"] / count, "count": count}


def batch_results(
    function: Callable[[Any, Any], Any], state: Any, batches: EvalBatches, mesh: Mesh, preemption: PreemptionGuard
) -> Iterator[Any]:
    """Yields function(state, batch) of each of `batches`, in order, in host memory; fetched while the next is computed.

    Args:
      function: jitted, and watched by `preemption`, which stops it early. Raises the errors of reading an image.
    """
    previous: Any = None
    with closing(prefetch(lambda position: shard_batch(batches[position], mesh), range(len(batches)))) as sharded:
        for batch in preemption.defer_errors_of(sharded, len(batches)):
            preemption.stop_if_interrupted()
            current = function(state, batch)
            if previous is not None:
                yield jax.device_get(previous)
            previous = current
    if previous is not None:
        yield jax.device_get(previous)
    preemption.raise_deferred_errors()
