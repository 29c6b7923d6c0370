"""The networks against the published parameter counts, and hand-computed layers; logits are in test_golden_logits."""

import hashlib
import json
from functools import partial
from pathlib import Path

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import create_model, list_models
from resnet_jax.errors import UserError
from resnet_jax.models import (
    BatchNorm,
    Conv,
    ResNet,
    SqueezeExcite,
    average_pool,
    layers,
    max_pool,
    stochastic_depth,
    variable_shapes,
    zero_padding_shortcut,
)  # fmt: skip
from resnet_jax.models.batch_statistics import normalize_by_batch
from resnet_jax.weights.infer_architecture import agrees, architecture
from resnet_jax.weights.names import layout_names, torch_shapes

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "resnet18d": 11_708_744,
    "resnet26d": 16_014_408,
    "resnet34d": 21_816_904,
    "resnet50d": 25_576_264,
    "resnet101d": 44_568_392,
    "resnet152d": 60_212_040,
    "seresnet18": 11_779_624,
    "seresnet34": 21_960_416,
    "seresnet50": 28_088_024,
    "seresnet101": 49_326_872,
    "seresnet152": 66_821_848,
    "resnetv2_50": 25_549_352,
    "resnetv2_101": 44_541_480,
    # resnet152 without the norms of the stem (64 channels) and the projections, with one more of 2048 at the end and
    # the first of each block on the block's input instead of on its output.
    "resnetv2_152": 60_192_808 - 2 * (64 + 3840) + 2 * (2048 + 64 + 256 + 512 + 1024 - 256 - 512 - 1024 - 2048),
    # Two projections without norm more than resnet20's option A has; 164 and 1001 as published by others.
    "preact_resnet20": 269_722 + 16 * 32 + 32 * 64,
    "preact_resnet56": 853_018 + 16 * 32 + 32 * 64,
    "preact_resnet110": 1_727_962 + 16 * 32 + 32 * 64,
    "preact_resnet164": 1_703_258,
    "preact_resnet1001": 10_327_706,
    # 11.0M, 36.5M and 8.9M in the paper's table.
    "wrn16_8": 10_961_370,
    "wrn28_10": 36_479_194,
    "wrn40_4": 8_949_210,
    # Without shortcuts nothing but the projections goes: option A has none, option B 3 with their batch norms.
    "plain18": 11_689_512 - sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512))),
    "plain34": 21_797_672 - sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512))),
    "plain20": 269_722,
    "plain32": 464_154,
    "plain44": 658_586,
    "plain56": 853_018,
    # Of the ImageNet network, the 3x3 stem has 27 weights a filter instead of 147 and the head 10 classes.
    "cifar_resnet18": 11_689_512 - 64 * 120 - 990 * 513,
    "cifar_resnet34": 21_797_672 - 64 * 120 - 990 * 513,
    "cifar_resnet50": 25_557_032 - 64 * 120 - 990 * 2049,
}

TIMM = json.loads(Path(golden_files.__file__).with_name("golden").joinpath("timm-architectures.json").read_text())
TINY = {"stage_sizes": (1, 1), "num_filters": 4, "stem": "cifar", "num_classes": 3}


def shapes(model):
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0))


def initialized(model, images):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_every_network_has_the_published_parameters_and_timms_names_and_is_recognised_by_its_tensors():
    timms = {name: facts["parameters"] for name, facts in TIMM["networks"].items()}
    published = {**timms, **PARAMETERS}
    assert {name: published[name] for name in timms} == timms
    assert {*list_models()} == {*published}
    for name in list_models():  # in one test, as shapes take long to tell
        model = create_model(name)
        assert count(variable_shapes(model)["params"]) == published[name], name
        tensors = {here: shape for here, (_, shape) in torch_shapes(variable_shapes(model)).items()}
        seen = architecture(tensors)
        assert seen, name
        assert [field for field, value in seen.items() if not agrees(model, field, value)] == [], name
        if name in timms:
            assert digest_by_timms_names(model, tensors) == TIMM["networks"][name]["sha256"], name


def digest_by_timms_names(model, tensors):
    names = layout_names("timm", model, tensors)
    shapes_there = {names[here]: shape for here, shape in tensors.items()}
    if model.preact:  # whose head is a 1x1 convolution there
        shapes_there["head.fc.weight"] += (1, 1)
    lines = sorted(f"{there} {shape}" for there, shape in shapes_there.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", ["resnet50", "resnet110", "resnet26d", "seresnet34", "resnetv2_50", "wrn40_4"])
def test_variable_shapes_are_those_of_init(name):
    model = create_model(name)
    assert variable_shapes(model) == shapes(model)


def test_every_name_of_the_design_is_there():
    names = """resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d
        wide_resnet50_2 wide_resnet101_2 resnet18d resnet26d resnet34d resnet50d resnet101d resnet152d seresnet18
        seresnet34 seresnet50 seresnet101 seresnet152 resnetv2_50 resnetv2_101 resnetv2_152 resnet20 resnet32 resnet44
        resnet56 resnet110 resnet1202 preact_resnet20 preact_resnet56 preact_resnet110 preact_resnet164
        preact_resnet1001 wrn16_8 wrn28_10 wrn40_4 cifar_resnet18 cifar_resnet34 cifar_resnet50 plain18 plain34 plain20
        plain32 plain44 plain56"""
    assert {*names.split()} == {*PARAMETERS}
    assert {*list_models()} == {*PARAMETERS, *TIMM["networks"]}


def test_parameter_names_and_shapes_are_torchvisions():
    facts, _ = golden_files.load("torchvision-resnet50")
    expected = golden_files.variables(facts["state_dict"], "float32")
    actual = shapes(create_model("resnet50"))
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, actual)


@pytest.mark.numerics
@pytest.mark.parametrize("conv_impl", ["cpu", "xla"])
def test_float32_error_is_like_torchs_own_whatever_computes_the_convolutions(conv_impl):
    facts, arrays = golden_files.load("torchvision-resnet18")
    model = create_model("resnet18", conv_impl=conv_impl)
    logits = model.apply(
        golden_files.variables(facts["state_dict"], "float32"), golden_files.images(facts, "float32"), train=False
    )
    assert np.abs(np.asarray(logits, np.float64) - arrays["logits"]).max() <= 5 * facts["torch_float32_max_error"]


def test_v1_strides_on_the_first_convolution_and_v1_5_on_the_second():
    images = jnp.zeros((1, 8, 8, 3))
    for stride_in, inner_size in (("1x1", 4), ("3x3", 8)):
        model = ResNet(stage_sizes=(1, 1), block_cls="bottleneck", num_filters=4, stem="cifar", stride_in=stride_in)
        _, state = jax.eval_shape(
            lambda key, model=model: model.init_with_output(
                key, images, train=False, capture_intermediates=True, mutable=True
            ),
            jax.random.key(0),
        )
        inner = state["intermediates"]["layer2"]["0"]["conv1"]["__call__"][0]
        assert inner.shape == (1, inner_size, inner_size, 8)


def test_features_are_named_and_shaped_by_stage():
    model = create_model("resnet50", num_classes=None)
    images = jnp.zeros((2, 64, 64, 3))
    outputs = jax.eval_shape(
        lambda v: (model.apply(v, images, train=False, features=True), model.apply(v, images, train=False)),
        variable_shapes(model),
    )
    assert {name: output.shape for name, output in outputs[0].items()} == {
        "stem": (2, 32, 32, 64),
        "stage1": (2, 16, 16, 256),
        "stage2": (2, 8, 8, 512),
        "stage3": (2, 4, 4, 1024),
        "stage4": (2, 2, 2, 2048),
        "pooled": (2, 2048),
    }
    assert outputs[1].shape == (2, 2048)
    assert "fc" not in variable_shapes(model)["params"]


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_statistics_and_logits_in_float32():
    model = create_model("resnet20", dtype="bfloat16")
    variables = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jnp.zeros((1, 32, 32, 3))
    outputs = jax.eval_shape(lambda v: model.apply(v, images, train=False, features=True), variables)
    assert outputs["stage1"].dtype == jnp.bfloat16
    assert outputs["pooled"].dtype == jnp.float32
    assert jax.eval_shape(lambda v: model.apply(v, images, train=False), variables).dtype == jnp.float32


def test_float64_without_x64_is_refused():
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        create_model("resnet18", dtype="float64")


def test_zero_init_residual_starts_every_block_as_its_shortcut():
    model = ResNet(**TINY, zero_init_residual=True, shortcut="A")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = initialized(model, images)
    outputs = model.apply(variables, images, train=False, features=True)
    np.testing.assert_array_equal(outputs["stage1"], outputs["stem"])
    np.testing.assert_array_equal(outputs["stage2"], zero_padding_shortcut(outputs["stem"], 8, 2))


def test_zero_padding_shortcut_takes_every_second_pixel_between_zero_channels():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = zero_padding_shortcut(x, 3, 2)
    np.testing.assert_array_equal(y[0, :, :, 1], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(y[0, :, :, [0, 2]], 0)
    with pytest.raises(ValueError, match="cannot reduce channels=3 to features=1"):
        zero_padding_shortcut(y, 1, 1)


def test_projections_stand_where_the_shortcut_option_says():
    def projections(shortcut):
        params = shapes(ResNet(**{**TINY, "stage_sizes": (2, 2)}, shortcut=shortcut))["params"]
        return [
            f"{stage}.{block}"
            for stage in ("layer1", "layer2")
            for block in "01"
            if "downsample" in params[stage][block]
        ]

    assert projections("A") == projections("none") == []
    assert projections("B") == ["layer2.0"]
    assert projections("C") == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]


def test_plain_network_has_no_shortcut():
    model = ResNet(**TINY, zero_init_residual=True, shortcut="none")
    images = jnp.ones((1, 8, 8, 3))
    outputs = model.apply(initialized(model, images), images, train=False, features=True)
    np.testing.assert_array_equal(outputs["stage1"], 0)


def test_stride_two_convolution_pads_one_on_both_sides():
    conv = Conv(1, kernel_size=3, stride=2)
    x = jnp.ones((1, 4, 4, 1))
    y = conv.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6], [6, 9]])  # "SAME" would pad (0, 1): [[9, 6], [6, 4]]


def test_max_pool_pads_one_on_both_sides():
    x = -jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_batch_norm_moves_to_the_unbiased_variance():
    norm = BatchNorm(momentum=0.9, epsilon=0.0)
    x = jnp.asarray([[1.0], [2.0], [6.0]])  # mean 3, biased variance 14/3, unbiased 7
    variables = norm.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0.0])  # init does not move them
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:, 0], np.array([-2, -1, 3]) / np.sqrt(14 / 3), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 1 + 0.1 * 7], rtol=1e-6)
    y = norm.apply({**variables, **updated}, x, train=False)
    np.testing.assert_allclose(y[:, 0], (np.array([1, 2, 6]) - 0.3) / np.sqrt(1.6), rtol=1e-6)


def test_batch_norm_statistics_of_bfloat16_input_are_computed_in_float32():
    norm = BatchNorm(dtype=jnp.bfloat16)
    x = (256.0 + jnp.arange(256.0)[:, None] % 2).astype(jnp.bfloat16)  # the mean is no bfloat16 number
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    expected = 0.1 * np.asarray(x, np.float32).mean()
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [expected], rtol=1e-6)
    assert y.dtype == jnp.bfloat16


def test_frozen_batch_norm_neither_uses_nor_moves_batch_statistics():
    model = ResNet(**TINY, batch_norm="frozen")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = initialized(model, images)
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, model.apply(variables, images, train=False))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_initial_convolutions_have_variance_two_over_fan():
    for kernel_init, fan in (("fan_out", 9 * 32), ("fan_in", 9 * 16)):
        model = ResNet(stage_sizes=(1, 1), num_filters=16, stem="cifar", kernel_init=kernel_init)
        kernel = initialized(model, jnp.zeros((1, 8, 8, 3)))["params"]["layer2"]["0"]["conv1"]
        assert kernel["kernel"].shape == (3, 3, 16, 32)
        assert np.var(kernel["kernel"]) == pytest.approx(2 / fan, rel=0.1)


def test_initial_head_is_torchs_uniform():
    head = initialized(ResNet(**{**TINY, "num_classes": 500}), jnp.zeros((1, 8, 8, 3)))
    for leaf in head["params"]["fc"].values():
        bound = 8**-0.5
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert np.var(leaf) == pytest.approx(bound**2 / 3, rel=0.15)


def test_dropout_acts_in_training_alone():
    model = ResNet(**TINY, dropout=0.5)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = initialized(model, images)

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    assert not np.array_equal(logits(0), logits(1))
    np.testing.assert_array_equal(logits(0), logits(0))
    model.apply(variables, images, train=False)  # needs no key


def test_frozen_batch_norm_leaves_dropout_and_stochastic_depth_to_training():
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    for arguments in ({"dropout": 0.5, "dropout_in": "block"}, {"stochastic_depth": 0.5}):
        model = ResNet(**{**TINY, "stage_sizes": (1, 2)}, batch_norm="frozen", **arguments)
        variables = initialized(model, images)
        rngs = {"dropout": jax.random.key(0)}
        trained, updated = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        assert not np.array_equal(trained, model.apply(variables, images, train=False))
        jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_dropout_in_blocks_acts_before_the_last_convolution_of_each():
    model = ResNet(**TINY, block_cls="preact_basic", dropout=0.5, dropout_in="block")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = initialized(model, images)
    (_, seen) = model.apply(
        variables, images, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True,
        rngs={"dropout": jax.random.key(0)},
    )  # fmt: skip
    for layer in ("layer1", "layer2"):
        block = seen["intermediates"][layer]["0"]
        assert 0.4 < np.mean(np.asarray(block["Dropout_0"]["__call__"][0]) == 0.0) < 0.95
        assert np.mean(np.asarray(block["conv2"]["__call__"][0]) == 0.0) < 0.1
    assert "Dropout_0" not in seen["intermediates"]


def test_stochastic_depth_drops_whole_rows_and_scales_the_others():
    x = jnp.ones((4000, 2, 2, 1))
    y = np.asarray(stochastic_depth(jax.random.key(0), x, 0.25))
    rows = y[:, 0, 0, 0]
    np.testing.assert_array_equal(y, np.broadcast_to(rows[:, None, None, None], y.shape))
    assert set(rows) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert np.mean(rows == 0) == pytest.approx(0.25, abs=0.03)


def test_stochastic_depth_grows_linearly_over_the_blocks_and_acts_in_training_alone():
    model = ResNet(**{**TINY, "stage_sizes": (2, 3)}, stochastic_depth=0.4)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    assert model._drop_branches() == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    variables = initialized(model, images)
    plain = model.clone(stochastic_depth=0.0)
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )
    rngs = {"dropout": jax.random.key(0)}
    logits = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]
    assert not np.array_equal(logits, plain.apply(variables, images, train=True, mutable=["batch_stats"])[0])


def test_rematerialised_blocks_give_the_same_gradients_and_keep_less():
    model = ResNet(**{**TINY, "stage_sizes": (2,)}, stochastic_depth=0.5, block_cls="preact_basic")
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = initialized(model, images)

    def loss(params, model):
        rngs = {"dropout": jax.random.key(2)}
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.sum(logits**2)

    def num_kept(model):
        pullback = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p, model), params)[1], variables["params"])
        return count(pullback)

    remat = model.clone(remat=True)
    gradients = jax.jit(jax.grad(loss), static_argnums=1)
    expected, actual = gradients(variables["params"], model), gradients(variables["params"], remat)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)
    assert num_kept(remat) < 0.6 * num_kept(model)


def test_squeeze_excite_scales_channels_by_a_gate_of_their_means():
    conv = partial(Conv)
    gate = SqueezeExcite(conv)
    x = jnp.asarray([[[[1.0, -2.0]], [[3.0, 4.0]]]])  # channel means 2 and 1
    fc1 = {"kernel": jnp.zeros((1, 1, 2, 8)).at[0, 0, :, 0].set(jnp.array([1.0, 2.0])), "bias": jnp.full(8, -1.0)}
    fc2 = {"kernel": jnp.zeros((1, 1, 8, 2)).at[0, 0, 0].set(jnp.array([1.0, -1.0])), "bias": jnp.array([0.0, 1.0])}
    y = gate.apply({"params": {"fc1": fc1, "fc2": fc2}}, x)
    hidden = 2.0 + 2.0 * 1.0 - 1.0
    gates = 1 / (1 + np.exp(-np.array([hidden, 1.0 - hidden])))
    np.testing.assert_allclose(y, np.asarray(x) * gates, rtol=1e-6)


def test_average_pool_over_the_border_is_the_mean_of_the_pixels_there():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(average_pool(x, 2)[0, :, :, 0], [[2.0, 3.5], [6.5, 8.0]])


def test_pre_activation_projects_the_activated_input_and_adds_nothing_after_the_sum():
    model = ResNet(**TINY, block_cls="preact_basic", zero_init_residual=True)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = initialized(model, images)
    outputs = model.apply(variables, images, train=False, features=True)
    np.testing.assert_array_equal(outputs["stage1"], outputs["stem"])  # negative values as well: an identity
    assert float(outputs["stem"].min()) < 0
    kernel = variables["params"]["layer2"]["0"]["downsample"]["0"]["kernel"][0, 0]
    activated = np.maximum(np.asarray(outputs["stage1"]) / np.sqrt(1 + 1e-5), 0)[:, ::2, ::2]
    np.testing.assert_allclose(outputs["stage2"], activated @ np.asarray(kernel), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outputs["pooled"], np.maximum(outputs["stage2"] / np.sqrt(1 + 1e-5), 0).mean((1, 2)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnext50"}, "model='resnext50' is not known; did you mean 'resnet50'"),
        ({"name": "resnet18", "trainable": "layer3"}, "must be one of all, stage1.*did you mean 'stage3'"),
        ({"name": "resnet18", "trainable": "stem"}, "must be one of all.*; 'stage1' freezes the stem alone"),
        ({"name": "resnet18", "shotcut": "A"}, "'shotcut' is no argument of resnet18.*did you mean 'shortcut'"),
        ({"name": "resnet18", "shortcut": "E"}, "shortcut='E' must be one of A, A_end, B, C, D, none"),
        ({"name": "resnet18", "dtype": "float16"}, "dtype='float16' must be one of float32, bfloat16, float64"),
        ({"name": "resnet18", "num_classes": 0}, "num_classes=0 must be at least 1, or None"),
        ({"name": "resnet18", "num_classes": 2.5}, "num_classes=2.5 must be of type int or NoneType"),
        ({"name": "resnet18", "dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"name": "resnet18", "stage_sizes": (2, 0)}, r"stage_sizes=\(2, 0\) must name at least one stage"),
        ({"name": "resnet18", "stage_sizes": "2222"}, "stage_sizes='2222' must be of type"),
        ({"name": "resnet18", "norm_epsilon": float("inf")}, "norm_epsilon=inf must be positive and finite"),
        ({"name": "resnet18", "stem": "deep", "num_filters": 33}, "num_filters=33 must be even with stem='deep'"),
        ({"name": "plain18", "stochastic_depth": 0.1}, "with shortcut='none' it must be 0"),
        ({"name": "wrn16_8", "dropout_in": "stem"}, "dropout_in='stem' must be one of head, block"),
        ({"name": "preact_resnet20", "groups": 2}, "groups and width_per_group belong to block_cls='bottleneck'"),
        ({"name": "resnet18", "groups": 2}, "groups and width_per_group belong to block_cls='bottleneck'"),
    ],
)
def test_bad_arguments_are_named_with_the_rule(arguments, message):
    arguments = dict(arguments)
    name = arguments.pop("name")
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)


def test_images_without_a_batch_axis_are_refused():
    with pytest.raises(ValueError, match=r"images.shape=\(8, 8, 3\) must be \(batch, height, width, channels\)"):
        ResNet(**TINY).init(jax.random.key(0), jnp.zeros((8, 8, 3)), train=False)


def test_batch_norm_has_the_formulas_first_and_second_derivatives():
    def formula(x, scale, bias, epsilon):
        mean = x.mean((0, 1, 2))
        var = jnp.square(x - mean).mean((0, 1, 2))
        return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias, mean, var

    with jax.enable_x64(True):
        x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 3, 2), jnp.float64)
        scale, bias = jnp.array([1.5, -0.3]), jnp.array([0.2, 0.5])
        weights = jax.random.normal(jax.random.key(1), x.shape, x.dtype)

        def loss(function):
            def value(x, scale, bias):
                y, mean, var = function(x, scale, bias, 1e-5)
                return jnp.sum(weights * y**3) + jnp.sum(mean**2) + jnp.sum(var**3)

            return value

        for derivative in (jax.grad, jax.hessian):
            actual = derivative(loss(partial(normalize_by_batch, dtype=x.dtype)), (0, 1, 2))(x, scale, bias)
            expected = derivative(loss(formula), (0, 1, 2))(x, scale, bias)
            for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "seresnet50", "preact_resnet164", "plain20"])
def test_a_model_is_tabulated(name):
    model = create_model(name, stage_sizes=(1, 1), num_filters=8)
    rows = model.tabulate(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False, console_kwargs={"width": 200})
    assert "layer2/0/conv2" in rows
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(model)["params"]))
    assert f"{parameters:,}" in rows


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.dtype("bfloat16"), np.dtype("float32"), np.float32])
def test_dtypes_are_given_as_jax_and_numpy_have_them(dtype):
    name = jnp.dtype(dtype).name
    assert create_model("resnet18", dtype=dtype) == create_model("resnet18", dtype=name)
    assert ResNet(**TINY, dtype=dtype) == ResNet(**TINY, dtype=name)
    with pytest.raises(ValueError, match="dtype='int32' must be one of float32, bfloat16, float64"):
        create_model("resnet18", dtype=jnp.int32)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pretrained", r"variables = resnet_jax.load_pretrained\('resnet50', 'IMAGENET1K_V1'\)"),
        ("weights", "resnet_jax.load_pretrained"),
        ("progress", "resnet_jax.load_pretrained"),
        ("in_chans", "leave it out: the images given to model.init"),
        ("drop_path_rate", "it is called stochastic_depth here"),
        ("features_only", "features=True"),
        ("replace_stride_with_dilation", "output_stride=16"),
        ("trainble", "did you mean 'trainable'"),
    ],
)
def test_arguments_of_torchvision_and_timm_are_answered_with_what_there_is(argument, message):
    with pytest.raises(ValueError, match=f"'{argument}' is no argument of resnet50.*{message}"):
        create_model("resnet50", **{argument: True})


@pytest.mark.parametrize("stem", ["imagenet", "cifar", "deep"])
def test_images_of_torchs_order_are_refused_in_our_words(stem):
    model = ResNet(**{**TINY, "stem": stem})
    channels_first = jnp.zeros((2, 3, 16, 24))
    message = r"images.shape=\(2, 3, 16, 24\) must be \(batch, height, width, channels\).*transpose\(0, 2, 3, 1\)"
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), channels_first, train=False))
    with pytest.raises(UserError, match=r"with 3 channels, as the variables have: transpose"):
        jax.eval_shape(lambda v: model.apply(v, channels_first, train=False), variable_shapes(model))
    with pytest.raises(
        UserError, match=r"images.shape=\(2, 16, 16, 4\) must be .* with 3 channels, as the variables have\n"
    ):
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 16, 16, 4)), train=False), variable_shapes(model))
    for num_channels in (1, 4, 6):  # of any number of channels, of three rows, and of many channels
        jax.eval_shape(lambda c=num_channels: model.init(jax.random.key(0), jnp.zeros((2, 16, 16, c)), train=False))
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 3, 16, 3)), train=False))
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 16, 16, 32)), train=False))


def test_pixels_that_nobody_normalised_are_refused():
    model = create_model("resnet20", stage_sizes=(1, 1, 1))
    with pytest.raises(UserError, match=r"images.dtype=uint8 must be floating point: normalise pixels"):
        model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False)


def test_the_public_functions_are_listed():
    assert {*resnet_jax.__all__} <= {*dir(resnet_jax)}
    assert "Any" not in dir(resnet_jax)


def test_a_sums_relu_has_the_derivatives_of_relu_and_keeps_its_result_for_them():
    x = jnp.array([-1.0, -0.0, 0.0, 2.0, jnp.inf, -jnp.inf, jnp.nan])

    def with_gradient(function):
        return jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))

    np.testing.assert_array_equal(layers.relu_of_sum(x), jax.nn.relu(x))
    np.testing.assert_array_equal(with_gradient(layers.relu_of_sum)(x), with_gradient(jax.nn.relu)(x))
    curvature = jax.hessian(lambda x: jnp.sum(layers.relu_of_sum(x) ** 3))(x[:4])
    np.testing.assert_array_equal(curvature, np.diag([0.0, 0.0, 0.0, 12.0]))
    for platform, num_kept in (("cpu", 0), ("cuda", 1)):
        lowered = jax.jit(with_gradient(layers.relu_of_sum)).trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert lowered.count("stablehlo.optimization_barrier") == num_kept
    inference = jax.jit(layers.relu_of_sum).trace(x).lower(lowering_platforms=("cuda",)).as_text()
    assert "optimization_barrier" not in inference
