"""Residual blocks and their shortcuts (He et al. 2015, arXiv:1512.03385)."""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers

Array = jax.Array
Layer = Callable[..., nn.Module]

SHORTCUTS = ("A", "B", "C", "none")


class Downsample(nn.Module):
    """Projection shortcut: a 1x1 convolution and batch norm, named `0` and `1` as torchvision does.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features).
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = self.conv(self.features, kernel_size=1, stride=self.stride, name="0")(x)
        return self.norm(name="1")(x, train=train)


def zero_padding_shortcut(x: Array, features: int, stride: int) -> Array:
    """Option A: every `stride`-th pixel, with zero channels added equally on both sides; no parameters.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features). Raises ValueError if features < C.
    """
    extra = features - x.shape[-1]
    if extra < 0:
        raise ValueError(f"shortcut A cannot reduce channels={x.shape[-1]} to features={features}; use shortcut B")
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def add_shortcut(x: Array, y: Array, stride: int, *, shortcut: str, conv: Layer, norm: Layer, train: bool) -> Array:
    """The residual branch `y` (B, h, w, F) plus the shortcut of the block's input `x` (B, H, W, C).

    shortcut: "A" zero-padding, "B" projection where the shapes differ, "C" projection everywhere, "none" no shortcut
    at all (a plain network). Call it inside a block's compact method: the projection is the block's `downsample`.
    """
    if shortcut == "none":
        return y
    features = y.shape[-1]
    changes_shape = stride != 1 or x.shape[-1] != features
    if shortcut == "C" or (shortcut == "B" and changes_shape):
        x = Downsample(features, stride, conv, norm, name="downsample")(x, train=train)
    elif changes_shape:
        x = zero_padding_shortcut(x, features, stride)
    return x + y


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), filters). `stride_in`, `groups` and `width_per_group` are
    the bottleneck's: here the stride is on the first convolution and nothing is grouped.
    """

    filters: int
    conv: Layer
    norm: Layer
    stride: int = 1
    shortcut: str = "B"
    zero_init_residual: bool = False
    stride_in: str = "3x3"
    groups: int = 1
    width_per_group: int = 64

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = self.conv(self.filters, kernel_size=3, stride=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.filters, kernel_size=3, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=last_scale_init(self.zero_init_residual))(y, train=train)
        y = add_shortcut(x, y, self.stride, shortcut=self.shortcut, conv=self.conv, norm=self.norm, train=train)
        return nn.relu(y)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, ReLU after the sum.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), 4 * filters). `stride_in` says which convolution carries
    the stride: "1x1" the first (v1: the paper, Caffe), "3x3" the second (v1.5: torchvision). The inner width is
    `filters * width_per_group / 64 * groups`: ResNeXt (arXiv:1611.05431) groups the 3x3, Wide ResNet widens it.
    """

    filters: int
    conv: Layer
    norm: Layer
    stride: int = 1
    shortcut: str = "B"
    zero_init_residual: bool = False
    stride_in: str = "3x3"
    groups: int = 1
    width_per_group: int = 64

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = int(self.filters * self.width_per_group / 64) * self.groups
        first, second = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        y = self.conv(width, kernel_size=1, stride=first, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(width, kernel_size=3, stride=second, groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(self.expansion * self.filters, kernel_size=1, name="conv3")(y)
        y = self.norm(name="bn3", scale_init=last_scale_init(self.zero_init_residual))(y, train=train)
        y = add_shortcut(x, y, self.stride, shortcut=self.shortcut, conv=self.conv, norm=self.norm, train=train)
        return nn.relu(y)


def last_scale_init(zero_init_residual: bool) -> Callable[..., Array]:
    """Initializer of a block's last batch-norm scale: zeros start the block as the identity (arXiv:1706.02677)."""
    return initializers.zeros if zero_init_residual else initializers.ones


BLOCKS: dict[str, type[BasicBlock] | type[BottleneckBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}
