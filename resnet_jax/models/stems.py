"""Computes the stem, before the stages: one convolution or three, and a pooling."""

from collections.abc import Callable

import flax.linen as nn
import jax

from resnet_jax.models.activations import activate_norm
from resnet_jax.models.pooling import (
    ANTI_ALIAS,
    average_pool,
    max_blur_pool,
    max_pool,
    same_max_pool,
    zero_padded_max_pool,
)

Array = jax.Array
Layer = Callable[..., nn.Module]

STEMS = ("imagenet", "cifar", "cifar_pooled", "deep", "deep_tiered")
STEM_POOLS = ("max", "conv", "zero_padded_max")
DEEP_STEM_LAST = "6"


def deep_stem_widths(stem: str, features: int) -> tuple[int, int]:
    """Returns the outputs of the first two convolutions of a stem of three, of `features` in all."""
    inner = features // 2
    return (inner // 4 * 3 if stem == "deep_tiered" else inner), inner


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first at stride 2, instead of one 7x7 (ResNet-C, arXiv:1812.01187); named as timm's.

    (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), features), norm and activation after the first two.

    Attributes:
      widths: outputs of the first two.
    """

    features: int
    widths: tuple[int, int]
    activation: str
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for i, width in zip((0, 3), self.widths, strict=True):
            x = self.conv(width, kernel_size=3, stride=1 if i else 2, name=str(i))(x)
            x = activate_norm(self.norm(name=str(i + 1)), x, self.activation, train=train)
        return self.conv(self.features, kernel_size=3, name=DEEP_STEM_LAST)(x)


class ConvPool(nn.Module):
    """A 3x3 convolution at stride 2, norm and activation, in place of the max-pool (ResNet-RS); named as timm's.

    (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C).

    Attributes:
      anti_alias: see ResidualBlock; it comes before the norm here.
    """

    anti_alias: str
    activation: str
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        pools = self.anti_alias != "none"
        x = self.conv(x.shape[-1], kernel_size=3, stride=1 if pools else 2, name="0")(x)
        if pools:
            x = ANTI_ALIAS[self.anti_alias](x, 2)
        return activate_norm(self.norm(name="2" if pools else "1"), x, self.activation, train=train)


def pool_stem(x: Array, stem_pool: str, anti_alias: str, stride_padding: str = "torch") -> Array:
    """Returns the stem's result pooled to half its size: by the maximum, which anti-aliasing blurs, or by the mean."""
    if anti_alias == "average":
        return average_pool(x, 2)
    if anti_alias == "blur":
        return max_blur_pool(x)
    if stem_pool == "zero_padded_max":
        return zero_padded_max_pool(x)
    return same_max_pool(x) if stride_padding == "same" else max_pool(x)
