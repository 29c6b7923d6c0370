"""SGD by hand-computed numbers; tests/test_steps.py runs it against torch.optim."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.optimizer import sgd

PARAMS = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}
GRADIENTS = {"kernel": jnp.array([[1.0]]), "bias": jnp.array([1.0])}


def after_two_steps(tx):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
    return {name: float(leaf.ravel()[0]) for name, leaf in params.items()}


def test_momentum_and_coupled_decay():
    # g = 1 + 0.5 p. Step 1: g 2, buffer 2, p 2 - 0.1 * 2 = 1.8. Step 2: g 1.9, buffer 0.9 * 2 + 1.9 = 3.7, p 1.43.
    result = after_two_steps(sgd(0.1, momentum=0.9, weight_decay=0.5))
    assert result == pytest.approx({"kernel": 1.43, "bias": 1.43})


def test_nesterov_looks_ahead():
    # Step 1: buffer 1, update 1 + 0.9 = 1.9, p 1.81. Step 2: buffer 1.9, update 1 + 1.71 = 2.71, p 1.539.
    assert after_two_steps(sgd(0.1, momentum=0.9, nesterov=True))["kernel"] == pytest.approx(1.539)


def test_norms_and_biases_may_be_exempt_from_decay():
    result = after_two_steps(sgd(0.1, momentum=0.0, weight_decay=0.5, decay_norm_and_bias=False))
    # Kernel: 2 - 0.1 * 2 = 1.8, then 1.8 - 0.1 * 1.9 = 1.61. Bias: 2 - 0.1 - 0.1.
    assert result == pytest.approx({"kernel": 1.61, "bias": 1.8})


def test_schedule_is_asked_for_the_step_from_zero():
    tx = sgd(lambda step: jnp.where(step == 0, 1.0, 0.0), momentum=0.0)
    assert after_two_steps(tx)["kernel"] == pytest.approx(1.0)


def test_updates_of_a_float32_model_stay_float32_with_x64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
        tx = sgd(lambda step: 0.1 / (1 + step))
        updates, _ = tx.update(params, tx.init(params), params)
        assert {np.asarray(leaf).dtype for leaf in jax.tree.leaves(updates)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be at least 0"),
        ({"learning_rate": 1.0, "momentum": 1.0}, r"momentum=1.0 must be in \[0, 1\)"),
        ({"learning_rate": 1.0, "momentum": 0.0, "nesterov": True}, "nesterov=True needs momentum > 0"),
        ({"learning_rate": 1.0, "weight_decay": -1.0}, "weight_decay=-1.0 must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sgd(**options)
