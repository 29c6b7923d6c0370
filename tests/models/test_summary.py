"""Multiply-accumulates and shapes of the summary command."""

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.models.summary import count_macs, summarize


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("resnet18", 1.814),
        ("resnet34", 3.664),
        ("resnet50", 4.089),
        ("resnext50_32x4d", 4.230),
        ("wide_resnet50_2", 11.398),
    ],
)
def test_macs_are_torchvisions(name, gmacs):
    assert round(summarize(name)["macs"] / 1e9, 3) == gmacs


def test_macs_of_a_convolution_and_a_product_by_hand():
    def function(x, kernel, weights):
        y = jax.jit(
            lambda x: jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )(x)
        return y.reshape(2, -1) @ weights

    # 2 images of 2x2 outputs with 5 features, each of 3*3*4 products; then (2, 20) x (20, 7).
    arrays = jnp.zeros((2, 5, 5, 4)), jnp.zeros((3, 3, 4, 5)), jnp.zeros((20, 7))
    assert count_macs(function, *arrays) == 2 * 2 * 2 * 5 * 36 + 2 * 20 * 7


def test_stage_shapes_follow_the_image_size():
    result = summarize("resnet20", 64)
    assert {name: tuple(shape) for name, shape in result["shapes"].items()} == {
        "stem": (64, 64, 16), "stage1": (64, 64, 16), "stage2": (32, 32, 32), "stage3": (16, 16, 64), "pooled": (64,),
        "logits": (10,),
    }  # fmt: skip
    assert result["parameters"] == 269_722
    with pytest.raises(ValueError, match="image_size=0 must be at least 1"):
        summarize("resnet20", 0)
