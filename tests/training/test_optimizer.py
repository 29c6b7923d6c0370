"""The optimizers by hand-computed numbers; tests/training/test_steps.py runs them against torch.optim and timm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.adam import adam, adamw, lion, rmsprop
from resnet_jax.training.optimizer import add_l1, clip_gradient_norm, lamb, lars, scale_by_layer, sgd

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


NETWORK = {
    "bn1": {"scale": jnp.array([2.0]), "bias": jnp.array([2.0])},
    "fc": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])},
}


def after_one_step(tx, gradient=1.0, params=NETWORK):
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): float(leaf.ravel()[0])
        for path, leaf in jax.tree.leaves_with_path(optax.apply_updates(params, updates))
    }


def test_decay_of_the_heads_bias_leaves_norms_alone():
    result = after_one_step(sgd(0.1, weight_decay=0.5, decay_norm_and_bias=False, decay_bias=True))
    assert result == pytest.approx({"bn1.scale": 1.9, "bn1.bias": 1.9, "fc.kernel": 1.8, "fc.bias": 1.8})


def test_lars_by_hand():
    # |p| 2, |g| 1: ratio 0.1 * 2 / (1 + 0.5 * 2) = 0.1; update 0.1 * (1 + 0.5 * 2) = 0.2. Not decayed: the gradient.
    result = after_one_step(lars(1.0, weight_decay=0.5, decay_norm_and_bias=False, trust_coefficient=0.1))
    assert result == pytest.approx({"bn1.scale": 1.0, "bn1.bias": 1.0, "fc.kernel": 1.8, "fc.bias": 1.0})
    # Without weight decay nothing is scaled; where a norm is 0 the ratio is 1.
    assert after_one_step(lars(1.0)) == pytest.approx(dict.fromkeys(result, 1.0))
    zero = {"fc": {"kernel": jnp.zeros((1, 1))}}
    assert after_one_step(lars(1.0, weight_decay=0.5), params=zero) == {"fc.kernel": -1.0}


def test_lamb_by_hand():
    # Four gradients of 1 are scaled to a norm of 1; Adam's first update is 1. Kernel: 1 + 0.5 * 2 = 2 by the ratio
    # 2 / 2. Not decayed: Adam's update.
    result = after_one_step(lamb(0.1, weight_decay=0.5, decay_norm_and_bias=False))
    assert result == pytest.approx({"bn1.scale": 1.9, "bn1.bias": 1.9, "fc.kernel": 1.8, "fc.bias": 1.9}, rel=1e-4)
    # An epsilon that is not small shows the clipping: 0.5 / (0.5 + 0.5), and without it 1 / (1 + 0.5).
    assert after_one_step(lamb(1.0, epsilon=0.5))["fc.bias"] == pytest.approx(1.5, rel=1e-5)
    assert after_one_step(lamb(1.0, epsilon=0.5, max_gradient_norm=0.0))["fc.bias"] == pytest.approx(
        2 - 1 / 1.5, rel=1e-5
    )


def test_adaptive_optimizers_by_hand():
    # Of gradient 1 and parameter 2, of which the kernel alone decays: Adam's first update is 1 whatever the momenta.
    half = {"weight_decay": 0.5, "decay_norm_and_bias": False}
    others = {"bn1.scale": 1.9, "bn1.bias": 1.9, "fc.bias": 1.9}
    # Decoupled, the kernel's step is 1 + 0.5 * 2; coupled, the gradient is 2 and its update 1 again.
    assert after_one_step(adamw(0.1, **half)) == pytest.approx({**others, "fc.kernel": 1.8}, rel=1e-6)
    assert after_one_step(adam(0.1, **half)) == pytest.approx({**others, "fc.kernel": 1.9}, rel=1e-6)
    assert after_one_step(lion(0.1, **half)) == pytest.approx({**others, "fc.kernel": 1.8}, rel=1e-6)
    # The first mean square is (1 - 0.75) times the square, its root half of the gradient; epsilon stands beside it.
    update = 1 / (0.5 + 0.5)
    result = after_one_step(rmsprop(0.1, second_momentum=0.75, epsilon=0.5))
    assert result == pytest.approx(dict.fromkeys(result, 2 - 0.1 * update), rel=1e-6)


def test_clipping_scales_all_gradients_to_the_norm_and_leaves_small_ones():
    assert after_one_step(optax.chain(clip_gradient_norm(1.0), sgd(1.0)))["fc.bias"] == pytest.approx(1.5)
    assert after_one_step(optax.chain(clip_gradient_norm(1.0), sgd(1.0)), 0.25)["fc.bias"] == pytest.approx(1.75)


def test_l1_pulls_what_decays_towards_zero():
    result = after_one_step(optax.chain(add_l1(0.5, decay_norm_and_bias=False), sgd(1.0, momentum=0.0)), gradient=0.0)
    assert result == pytest.approx({"bn1.scale": 2.0, "bn1.bias": 2.0, "fc.kernel": 1.5, "fc.bias": 2.0})


def test_layers_have_their_own_rates_by_the_longest_name():
    params = {"layer1": {"0": {"kernel": jnp.array([2.0])}, "1": {"kernel": jnp.array([2.0])}}, **NETWORK}
    factors = {"layer1": 0.5, "layer1.1": 0.0, "fc": 2.0}
    result = after_one_step(optax.chain(sgd(0.1), scale_by_layer(factors)), params=params)
    assert result == pytest.approx(
        {"bn1.scale": 1.9, "bn1.bias": 1.9, "fc.kernel": 1.8, "fc.bias": 1.8, "layer1.0.kernel": 1.95,
         "layer1.1.kernel": 2.0}
    )  # fmt: skip
    with pytest.raises(ValueError, match="no layer 'layer' is trained"):
        after_one_step(scale_by_layer({"layer": 1.0}), params=params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lars(0.1, trust_coefficient=0.0), "trust_coefficient=0.0 must be positive"),
        (lambda: lars(0.1, momentum=0.0, nesterov=True), "nesterov=True needs momentum > 0"),
        (lambda: lamb(0.1, second_momentum=1.0), r"second_momentum=1.0 must be in \[0, 1\)"),
        (lambda: lamb(0.1, max_gradient_norm=-1.0), "max_gradient_norm=-1.0 must be at least 0"),
        (lambda: lamb(-0.1), "learning_rate=-0.1 must be at least 0"),
        (lambda: adamw(0.1, second_momentum=-0.1), r"second_momentum=-0.1 must be in \[0, 1\)"),
        (lambda: rmsprop(0.1, momentum=1.0), r"momentum=1.0 must be in \[0, 1\)"),
        (lambda: lion(0.1, weight_decay=-1.0), "weight_decay=-1.0 must be at least 0"),
        (lambda: clip_gradient_norm(0.0), "max_norm=0.0 must be positive"),
        (lambda: add_l1(-1.0), "l1=-1.0 must be at least 0"),
        (lambda: scale_by_layer({"fc": -1.0}), "factor of 'fc', -1.0, must be at least 0"),
    ],
)
def test_other_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [sgd, lars, lamb, adamw, adam, rmsprop, lion])
def test_hyperparameters_may_change_inside_a_compiled_step(make):
    params = {"layer": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, -0.2])}}
    gradients = jax.tree.map(lambda leaf: 0.1 * leaf + 0.05, params)
    plain, injected = make(0.1), optax.inject_hyperparams(make)(learning_rate=0.1)

    def two_steps(tx):
        state, now = tx.init(params), params
        for _ in range(2):
            updates, state = jax.jit(tx.update)(gradients, state, now)
            now = optax.apply_updates(now, updates)
        return now

    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 1e-4), two_steps(plain), two_steps(injected))
    decays = optax.inject_hyperparams(make)(learning_rate=0.1, weight_decay=0.1)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, 1e-4),
        two_steps(make(0.1, weight_decay=0.1)),
        two_steps(decays),
    )
    move = lambda rate: make(rate).update(gradients, make(rate).init(params), params)[0]  # noqa: E731
    kernel = jax.vmap(move)(jnp.array([0.1, 0.2]))["layer"]["kernel"]
    np.testing.assert_allclose(kernel[1], 2.0 * kernel[0], 1e-5)
