"""The networks against torchvision's logits, the published parameter counts, and hand-computed layers."""

from functools import partial

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model, list_models
from resnet_jax.models import BatchNorm, Conv, ResNet, layers, max_pool, zero_padding_shortcut

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

TINY = {"stage_sizes": (1, 1), "num_filters": 4, "stem": "cifar", "num_classes": 3}


def shapes(model, size=32):
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3)), train=False), jax.random.key(0))


def initialized(model, images):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_every_model_has_the_published_number_of_parameters():
    models = {name: create_model(name, conv_impl="xla") for name in list_models()}
    assert {name: count(shapes(model)["params"]) for name, model in models.items()} == PARAMETERS


def test_parameter_names_and_shapes_are_torchvisions():
    facts, _ = golden_files.load("torchvision-resnet50")
    expected = golden_files.variables(facts["state_dict"], "float32")
    actual = shapes(create_model("resnet50"))
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, actual)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_logits_and_stages_equal_torchvisions_in_float64(name):
    facts, arrays = golden_files.load(f"torchvision-{name}")
    with jax.enable_x64(True):
        model = create_model(name, dtype="float64")
        variables = golden_files.variables(facts["state_dict"], "float64")
        images = golden_files.images(facts, "float64")
        logits = model.apply(variables, images, train=False)
        stages = model.apply(variables, images, train=False, features=True)
        np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-9)
        for i in range(1, 5):
            np.testing.assert_allclose(stages[f"stage{i}"].mean((1, 2)), arrays[f"layer{i}_mean"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(stages["pooled"], arrays["layer4_mean"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("conv_impl", ["cpu", "xla"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_float32_error_is_like_torchs_own(name, conv_impl):
    facts, arrays = golden_files.load(f"torchvision-{name}")
    model = create_model(name, conv_impl=conv_impl)
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
        shapes(model, 64),
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
    assert "fc" not in shapes(model, 64)["params"]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnext50"}, "model='resnext50' is not known; did you mean 'resnet50'"),
        ({"name": "resnet18", "shotcut": "A"}, "'shotcut' is no argument of resnet18.*did you mean 'shortcut'"),
        ({"name": "resnet18", "shortcut": "E"}, "shortcut='E' must be one of A, B, C, none"),
        ({"name": "resnet18", "dtype": "float16"}, "dtype='float16' must be one of float32, bfloat16, float64"),
        ({"name": "resnet18", "num_classes": 0}, "num_classes=0 must be at least 1, or None"),
        ({"name": "resnet18", "num_classes": 2.5}, "num_classes=2.5 must be of type int or NoneType"),
        ({"name": "resnet18", "dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"name": "resnet18", "stage_sizes": (2, 0)}, r"stage_sizes=\(2, 0\) must name at least one stage"),
        ({"name": "resnet18", "stage_sizes": "2222"}, "stage_sizes='2222' must be of type"),
        ({"name": "resnet18", "groups": 2}, "groups and width_per_group belong to block_cls='bottleneck'"),
    ],
)
def test_bad_arguments_are_named_with_the_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


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
            actual = derivative(loss(layers._normalize_by_batch), (0, 1, 2))(x, scale, bias)
            expected = derivative(loss(formula), (0, 1, 2))(x, scale, bias)
            for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)
