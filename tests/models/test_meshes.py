"""Networks in one's own loop on 8 simulated devices: explicit meshes, shard_map, axes of any name."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from state_dicts import plausible_variables

from resnet_jax import create_model
from resnet_jax.models import ResNet
from resnet_jax.ops.batch_axes import automatic_batch_axes, mapped_batch_axes
from resnet_jax.training import create_train_state, sgd, train_step

ROWS = 16
WHOLE = PartitionSpec()
# Shape, names, how the images are split.
MESHES = {
    "one axis": ((8,), ("batch",), PartitionSpec("batch")),
    "one of two axes": ((4, 2), ("data", "model"), PartitionSpec("data")),
    "both axes": ((4, 2), ("data", "model"), PartitionSpec(("data", "model"))),
}
on_meshes = pytest.mark.parametrize("mesh_name", MESHES)
of_kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
SGD = sgd(0.1)


@cache
def network(**options):
    return ResNet(stage_sizes=(1, 1), num_filters=8, stem="cifar", num_classes=3, **options)


@cache
def variables():
    return plausible_variables(network())


def batch():
    rng = np.random.RandomState(0)
    return {
        "image": rng.normal(size=(ROWS, 8, 8, 3)).astype(np.float32),
        "label": (np.arange(ROWS) % 3).astype(np.int32),
    }


def lay_out(mesh_name, kind, *trees):
    """The mesh, how the images are split, their axes, and the trees: the last split by rows, the others replicated."""
    shape, names, rows = MESHES[mesh_name]
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(names))
    specs = [WHOLE] * (len(trees) - 1) + [rows]
    trees = [jax.device_put(tree, NamedSharding(mesh, spec)) for tree, spec in zip(trees, specs, strict=True)]
    axes = rows[0] if isinstance(rows[0], tuple) else (rows[0],)
    return mesh, rows, axes, *trees


def assert_same_to_rounding(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-6 * max(1.0, float(jnp.abs(b).max())))


def loss_fn(model, params, batch):
    logits, updated = model.apply(
        {**variables(), "params": params}, batch["image"], train=True, mutable=["batch_stats"]
    )
    at_label = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
    return -at_label.mean(), updated


@cache
def on_one_device():
    gradients, updated = jax.jit(jax.grad(partial(loss_fn, network(conv_impl="xla")), has_aux=True))(
        variables()["params"], batch()
    )
    return gradients, updated


@of_kinds
@on_meshes
def test_gradients_on_a_mesh_are_those_of_one_device(mesh_name, kind):
    mesh, _, _, params, images = lay_out(mesh_name, kind, variables()["params"], batch())
    with jax.set_mesh(mesh):
        result = jax.jit(jax.grad(partial(loss_fn, network()), has_aux=True))(params, images)
    assert_same_to_rounding(result, on_one_device())


@pytest.mark.parametrize(
    ("kind", "check_vma"), [(AxisType.Auto, True), (AxisType.Explicit, True), (AxisType.Auto, False)]
)
@on_meshes
def test_gradients_in_a_shard_map_are_those_of_the_whole_batch(mesh_name, check_vma, kind):
    mesh, rows, axes, params, images = lay_out(mesh_name, kind, variables()["params"], batch())
    model = network(axis_name=None if check_vma or len(mesh.axis_names) == 1 else axes)

    def compute(params, images):
        def loss(params):
            value, updated = loss_fn(model, params, images)
            return (jax.lax.pmean(value, axes), updated) if check_vma else (value, updated)

        gradients, updated = jax.grad(loss, has_aux=True)(params)
        return (gradients if check_vma else jax.lax.pmean(gradients, axes)), updated

    mapped = jax.shard_map(compute, mesh=mesh, in_specs=(WHOLE, rows), out_specs=WHOLE, check_vma=check_vma)
    assert_same_to_rounding(jax.jit(mapped)(params, images), on_one_device())


def state_of(batch_norm, axis_name=None):
    return create_train_state(network(batch_norm=batch_norm, axis_name=axis_name), variables(), SGD)


@cache
def step_on_one_device(batch_norm):
    state, metrics = jax.jit(train_step)(state_of(batch_norm), batch())
    return state.variables, metrics


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("batch_norm", "mesh_name", "kind"),
    [
        ("global", "one axis", AxisType.Explicit),
        ("local", "both axes", AxisType.Auto),
        pytest.param("global", "both axes", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("local", "one axis", AxisType.Explicit, marks=pytest.mark.slow),
    ],
)
def test_train_step_is_the_same_under_jit_and_in_a_shard_map(mesh_name, batch_norm, kind):
    _, names, rows = MESHES[mesh_name]
    axes = rows[0] if isinstance(rows[0], tuple) else (rows[0],)
    state = state_of(batch_norm, None if len(names) == 1 else axes)
    mesh, _, _, state, images = lay_out(mesh_name, kind, state, batch())
    num_shares = int(np.prod([mesh.shape[name] for name in axes]))
    expected = step_on_one_device("global" if batch_norm == "global" else f"ghost:{ROWS // num_shares}")
    with jax.set_mesh(mesh):
        stepped, metrics = jax.jit(train_step)(state, images)
    assert_same_to_rounding((stepped.variables, metrics), expected)
    in_shards = jax.shard_map(train_step, mesh=mesh, in_specs=(WHOLE, rows), out_specs=WHOLE)
    stepped, metrics = jax.jit(in_shards)(state, images)
    assert_same_to_rounding((stepped.variables, metrics), expected)


def axes_of(function, mesh, spec, axis_name=None, **options):
    """Return what `function` finds while images on this mesh are traced, in a shard_map if there are options."""
    found = []

    def trace(images):
        found.append(function(images, axis_name))
        return images

    images = jax.device_put(jnp.zeros((ROWS, 2)), NamedSharding(mesh, spec))
    if options:
        trace = jax.shard_map(trace, mesh=mesh, in_specs=spec, out_specs=spec, **options)
    jax.eval_shape(trace, images)
    return found[0]


def test_axes_are_found_by_what_is_known_of_the_images():
    auto, both = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2), PartitionSpec(("a", "b"))
    explicit, narrow = jax.make_mesh((4, 2), ("a", "b")), jax.make_mesh((8, 1), ("a", "b"))
    assert automatic_batch_axes(jnp.zeros((4, 2))) == ()
    assert axes_of(automatic_batch_axes, auto, both, ("a", "b")) == ("a", "b")
    assert axes_of(automatic_batch_axes, auto, both, "b") == ("b",)
    assert axes_of(automatic_batch_axes, explicit, PartitionSpec("b")) == ("b",)
    assert axes_of(automatic_batch_axes, explicit, WHOLE) == ()
    assert axes_of(automatic_batch_axes, narrow, PartitionSpec("a")) == ("a",)
    assert axes_of(mapped_batch_axes, auto, PartitionSpec("a"), check_vma=True) == ("a",)
    assert axes_of(mapped_batch_axes, auto, PartitionSpec("a"), "a", check_vma=False) == ("a",)
    assert axes_of(mapped_batch_axes, narrow, PartitionSpec("a"), check_vma=False) == ("a",)
    assert axes_of(automatic_batch_axes, auto, both, check_vma=True) == ()


@pytest.mark.parametrize(
    ("function", "axis_name", "options", "message"),
    [
        (automatic_batch_axes, None, {}, "axis_name=None must say which axes of their mesh split .*'a', 'b'"),
        (automatic_batch_axes, "data", {}, "axis_name='data' must be of the images' mesh, which has 'a', 'b'"),
        (mapped_batch_axes, None, {"check_vma": False}, "must say which axes of the surrounding shard_map split"),
        (
            mapped_batch_axes, "a", {"check_vma": True},
            "axis_name='a' must be what splits the images in the surrounding shard_map, which is 'a', 'b'",
        ),
    ],
)  # fmt: skip
def test_axes_that_cannot_be_meant_are_refused(function, axis_name, options, message):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match=message):
        axes_of(function, mesh, PartitionSpec(("a", "b")), axis_name, **options)


def test_evaluation_asks_for_no_axes():
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    images = jax.device_put(batch()["image"], NamedSharding(mesh, PartitionSpec("a")))
    for batch_norm in ("local", "global"):
        model = network(batch_norm=batch_norm)
        assert jax.eval_shape(partial(model.apply, train=False), variables(), images).shape == (ROWS, 3)


def frozen_gradients(model):
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = plausible_variables(model)

    def loss(variables):
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(logits))

    return jax.jit(jax.grad(loss)), variables


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"stage_sizes": (1, 1, 1)}),
        ("resnet50d", {"stage_sizes": (1, 1), "num_filters": 16}),
        ("preact_resnet20", {"stage_sizes": (1, 1, 1)}),
        ("seresnet50", {"stage_sizes": (1, 1), "num_filters": 16}),
    ],
)
@pytest.mark.parametrize("trainable", ["stage2", "head"])
def test_what_is_frozen_has_no_gradient(name, options, trainable):
    model = create_model(name, trainable=trainable, num_classes=3, **options)
    compute, variables = frozen_gradients(model)
    gradients = compute(variables)
    for layer, leaves in gradients["params"].items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(leaves)) == (layer not in model.frozen_layers), layer
    for layer in model.frozen_layers:  # whose statistics normalise
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients["batch_stats"].get(layer, {}))), layer


def test_frozen_head_below_another_has_no_gradient():
    model = create_model("resnet20", stage_sizes=(1, 1, 1), base_classes=10, num_classes=3, trainable="head")
    compute, variables = frozen_gradients(model)
    gradients = compute(variables)["params"]
    assert not np.any(gradients["fc"]["kernel"])
    assert np.any(gradients["top"]["kernel"])


def test_program_computes_no_gradient_of_what_is_frozen():
    def num_flops(trainable):
        compute, variables = frozen_gradients(create_model("resnet20", trainable=trainable, conv_impl="xla"))
        return compute.lower(variables).compile().cost_analysis()["flops"]

    whole, last, head = num_flops("all"), num_flops("stage3"), num_flops("head")
    # Forward, and twice that backward; of the three stages, equally costly, only the last one's backward.
    assert last / whole == pytest.approx(5 / 9, abs=0.06)
    assert head / whole == pytest.approx(1 / 3, abs=0.04)


def test_input_gradients_pass_through_frozen_layers():
    model = create_model("resnet20", stage_sizes=(1, 1, 1), trainable="head")
    variables = plausible_variables(model)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    saliency = jax.jit(jax.grad(lambda images: model.apply(variables, images, train=False)[:, 0].sum()))(images)
    assert np.any(saliency)


def test_labels_of_parameters_freeze_them_in_an_optimizer_of_ones_own():
    import optax

    model = create_model("resnet20", stage_sizes=(1, 1, 1), trainable="stage3")
    params = plausible_variables(model)["params"]
    tx = optax.multi_transform({"trainable": optax.adamw(0.1), "frozen": optax.set_to_zero()}, model.param_labels)
    updates, _ = tx.update(params, tx.init(params), params)
    for layer, leaves in updates.items():
        assert all(np.any(leaf) for leaf in jax.tree.leaves(leaves)) == (layer not in model.frozen_layers)


def test_labels_of_another_tree_are_refused():
    model = create_model("resnet20", stage_sizes=(1, 1, 1), trainable="stage3")
    variables = plausible_variables(model)
    for tree in (variables, {"backbone": variables["params"]}):
        with pytest.raises(ValueError, match=r"is no layer of this model \(conv1, bn1, layer1, "):
            model.param_labels(tree)
