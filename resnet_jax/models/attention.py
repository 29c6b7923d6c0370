"""Gates on channels, computed from all channels' means: squeeze-and-excitation, efficient channel attention."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import initializers

from resnet_jax.models.initializers import Initializer

Array = jax.Array
Dtype = Any


def squeezed_channels(channels: int, ratio: float) -> int:
    """Returns the inner channels of a gate: `ratio` of them, rounded to a multiple of 8, at least 8."""
    return max(8, int(channels * ratio + 4) // 8 * 8)


class SqueezeExcite(nn.Module):
    """`x` with each channel scaled by a gate in (0, 1) computed from all channels' means (arXiv:1709.01507).

    (B, H, W, C) -> (B, H, W, C). Two 1x1 convolutions with bias, `fc1` to `ratio * C` channels rounded to a multiple of
    8 (at least 8), ReLU, and `fc2` back, sigmoid; named and sized as timm's.
    """

    conv: Callable[..., nn.Module]
    ratio: float = 1 / 16

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        squeezed = squeezed_channels(channels, self.ratio)
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)  # (B, 1, 1, C)
        gate = nn.relu(self.conv(squeezed, kernel_size=1, use_bias=True, name="fc1")(gate))
        gate = self.conv(channels, kernel_size=1, use_bias=True, name="fc2")(gate)
        return x * nn.sigmoid(gate)


class ChannelKernel(nn.Module):
    """The kernel (size, 1, 1) of a convolution along the channels; parameter `kernel`."""

    size: int
    kernel_init: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    trainable: bool = True
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self) -> Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, 1, 1), self.param_dtype)
        return kernel if self.trainable else stop_gradient(kernel)


class EfficientChannelAttention(nn.Module):
    """`x` with each channel scaled by a gate in (0, 1) computed from its neighbours' means (arXiv:1910.03151).

    (B, H, W, C) -> (B, H, W, C). A convolution along the channels, `conv`, without bias; sigmoid.

    Attributes:
      channels: from which the kernel's size follows: log2 of them and one, halved, made odd, at least 3.
    """

    channels: int
    trainable: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        half = int(abs(math.log2(self.channels) + 1) / 2)
        size = max(half if half % 2 else half + 1, 3)
        kernel = ChannelKernel(size, trainable=self.trainable, param_dtype=self.param_dtype, name="conv")()
        means = jnp.pad(jnp.mean(x, axis=(1, 2)), ((0, 0), (size // 2, size // 2)))  # (B, C + size - 1)
        taps = kernel[:, 0, 0].astype(x.dtype)
        windows = (jax.lax.slice_in_dim(means, i, i + x.shape[-1], axis=1) for i in range(size))
        gate = sum(taps[i] * window for i, window in enumerate(windows))
        return x * nn.sigmoid(gate)[:, None, None, :]
