"""Every image is counted exactly once."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.source import ArraySource
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import Preempted
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.images import Normalization
from resnet_jax.training.jit_steps import jit_per_example_eval_step
from resnet_jax.training.train_state import create_train_state

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


def test_an_image_is_mirrored_before_a_mean_image_is_subtracted():
    def apply(variables, images, *, train):
        return images.reshape(len(images), -1)[:, :3] ** 2  # of the corner, where mirrors differ

    images, mean = IMAGES[:1], np.random.RandomState(1).uniform(size=IMAGES.shape[1:])
    state = create_train_state(create_model("resnet20", num_classes=3), {"params": {}}, optax.identity())
    mesh = make_mesh(jax.devices()[:1])
    step = jit_per_example_eval_step(Normalization(mean, np.ones(3)), "float32", mesh, apply, flip=True)
    logits = [apply(None, view / 255 - mean, train=False) for view in (images, images[:, :, ::-1])]
    expected = -jax.nn.log_softmax(np.mean(logits, axis=0))[0, 1]
    result = step(state, {"image": images, "label": np.array([1], np.int32)})
    assert float(result["loss_sum"]) == pytest.approx(float(expected), rel=1e-5)
