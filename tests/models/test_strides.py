"""Where a stage's stride lies, and how convolutions at stride 2 are padded: TF-Slim's, Keras' and Flax's ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.errors import UserError
from resnet_jax.models import variable_shapes
from resnet_jax.models.layers import Conv
from resnet_jax.models.pooling import same_max_pool

SMALL = {"stage_sizes": (2, 3), "num_filters": 8, "num_classes": 5}


def shapes_of_features(model, size):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    features = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, features=True), variable_shapes(model), images
    )
    return {name: leaf.shape[1] for name, leaf in features.items() if name != "pooled"}


@pytest.mark.parametrize(
    ("strided_block", "sizes"),
    [
        ("first", {"stem": 32, "stage1": 16, "stage2": 8, "stage3": 4}),
        ("last", {"stem": 32, "stage1": 8, "stage2": 4, "stage3": 4}),
    ],
)
def test_the_first_or_the_last_block_of_a_stage_carries_its_stride(strided_block, sizes):
    model = create_model("resnetv2_50", stage_sizes=(2, 1, 2), num_filters=8, strided_block=strided_block)
    assert shapes_of_features(model, 64) == sizes
    same = create_model("resnetv2_50", stage_sizes=(2, 1, 2), num_filters=8)
    assert jax.tree.map(jnp.shape, variable_shapes(model)) == jax.tree.map(jnp.shape, variable_shapes(same))


def test_a_last_block_that_adds_nothing_is_every_second_pixel():
    model = create_model("preact_resnet20", **SMALL, strided_block="last")
    images = jax.random.normal(jax.random.key(0), (2, 9, 9, 3))
    variables = model.init(jax.random.key(1), images, train=False)
    silent = jax.tree.map(lambda leaf: leaf, variables)
    for block in ("0", "1"):
        kernel = silent["params"]["layer1"][block]["conv2"]["kernel"]
        silent["params"]["layer1"][block]["conv2"]["kernel"] = jnp.zeros_like(kernel)
    features = model.apply(silent, images, train=False, features=True)
    np.testing.assert_array_equal(features["stage1"], features["stem"][:, ::2, ::2])
    assert "downsample" not in variables["params"]["layer1"]["1"]


@pytest.mark.parametrize("impl", ["xla", "cpu"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (9, 7), (2, 1)])
def test_same_padding_is_tensorflows(size, groups, impl):
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    layer = Conv(6, stride=2, groups=groups, padding="same", use_bias=True, impl=impl)
    variables = layer.init(jax.random.key(1), x)

    def expected(variables, x):
        kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
        names = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=names, feature_group_count=groups)
        return y + bias

    np.testing.assert_allclose(layer.apply(variables, x), expected(variables, x), atol=1e-5)
    gradients = [
        jax.grad(lambda v, x, f=f: jnp.sum(jnp.sin(f(v, x))), argnums=(0, 1))(variables, x)
        for f in (layer.apply, expected)
    ]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4), *gradients)


def test_a_convolution_without_stride_is_padded_the_same_either_way():
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    layers = [Conv(3, padding=padding) for padding in ("torch", "same")]
    variables = layers[0].init(jax.random.key(1), x)
    np.testing.assert_array_equal(*(layer.apply(variables, x) for layer in layers))


def test_the_pool_begins_at_the_first_pixel_of_an_even_size():
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(same_max_pool(x)[0, :, :, 0], [[14, 16, 17], [26, 28, 29], [32, 34, 35]])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"strided_block": "second"}, "strided_block='second' must be one of first, last"),
        ({"stride_padding": "valid"}, "stride_padding='valid' must be one of torch, same"),
        ({"strided_block": "last", "output_stride": 4}, "output_stride=4 needs strided_block='first'"),
        ({"strided_block": "last", "shortcut": "D"}, "strided_block='last' needs shortcut='B' or 'A', not 'D'"),
        ({"stride_padding": "same", "anti_alias": "blur"}, "stride_padding='same' needs anti_alias='none'"),
        ({"stride_padding": "same", "stem_pool": "zero_padded_max"}, "stride_padding='same' needs stem_pool='max'"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, line):
    with pytest.raises(UserError, match=line):
        create_model("resnet50", **SMALL, **arguments)
