"""Batch norm and max-pooling by oneDNN in a program for the CPU: numbers, derivatives, and where they are not."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.models.batch_statistics import normalize_by_batch
from resnet_jax.models.blocks import BottleneckBlock
from resnet_jax.models.pooling import max_pool, same_max_pool, zero_padded_max_pool
from resnet_jax.ops import onednn, onednn_layers

pytestmark = pytest.mark.skipif(not onednn.available(), reason="oneDNN is not installed for this machine")
EPSILON = 1e-5
SHAPES = ((4, 8, 8, 32), (3, 7, 5, 16), (2, 9, 9, 20), (2, 5, 5, 3), (8, 1, 1, 64), (1, 3, 3, 256))
DTYPES = {"float32": 2e-6, "bfloat16": 8e-3}  # tolerances, by the largest value


def operands(shape, dtype, mean=2.0):
    keys = jax.random.split(jax.random.key(0), 4)
    x = (jax.random.normal(keys[0], shape) + mean).astype(dtype)
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[1:3])
    return x, scale, bias, jax.random.normal(keys[3], shape).astype(dtype)


def normalized(x, scale, bias):
    return normalize_by_batch(x, scale, bias, EPSILON, dtype=x.dtype)[0].astype(x.dtype)


def rectified(x, scale, bias):
    return normalize_by_batch(x, scale, bias, EPSILON, dtype=x.dtype, relu=True)[0]


def formula(x, scale, bias):
    x = x.astype(jnp.float64)
    mean = x.mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(jnp.square(x - mean).mean((0, 1, 2)) + EPSILON) * scale + bias


def with_gradients(function):
    def compute(x, scale, bias, cotangent):
        y, vjp = jax.vjp(function, x, scale, bias)
        return y, *vjp(cotangent.astype(y.dtype))

    return jax.jit(compute)


def assert_near(actual, expected, tolerance):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_and_its_gradients_are_the_formulas(shape, dtype):
    given = operands(shape, dtype)
    program = with_gradients(normalized).lower(*given)
    count = program.as_text().count("resnet_jax_onednn_batch_norm")
    assert count == 2 * onednn_layers.can_normalize(shape, dtype, EPSILON)
    with jax.enable_x64(True):
        expected = with_gradients(formula)(*(jnp.asarray(one, jnp.float64) for one in given))
    for one, other in zip(program.compile()(*given), expected, strict=True):
        assert_near(one, other, 10 * DTYPES[dtype])


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rectified_it_is_the_same_where_it_is_positive(shape, dtype):
    given = operands(shape, dtype)
    program = with_gradients(rectified).lower(*given)
    count = program.as_text().count("resnet_jax_onednn_batch_norm_relu")
    assert count == 2 * onednn_layers.can_normalize(shape, dtype, EPSILON, relu=True)
    actual = program.compile()(*given)
    expected = with_gradients(lambda *given: nn.relu(normalized(*given)))(*given)
    assert actual[0].dtype == jnp.dtype(dtype)
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other, DTYPES[dtype])


def test_a_block_rectifies_within_its_norms_and_captures_what_they_return():
    block = BottleneckBlock(filters=16)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
    variables = block.init(jax.random.key(1), x, train=False)

    def apply(*mutable, capture=False):
        program = jax.jit(
            lambda variables: block.apply(
                variables, x, train=True, mutable=["batch_stats", *mutable], capture_intermediates=capture
            )
        ).lower(variables)
        return program.as_text().count("relu_2x8x8x16"), *program.compile()(variables)

    fused, y, _ = apply()
    apart, same, captured = apply("intermediates", capture=True)
    assert (fused, apart) == (2 * onednn_layers.can_normalize((2, 8, 8, 16), "float32", EPSILON, relu=True), 0)
    assert_near(y, same, 1e-5)
    assert captured["intermediates"]["bn1"]["__call__"][0].min() < 0


def test_onednn_normalizes_what_it_vectorizes():
    assert onednn_layers.can_normalize((4, 8, 8, 32), "float32", EPSILON)
    assert not onednn_layers.can_normalize((2, 5, 5, 3), "float32", EPSILON)  # its reference code alone
    assert not onednn_layers.can_normalize((4, 8, 8, 32), "float16", EPSILON)
    assert not onednn_layers.can_normalize((0, 8, 8, 32), "float32", EPSILON)


@pytest.mark.numerics
def test_a_large_mean_costs_no_digits():
    x, scale, bias, _ = operands((8, 16, 16, 32), "float32", mean=3000.0)
    with jax.enable_x64(True):
        expected = formula(jnp.asarray(x), scale, bias)
    assert_near(jax.jit(normalized)(x, scale, bias), expected, 1e-3)  # a mean's rounding is 1e-4 of the spread


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [normalized, rectified])
def test_nan_reaches_all_of_its_channel(function, dtype):
    x, scale, bias, cotangent = operands((2, 4, 4, 16), dtype)
    results = with_gradients(function)(x.at[0, 1, 2, 5].set(jnp.nan), scale, bias, cotangent)
    for result in (np.asarray(result, np.float32) for result in results[:2]):
        assert np.isnan(result[..., 5]).all()
        assert np.isfinite(np.delete(result, 5, axis=-1)).all()


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["scale", "bias"])
def test_nan_of_a_parameter_reaches_its_channel_through_the_relu(which, dtype):
    x, scale, bias, _ = operands((2, 4, 4, 16), dtype)
    given = {"scale": scale, "bias": bias}
    given[which] = given[which].at[3].set(jnp.nan)
    y = np.asarray(jax.jit(rectified)(x, **given), np.float32)
    assert np.isnan(y[..., 3]).all()
    assert np.isfinite(np.delete(y, 3, axis=-1)).all()


def test_gradients_hold_where_forward_was_computed_otherwise():
    """Mapped at once and transposed one by one; on eight devices and on one: no note of oneDNN's is there then."""
    x, scale, bias, cotangent = operands((8, 4, 4, 16), "float32")
    expected = with_gradients(lambda *given: nn.relu(normalized(*given)))(x, scale, bias, cotangent)[1]
    of_x = lambda x: rectified(x, scale, bias)  # noqa: E731
    _, transposed = jax.vmap(lambda x: jax.vjp(of_x, x))(jnp.stack([x, x]))
    for found in jax.lax.map(lambda pair: pair[0](pair[1])[0], (transposed, jnp.stack([cotangent, cotangent]))):
        assert_near(found, expected, 1e-5)
    split = jax.device_put(x, jax.NamedSharding(make_mesh(), PartitionSpec("data")))
    _, transposed = jax.jit(lambda x: jax.vjp(of_x, x))(split)
    transposed = jax.device_put(transposed, jax.devices()[0])
    assert_near(jax.jit(lambda vjp, cotangent: vjp(cotangent)[0])(transposed, cotangent), expected, 1e-5)


def test_debugging_without_jit_and_for_nan_finds_nothing():
    x, scale, bias, cotangent = operands((4, 4, 4, 16), "float32")
    expected = jax.vjp(rectified, x, scale, bias)[1](cotangent)
    with jax.disable_jit():
        found = jax.vjp(lambda *given: max_pool(rectified(*given)), x, scale, bias)[1](max_pool(cotangent))
    assert all(np.isfinite(one).all() for one in found)
    with jax.debug_nans(True):
        for one, other in zip(jax.vjp(jax.jit(rectified), x, scale, bias)[1](cotangent), expected, strict=True):
            assert_near(one, other, 1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_all_derivatives_are_the_formulas_to_second_order(relu):
    x, scale, bias, _ = operands((2, 3, 3, 16), "float32")
    weights = jax.random.normal(jax.random.key(5), x.shape)

    def loss(function, x, scale, bias):
        return jnp.sum(weights * function(x, scale, bias) ** 3)

    tangents = jax.tree.map(jnp.cos, (x, scale, bias))
    with jax.enable_x64(True):
        exact = partial(loss, (lambda *given: nn.relu(formula(*given))) if relu else formula)
        expected = jax.jvp(exact, (x, scale, bias), tangents)[1], jax.grad(exact, 1)(x, scale, bias)
        expected_second = jax.hessian(exact, (1, 2))(x, scale, bias)
    ours = partial(loss, rectified if relu else normalized)
    actual = jax.jvp(ours, (x, scale, bias), tangents)[1], jax.grad(ours, 1)(x, scale, bias)
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other, 1e-5)
    for second in (jax.hessian, lambda f, argnums: jax.jacrev(jax.grad(f, argnums), argnums)):
        found = jax.tree.leaves(second(ours, (1, 2))(x, scale, bias))
        for one, other in zip(found, jax.tree.leaves(expected_second), strict=True):
            assert_near(one, other, 1e-4)


def test_statistics_have_derivatives_too():
    x, scale, bias, _ = operands((2, 3, 3, 16), "float32")
    of_var = jax.jit(jax.grad(lambda x: jnp.sum(normalize_by_batch(x, scale, bias, EPSILON)[2] * scale)))(x)
    assert_near(of_var, 2 * (x - x.mean((0, 1, 2))) * scale / 18, 1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_each_device_normalizes_its_share_and_gradients_of_what_all_share_are_summed(check_vma):
    x, scale, bias, cotangent = operands((16, 3, 3, 16), "float32")
    rows, whole = PartitionSpec("data"), PartitionSpec()
    in_shares = jax.shard_map(
        normalized,
        mesh=make_mesh(),
        in_specs=(rows, whole, whole),
        out_specs=rows,
        check_vma=check_vma,
    )

    def one_by_one(x, scale, bias):
        return jnp.concatenate([normalized(share, scale, bias) for share in jnp.split(x, 8)])

    program = with_gradients(in_shares).lower(x, scale, bias, cotangent)
    assert program.as_text().count("resnet_jax_onednn_batch_norm") == 2
    expected = with_gradients(one_by_one)(x, scale, bias, cotangent)
    for one, other in zip(program.compile()(x, scale, bias, cotangent), expected, strict=True):
        assert_near(one, other, 1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_other_devices_hold_what_xla_fuses(platform):
    given = operands((4, 8, 8, 32), "bfloat16")

    def step(x, scale, bias, cotangent):
        return jax.vjp(lambda *given: max_pool(normalized(*given)), x, scale, bias)[1](max_pool(cotangent))

    text = jax.jit(step).trace(*given).lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    assert text.count("reduce_window") == 1  # of the cotangent: the gradient reads no maxima
    assert text.count("select_and_scatter") == 1


# --- max-pooling -----------------------------------------------------------------------------------------------------

POOLS = {"torch's": max_pool, "TensorFlow's": same_max_pool, "of zeros": zero_padded_max_pool}


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 9, 12, 24), (3, 16, 16, 64), (1, 4, 5, 3), (2, 3, 1, 16)])
@pytest.mark.parametrize("name", POOLS)
def test_the_first_maximum_of_a_window_gets_its_gradient(name, shape, dtype):
    pool = POOLS[name]
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), shape)).astype(dtype)  # many are the same
    y = pool(x)
    cotangent = jax.random.normal(jax.random.key(1), y.shape).astype(dtype)
    program = jax.jit(lambda x, cotangent: jax.vjp(pool, x)[1](cotangent)[0]).lower(x, cotangent)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if name == "of zeros" else x
    padding = {"torch's": ((1, 1), (1, 1)), "of zeros": ((0, 0), (0, 0))}.get(name) or tuple(
        jax.lax.padtype_to_pads(shape[1:3], (3, 3), (2, 2), "SAME")
    )
    assert ("onednn_max_pool" in program.as_text()) == onednn_layers.can_pool(padded.shape, dtype, padding)

    def by_xla(x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if name == "of zeros" else x
        return nn.max_pool(padded, (3, 3), strides=(2, 2), padding=padding)

    with jax.enable_x64(True):
        expected = jax.vjp(by_xla, x.astype(jnp.float64))[1](cotangent.astype(jnp.float64))[0]
    assert_near(program.compile()(x, cotangent), expected, DTYPES[dtype])


def test_max_pooling_has_second_derivatives_and_forward_ones():
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 16))
    plain = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    results = []
    for pool in (max_pool, plain):
        loss = lambda x, pool=pool: jnp.sum(pool(x) ** 3)  # noqa: E731
        along = lambda x, loss=loss: jax.grad(loss)(x) @ jnp.ones(16)  # noqa: E731
        results.append((jax.jvp(loss, (x,), (jnp.cos(x),))[1], jax.grad(lambda x: jnp.sum(along(x)))(x)))  # noqa: B023
    for one, other in zip(*results, strict=True):
        assert_near(one, other, 1e-5)
