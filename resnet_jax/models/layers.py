"""Convolution, the head's layer, and the activation of blocks' sums, with PyTorch's arithmetic.

Everything here computes in `dtype`, keeps its parameters in `param_dtype` and takes images as (B, H, W, C).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from resnet_jax.errors import check_choice
from resnet_jax.models.activations import ACTIVATIONS
from resnet_jax.models.initializers import (
    Initializer,
    he_normal_fan_out,
    torch_linear_init,
    uniform_bias_init,
)
from resnet_jax.ops.convolution import convolve

Array = jax.Array
Dtype = Any


class Conv(nn.Module):
    """2-D convolution with torch's explicit padding of `kernel_size // 2 * dilation` on every side.

    images (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features). `padding="SAME"` would pad a stride-2
    convolution by (0, 1) where torch pads by (1, 1), so the padding is written out. Parameters: `kernel` (k, k, C /
    groups, features) and, with `use_bias`, `bias` (features,).

    Attributes:
      standardized: the kernel is used as `standardize` makes it.
      padding: "same" pads a 3x3 kernel at stride 2 as TensorFlow does, see `convolve_halved_as_same`.
      impl: see `convolve`.
      trainable: if False, the parameters' gradients are zero, and are not computed.

    Raises:
      ValueError: if `groups` divides the channels or the features with a remainder, and for another padding.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    use_bias: bool = False
    standardized: bool = False
    padding: str = "torch"
    kernel_init: Initializer = he_normal_fan_out
    impl: str = "auto"
    trainable: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, size = x.shape[-1], self.kernel_size
        check_choice("padding", self.padding, ("torch", "same"))
        if self.padding == "same" and self.stride > 1 and self.dilation > 1:
            raise ValueError("padding='same' of a strided convolution needs dilation=1")
        if channels % self.groups or self.features % self.groups:
            raise ValueError(f"groups={self.groups} must divide channels={channels} and features={self.features}")
        kernel_shape = (size, size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        kernel = kernel if self.trainable else stop_gradient(kernel)
        if self.standardized:
            kernel = standardize(kernel)
        x = x.astype(self.dtype)
        if self.padding == "same" and (size, self.stride) == (3, 2):
            y = convolve_halved_as_same(x, kernel, self.groups, self.impl)
        else:
            y = convolve(x, kernel, self.stride, self.groups, self.impl, self.dilation)
        if self.use_bias:
            fan_in = size * size * (channels // self.groups)
            bias = self.param("bias", uniform_bias_init(fan_in), (self.features,), self.param_dtype)
            y = y + (bias if self.trainable else stop_gradient(bias)).astype(self.dtype)
        return y


def convolve_halved_as_same(x: Array, kernel: Array, groups: int, impl: str) -> Array:
    """Returns `x` (B, H, W, C) convolved by a 3x3 kernel at stride 2, padded as TensorFlow's "SAME": (B, ceil(H / 2),
    ceil(W / 2), F).

    torch's first window begins one pixel before the image; TensorFlow's, if the size is even, at its first pixel. So a
    row and a column of zeros before it give torch's windows the same places, after one too many.
    """
    (top, left) = (1 - size % 2 for size in x.shape[1:3])
    y = convolve(jnp.pad(x, ((0, 0), (top, 0), (left, 0), (0, 0))), kernel, 2, groups, impl)
    return y[:, top:, left:]


class Dense(nn.Module):
    """An affine map of the last axis: (..., C) -> (..., features), with torch's initializer of the bias.

    Parameters `kernel` (C, features) and `bias` (features,).

    Attributes:
      trainable: see Conv.
    """

    features: int
    trainable: bool = True
    kernel_init: Initializer = torch_linear_init
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (channels, self.features), self.param_dtype)
        bias = self.param("bias", uniform_bias_init(channels), (self.features,), self.param_dtype)
        if not self.trainable:
            kernel, bias = stop_gradient((kernel, bias))
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


# timm's BiT adds this to a kernel's variance.
_STANDARDIZATION_EPSILON = 1e-8


def standardize(kernel: Array) -> Array:
    """Returns the kernel (k, k, C, F) with the weights of each output of mean 0 and variance 1 (arXiv:1903.10520)."""
    mean = jnp.mean(kernel, (0, 1, 2))
    var = jnp.mean(jnp.square(kernel - mean), (0, 1, 2))
    return (kernel - mean) * jax.lax.rsqrt(var + _STANDARDIZATION_EPSILON)


@jax.custom_jvp
def relu_of_sum(x: Array) -> Array:
    """Returns `max(x, 0)`, of which the gradient reads the result and not the arrays that `x` is the sum of.

    The next block's convolutions need the result in memory anyway. XLA would compute it again from the sum's parts, two
    reads for one, and write the masked cotangent, which it need not: together 5 % of what ResNet-50's step moves on a
    GPU. On the CPU it is `nn.relu`, whose program it leaves as it was.
    """
    return nn.relu(x)


@relu_of_sum.defjvp
def _relu_of_sum_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    def in_memory(x: Array) -> tuple[Array, Array]:
        y = jax.lax.optimization_barrier(nn.relu(x))
        return y, y

    y, positive = jax.lax.platform_dependent(*primals, cpu=lambda x: (nn.relu(x), x), default=in_memory)
    return y, jax.lax.select(positive > 0, tangents[0], jnp.zeros_like(tangents[0]))


def stochastic_depth(key: Array, x: Array, rate: float) -> Array:
    """Returns `x` (B, ...) with each row set to zero with probability `rate` in [0, 1), the others divided by 1 - rate.

    Huang et al. 2016, arXiv:1603.09382; scaled in training, as timm does, so that evaluation needs no change.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def activate_sum(x: Array, activation: str) -> Array:
    """Returns the activation of the sum of branch and shortcut: `relu_of_sum`, or another."""
    return relu_of_sum(x) if activation == "relu" else ACTIVATIONS[activation](x)
