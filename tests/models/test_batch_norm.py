"""Whose statistics batch norm uses: the batch's, each device's, each ghost batch's; and statistics computed anew."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from state_dicts import random_variables

from resnet_jax.distributed.mesh import make_mesh, replicated, shard_batch
from resnet_jax.models import BatchNorm, Conv, ResNet
from resnet_jax.models.batch_statistics import in_one_pass, in_two_passes, mean_and_variance, normalize_by_batch
from resnet_jax.training import create_train_state, precise_batch_stats, sgd, train_step

ROWS = 16
step = jax.jit(train_step)
SGD = sgd(0.1)  # one, like a network for each `batch_norm`, so that equal steps are compiled once


@cache
def network(batch_norm, **options):
    return ResNet(
        stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3, dtype="float64", batch_norm=batch_norm,
        **options,
    )  # fmt: skip


def batch():
    rng = np.random.RandomState(0)
    return {"image": rng.normal(size=(ROWS, 8, 8, 3)), "label": np.arange(ROWS) % 3}


def steps(batch_norm, mesh=None, num_steps=3, images=None):
    """Metrics and the last state of a few steps on one batch, which lies on `mesh`."""
    model, images = network(batch_norm), images or batch()
    variables = random_variables(model)
    variables["params"] = jax.tree.map(lambda leaf: leaf - 1 if leaf.ndim > 1 else leaf, variables["params"])
    state = create_train_state(model, variables, SGD)
    if mesh is not None:
        state, images = jax.device_put(state, replicated(mesh)), shard_batch(images, mesh)
    taken = []
    for _ in range(num_steps):
        state, metrics = step(state, images)
        taken.append({name: float(value) for name, value in metrics.items()})
    return taken, state


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_ghost_batches_have_their_own_statistics_computed_by_hand():
    x = np.random.RandomState(0).normal(size=(6, 2, 2, 3))
    with jax.enable_x64(True):
        norm = BatchNorm(rows_per_group=2, momentum=0.9, dtype=jnp.float64, param_dtype=jnp.float64)
        variables = norm.init(jax.random.key(0), x, train=False)
        y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    shares = [x[i : i + 2] for i in (0, 2, 4)]
    means = [share.mean((0, 1, 2)) for share in shares]
    expected = [
        (share - mean) / np.sqrt(share.var((0, 1, 2)) + 1e-5) for share, mean in zip(shares, means, strict=True)
    ]
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=0, atol=1e-12)
    unbiased = [share.var((0, 1, 2), ddof=1) for share in shares]
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * np.mean(means, 0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * np.mean(unbiased, 0), rtol=0, atol=1e-12)


def test_local_statistics_are_those_of_each_devices_share():
    num_devices = 4
    with jax.enable_x64(True):
        mesh = make_mesh(jax.devices()[:num_devices])
        local, on_devices = steps("local", mesh)
        ghost, on_one = steps(f"ghost:{ROWS // num_devices}")
        whole, _ = steps("global")
        assert_same(local, ghost)
        assert_same(on_devices.variables, on_one.variables)
        assert local[0]["loss"] != pytest.approx(whole[0]["loss"], abs=1e-6)
        # The same by hand: a device's loss and statistics are those of a batch of its rows alone.
        rows = ROWS // num_devices
        shares = [{name: a[i : i + rows] for name, a in batch().items()} for i in range(0, ROWS, rows)]
        alone = [steps("global", num_steps=1, images=share) for share in shares]
        assert local[0]["loss"] == pytest.approx(np.mean([taken[0]["loss"] for taken, _ in alone]), abs=1e-12)
        _, first = steps("local", mesh, num_steps=1)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / num_devices, *(state.batch_stats for _, state in alone))
        assert_same(first.batch_stats, mean)


@pytest.mark.parametrize("batch_norm", ["global", "ghost:4", "frozen"])
def test_statistics_do_not_depend_on_the_devices(batch_norm):
    with jax.enable_x64(True):
        one, on_one = steps(batch_norm)
        many, on_many = steps(batch_norm, make_mesh())
        assert_same(one, many)
        assert_same(on_one.variables, on_many.variables)


def test_masked_rows_count_alike_under_local_statistics():
    with jax.enable_x64(True):
        images = {**batch(), "mask": np.array([1, 1, 1, 0] + [0] * 4 + [1] * 8, np.float64)}
        local, on_devices = steps("local", make_mesh(jax.devices()[:4]), 1, images)
        ghost, on_one = steps("ghost:4", None, 1, images)
        assert_same(local, ghost)
        assert_same(on_devices.params, on_one.params)


def test_local_statistics_cost_one_collective():
    mesh, images = make_mesh(), jax.tree.map(lambda a: a.astype(np.float32), batch())
    images["label"] = images["label"].astype(np.int32)
    model = ResNet(stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3, batch_norm="local")
    state = jax.device_put(create_train_state(model, random_variables(model), sgd(0.1)), replicated(mesh))
    program = step.lower(state, shard_batch(images, mesh)).compile().as_text()
    assert sum(" all-reduce(" in line or " all-reduce-start(" in line for line in program.splitlines()) == 1
    assert "all-gather" not in program


@pytest.mark.parametrize(
    ("batch_norm", "message"),
    [
        ("ghost", "batch_norm='ghost' must be one of global, local, ghost:N, frozen"),
        ("ghost:0", "must be one of"),
        ("ghost:N", "needs a number of rows, for example ghost:32"),
    ],
)
def test_batch_norms_that_do_not_exist_are_refused(batch_norm, message):
    with pytest.raises(ValueError, match=message):
        ResNet(stage_sizes=(1,), batch_norm=batch_norm)


def test_ghost_batches_that_do_not_fill_the_batch_are_refused():
    with jax.enable_x64(True), pytest.raises(ValueError, match="rows_per_group=5 must divide the 16 rows"):
        steps("ghost:5")


def test_images_that_the_devices_cannot_share_are_refused():
    model = ResNet(stage_sizes=(1,), num_filters=4, stem="cifar", num_classes=3, batch_norm="local")
    images = jax.device_put(np.zeros((10, 8, 8, 3), np.float32), replicated(make_mesh(jax.devices()[:4])))
    with pytest.raises(ValueError, match="batch_norm='local': 4 devices must divide the 10 images"):
        jax.eval_shape(partial(model.apply, train=True), random_variables(model), images)


def test_precise_statistics_are_the_mean_of_the_batches_own():
    with jax.enable_x64(True):
        model = network("global", norm_momentum=0.7)
        images = np.random.RandomState(1).normal(2.0, 3.0, size=(3, ROWS, 8, 8, 3))
        variables = random_variables(model)
        precise = precise_batch_stats(model, variables, iter(images))
        # By hand for the first batch norm: of what the first convolution makes of each batch.
        convolved = [Conv(4, dtype=jnp.float64).apply({"params": variables["params"]["conv1"]}, x) for x in images]
        np.testing.assert_allclose(precise["bn1"]["mean"], np.mean([c.mean((0, 1, 2)) for c in convolved], 0))
        np.testing.assert_allclose(precise["bn1"]["var"], np.mean([c.var((0, 1, 2), ddof=1) for c in convolved], 0))
        # With one batch, evaluation normalises as training does, but for the unbiased variance.
        one = {**variables, "batch_stats": precise_batch_stats(model, variables, images[:1])}
        apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
        trained, _ = apply(variables, images[0], train=True, mutable=("batch_stats",))
        np.testing.assert_allclose(apply(one, images[0], train=False), trained, rtol=1e-2)


def test_precise_statistics_that_cannot_be_are_refused():
    model = ResNet(stage_sizes=(1,), batch_norm="frozen")
    with pytest.raises(ValueError, match="batch_norm='frozen' has no statistics to compute anew"):
        precise_batch_stats(model, {}, [])
    with pytest.raises(ValueError, match="at least one batch"):
        precise_batch_stats(model.clone(batch_norm="global"), {}, [])


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", [(8, 14, 14, 32), (64, 1, 1, 32), (64, 32), (2, 56, 56, 32)])
def test_statistics_of_one_pass_are_as_accurate_as_those_of_two(ratio, shape):
    """Error by the standard deviation; the plain difference of moments would lose the variance at 1e4."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(shape[0],) + (1,) * (len(shape) - 2) + shape[-1:])
    x = (ratio + images + rng.normal(size=shape)).astype(np.float32)
    axes = tuple(range(len(shape) - 1))

    mean, var = x.mean(axes, dtype=np.float64), x.astype(np.float64).var(axes)
    (mean_two, var_two), (mean_one, var_one) = (jax.jit(f)(x) for f in (in_two_passes, in_one_pass))
    assert np.max(np.abs(var_one - var) / var) <= max(3 * np.max(np.abs(var_two - var) / var), 1e-6)
    assert np.max(np.abs(mean_one - mean)) <= max(3 * np.max(np.abs(mean_two - mean)), 4e-7 * (1 + ratio))


def test_the_variance_is_never_negative_and_survives_an_outlier_in_the_middle():
    """The centre of the squares is then as far from the mean as a value among them can be."""
    constant = np.broadcast_to(np.float32([0.1, -1e4, 3e-20]), (3, 5, 7, 3))
    mean, var = jax.jit(in_one_pass)(constant)
    np.testing.assert_allclose(mean, constant[0, 0, 0], rtol=3e-7)
    assert np.all(var >= 0)
    assert np.all(var <= np.square(3e-7 * constant[0, 0, 0]))
    for size, outlier in ((7, 1.0), (56, 1e3), (112, 1e-3)):
        x = np.full((4, size, size, 1), 0.7, np.float32)
        x[:, size // 2, size // 2] += np.float32(outlier)
        _, var = jax.jit(in_one_pass)(x)
        exact = x.astype(np.float64).var()
        np.testing.assert_allclose(var, exact, rtol=2e-7 * size**2 + 1e-6)


def passes(function, *arguments):
    """How many passes over an array as large as the first argument each result needs, one after the other."""
    traced = jax.make_jaxpr(function)(*arguments)
    return _passes(traced.jaxpr, [0] * len(arguments), arguments[0].size)


def _passes(jaxpr, depths, size):
    known = dict(zip(jaxpr.invars, depths, strict=True)) | dict.fromkeys(jaxpr.constvars, 0)
    for equation in jaxpr.eqns:
        given = [0 if hasattr(operand, "val") else known.get(operand, 0) for operand in equation.invars]
        inner = next((p for p in equation.params.values() if hasattr(getattr(p, "jaxpr", p), "eqns")), None)
        if "branches_platforms" in equation.params:
            default = equation.params["branches_platforms"].index(None)
            found = _passes(equation.params["branches"][default].jaxpr, given[1:], size)
        elif inner is not None:
            found = _passes(getattr(inner, "jaxpr", inner), given, size)
        else:
            reduces = equation.primitive.name.startswith("reduce_") and equation.invars[0].aval.size >= size
            found = [max(given, default=0) + reduces] * len(equation.outvars)
        known |= dict(zip(equation.outvars, found, strict=True))
    return [0 if hasattr(result, "val") else known.get(result, 0) for result in jaxpr.outvars]


def test_batch_norm_reads_the_activations_once_for_its_statistics_and_once_for_both_sums_of_its_gradient():
    x, scale = jnp.ones((1, 4, 6, 6, 8), jnp.bfloat16), jnp.ones(8)

    def normalize(x, scale, bias):  # mapped, so that the primitives are the operations that they stand for
        return jax.vmap(lambda x: normalize_by_batch(x, scale, bias, 1e-5))(x)

    def gradients(x, y_dot, scale, bias):
        return jax.vjp(lambda *operands: normalize(*operands)[0], x, scale, bias)[1](y_dot)

    assert passes(normalize, x, scale, scale) == [1, 1, 1]  # y, mean, var
    assert passes(gradients, x, x.astype(jnp.float32), scale, scale) == [2, 2, 1]  # of x, scale (both after the first)
    assert passes(lambda x: jnp.mean(jnp.square(x - jnp.mean(x))), x) == [2]


def test_statistics_over_mapped_axes_are_those_of_the_whole_batch():
    """Shares of means far apart, themselves far from zero."""
    means = np.array([0.0, 1e3, 2e3, 7e3]).reshape(4, 1, 1, 1, 1)
    shares = (means + np.random.default_rng(0).normal(size=(4, 2, 5, 5, 3))).astype(np.float32)
    mapped = jax.vmap(partial(mean_and_variance, axis_name=("share",)), axis_name="share")
    for mean, var in zip(*mapped(shares), strict=True):
        np.testing.assert_allclose(mean, shares.mean((0, 1, 2, 3), dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(var, shares.astype(np.float64).var((0, 1, 2, 3)), rtol=1e-6)
