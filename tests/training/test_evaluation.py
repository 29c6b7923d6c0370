"""Every image is counted exactly once."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.source import ArraySource
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import Preempted
from resnet_jax.training.evaluation import evaluate

IMAGES = np.random.RandomState(0).randint(0, 256, (13, 2, 2, 3)).astype(np.uint8)
SOURCE = ArraySource(IMAGES, np.arange(13, dtype=np.int32), tuple(map(str, range(13))))


def eval_fn(state, batch):
    """Counts as `eval_step` does, but with the images' own sums, so that any image missed or seen twice shows."""
    weights = batch["mask"] * state
    values = batch["image"].astype(jnp.float32).sum((1, 2, 3))
    return {
        "loss_sum": jnp.sum(values * weights),
        "correct": jnp.sum((batch["label"] % 2 == 0) * weights).astype(jnp.int32),
        "count": jnp.sum(weights).astype(jnp.int32),
    }


@pytest.mark.parametrize(("batch_size", "num_devices"), [(13, 1), (1, 1), (4, 1), (4, 2), (8, 8), (16, 8)])
def test_padded_and_sharded_evaluation_equals_the_plain_mean(batch_size, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    result = evaluate(jax.jit(eval_fn), jnp.float32(1), EvalBatches(SOURCE, batch_size), mesh, PreemptionGuard(1))
    assert result == {"loss": IMAGES.sum() / 13, "accuracy": 7 / 13, "count": 13}


def test_evaluation_can_be_stopped_between_batches_but_not_by_a_callback():
    preemption = PreemptionGuard(1)
    preemption.interrupt_immediately = False
    calls = []

    def signalled(state, batch):
        calls.append(1)
        if len(calls) == 2:
            preemption.stop("good enough")
        if len(calls) == 5:
            preemption.receive(signal.SIGTERM)
        return eval_fn(state, batch)

    with pytest.raises(Preempted, match="SIGTERM"):
        evaluate(signalled, jnp.float32(1), EvalBatches(SOURCE, 2), make_mesh(jax.devices()[:2]), preemption)
    assert len(calls) == 5
    preemption = PreemptionGuard(1)
    preemption.stop("good enough")
    evaluate(eval_fn, jnp.float32(1), EvalBatches(SOURCE, 2), make_mesh(jax.devices()[:2]), preemption)
    with pytest.raises(Preempted, match="good enough"):
        preemption.stop_if_requested()
