"""Convolution, batch norm, pooling and initializers, with PyTorch's arithmetic.

Everything here computes in `dtype`, keeps its parameters in `param_dtype` and takes images as (B, H, W, C).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import initializers

from resnet_jax.errors import UserError
from resnet_jax.ops.convolution import convolve

Array = jax.Array
Dtype = Any
Initializer = Callable[..., Array]

# He et al. 2015, "Delving deep into rectifiers" (arXiv:1502.01852): a normal of variance 2 / fan, not truncated.
he_normal_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")
he_normal_fan_in = initializers.variance_scaling(2.0, "fan_in", "normal")
# torch.nn.Linear: uniform in +-1/sqrt(fan_in).
torch_linear_init = initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def uniform_bias_init(fan_in: int) -> Initializer:
    """PyTorch's initializer of a bias: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """2-D convolution with torch's explicit padding of `kernel_size // 2 * dilation` on every side.

    images (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features). `padding="SAME"` would pad a stride-2
    convolution by (0, 1) where torch pads by (1, 1), so the padding is written out. Parameters: `kernel` (k, k, C /
    groups, features) and, with `use_bias`, `bias` (features,).

    Attributes:
      impl: see `convolve`.
      trainable: if False, the parameters' gradients are zero, and are not computed.

    Raises:
      ValueError: if `groups` divides the channels or the features with a remainder.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Initializer = he_normal_fan_out
    impl: str = "auto"
    trainable: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, size = x.shape[-1], self.kernel_size
        if channels % self.groups or self.features % self.groups:
            raise ValueError(f"groups={self.groups} must divide channels={channels} and features={self.features}")
        kernel_shape = (size, size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        kernel = kernel if self.trainable else stop_gradient(kernel)
        y = convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.groups, self.impl, self.dilation
        )
        if self.use_bias:
            fan_in = size * size * (channels // self.groups)
            bias = self.param("bias", uniform_bias_init(fan_in), (self.features,), self.param_dtype)
            y = y + (bias if self.trainable else stop_gradient(bias)).astype(self.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over all axes but the last.

    Training normalises by the batch's own mean and biased variance, see `mean_and_variance`, and moves the running
    statistics by `1 - momentum`: the running variance is the unbiased one, as in torch and unlike flax.linen.BatchNorm.
    Evaluation normalises by the running statistics. Statistics are computed in float32 at least, whatever `dtype`.
    Under `jit` with a batch sharded over devices the statistics are those of the global batch.

    x (..., C) -> (..., C). Parameters `scale`, `bias` (C,); collection `batch_stats`: `mean`, `var` (C,).

    Attributes:
      axis_name: axes of a surrounding `shard_map` over whose shares the statistics are taken together; () for the
        share's own.
      rows_per_group: where positive, every so many rows of the first axis are normalised by statistics of their own
        (ghost batch norm, Hoffer et al. 2017, arXiv:1705.08741), and the running ones move by the groups' mean.
      frozen: the running statistics are used in training too, and stay.
      trainable: if False, scale, bias and statistics get no gradient.

    Raises:
      ValueError: in training if rows_per_group does not divide the rows.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    rows_per_group: int = 0
    axis_name: tuple[str, ...] = ()
    frozen: bool = False
    trainable: bool = True
    scale_init: Initializer = initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        old_mean, old_var = running_mean.value, running_var.value
        if not self.trainable:
            scale, bias, old_mean, old_var = stop_gradient((scale, bias, old_mean, old_var))

        x = x.astype(self.param_dtype)
        if train and not self.frozen:
            num_groups = self._num_groups(x)
            if num_groups == 1:
                y, mean, var = _normalize_by_batch(x, scale, bias, self.epsilon, self.axis_name)
            else:
                y, mean, var = _normalize_by_group(x, scale, bias, self.epsilon, num_groups)
            if not self.is_initializing():
                count = x.size // x.shape[-1] // num_groups * jax.lax.axis_size(self.axis_name)
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * old_mean + (1.0 - self.momentum) * mean
                running_var.value = self.momentum * old_var + (1.0 - self.momentum) * unbiased
        else:
            factor = jax.lax.rsqrt(old_var + self.epsilon) * scale
            y = (x - old_mean) * factor + bias
        return y.astype(self.dtype)

    def _num_groups(self, x: Array) -> int:
        rows = x.shape[0]
        if not self.rows_per_group:
            return 1
        if rows % self.rows_per_group:
            raise ValueError(f"rows_per_group={self.rows_per_group} must divide the {rows} rows of the batch")
        return rows // self.rows_per_group


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalize_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: tuple[str, ...] = ()
) -> tuple[Array, Array, Array]:
    """Returns `x` (..., C) normalised, with its mean and biased variance (C,), over the mapped axes too."""
    mean, var = mean_and_variance(x, axis_name)
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias, mean, var


@_normalize_by_batch.defjvp
def _normalize_by_batch_jvp(epsilon: float, axis_name: tuple[str, ...], primals: Any, tangents: Any) -> Any:
    """Returns the derivative with all that is per channel gathered first: transposed, it sums over the batch twice, not
    thrice.

    The mean has no share in the variance's derivative: the centred x sums to zero.
    """
    x, scale, bias = primals
    x_dot, scale_dot, bias_dot = tangents
    y, mean, var = _normalize_by_batch(x, scale, bias, epsilon, axis_name)
    centred, inverse = x - mean, jax.lax.rsqrt(var + epsilon)
    mean_dot, var_dot = _mean(x_dot, axis_name), 2.0 * _mean(centred * x_dot, axis_name)
    factor, factor_dot = inverse * scale, inverse * scale_dot - 0.5 * inverse**3 * scale * var_dot
    y_dot = x_dot * factor + centred * factor_dot + (bias_dot - mean_dot * factor)
    return (y, mean, var), (y_dot, mean_dot, var_dot)


def mean_and_variance(x: Array, axis_name: tuple[str, ...] = ()) -> tuple[Array, Array]:
    """Returns the mean and the biased variance (C,) of each channel of `x` (B, ..., C), over the mapped axes too.

    In one pass over `x`, which is what the time of a GPU goes into; on the CPU in two: its compiler would write what is
    left of `x` after a shift to memory before it sums it up, and the benchmark's steps took 3 % longer.
    """
    mean, var = jax.lax.platform_dependent(x, cpu=in_two_passes, default=in_one_pass)
    if axis_name:
        local, mean = mean, jax.lax.pmean(mean, axis_name)
        var = jax.lax.pmean(var + jnp.square(local - mean), axis_name)
    return mean, var


def in_two_passes(x: Array) -> tuple[Array, Array]:
    """Returns the mean of each channel of `x` (B, ..., C), then the mean of the squares of what is left: two of
    (C,).
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.mean(jnp.square(x - mean), axes)


def in_one_pass(x: Array) -> tuple[Array, Array]:
    """Returns the same from the sums of each image's values and of their squares, both less the value in the image's
    middle.

    So the squares stay small where the mean is large. The images' means and variances, (B, C), are then combined
    exactly (Chan et al. 1979). The middle is itself among the n values, so that it lies at most sqrt(n - 1) of their
    standard deviations from their mean (Samuelson 1968): at worst n roundings of an image's variance, mostly a few.
    """
    positions = tuple(range(1, x.ndim - 1))
    num_positions = math.prod(x.shape[axis] for axis in positions)
    middle = x
    for axis in positions:
        middle = jax.lax.slice_in_dim(middle, x.shape[axis] // 2, x.shape[axis] // 2 + 1, axis=axis)
    shifted = x - middle
    offset = jnp.sum(shifted, positions) / num_positions  # (B, C)
    square = jnp.sum(jnp.square(shifted), positions) / num_positions
    middle = middle.reshape(offset.shape)
    mean = jnp.mean(middle + offset, axis=0)
    # Rounding may make the difference negative. Between images, `middle - mean` is exact where both are large.
    within, between = jnp.maximum(square - jnp.square(offset), 0.0), jnp.square((middle - mean) + offset)
    return mean, jnp.mean(within + between, axis=0)


def _mean(x: Array, axis_name: tuple[str, ...]) -> Array:
    """Returns the mean of each channel of `x` (..., C), over the mapped axes too."""
    mean = jnp.mean(x, tuple(range(x.ndim - 1)))
    return jax.lax.pmean(mean, axis_name) if axis_name else mean


def _normalize_by_group(
    x: Array, scale: Array, bias: Array, epsilon: float, num_groups: int
) -> tuple[Array, Array, Array]:
    """Returns `_normalize_by_batch` of each of the groups of rows: `x`, and the means over the groups of mean and
    variance.
    """
    groups = x.reshape(num_groups, -1, *x.shape[1:])  # (G, B / G, ..., C)
    normalize = jax.vmap(lambda group: _normalize_by_batch(group, scale, bias, epsilon))
    y, mean, var = normalize(groups)
    return y.reshape(x.shape), jnp.mean(mean, axis=0), jnp.mean(var, axis=0)


class FoldedBatchNorm(nn.Module):
    """What `fold_batch_norm` leaves of a batch norm whose factor went into the convolution before it: a bias.

    Parameters `bias` (C,) and, if `scaled`, `scale` (C,).

    Attributes:
      scaled: the scale stays as well, where no convolution comes right before. x (..., C) -> (..., C).

    Raises:
      UserError: in training: nothing is left for it.
    """

    scaled: bool = False
    trainable: bool = True  # this and scale_init as BatchNorm takes them
    scale_init: Initializer = initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if train:
            raise UserError("batch_norm='folded' is for inference: train the model from which it was folded")
        shape = (x.shape[-1],)
        bias = self.param("bias", initializers.zeros, shape, self.param_dtype)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.scaled else None
        if not self.trainable:
            bias, scale = stop_gradient((bias, scale))
        if scale is not None:
            x = x * scale.astype(self.dtype)
        return x + bias.astype(self.dtype)


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


class SqueezeExcite(nn.Module):
    """`x` with each channel scaled by a gate in (0, 1) computed from all channels' means (arXiv:1709.01507).

    (B, H, W, C) -> (B, H, W, C). Two 1x1 convolutions with bias, `fc1` to C / 16 channels rounded to a multiple of 8
    (at least 8), ReLU, and `fc2` back, sigmoid; named and sized as timm's.
    """

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        squeezed = max(8, (channels // 16 + 4) // 8 * 8)
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)  # (B, 1, 1, C)
        gate = nn.relu(self.conv(squeezed, kernel_size=1, use_bias=True, name="fc1")(gate))
        gate = self.conv(channels, kernel_size=1, use_bias=True, name="fc2")(gate)
        return x * nn.sigmoid(gate)


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


def max_pool(x: Array) -> Array:
    """Returns the maximum over 3x3 windows at stride 2, padded by 1 as torch does: (B, H, W, C) -> (B, ceil(H/2),
    ceil(W/2), C).
    """
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def average_pool(x: Array, stride: int) -> Array:
    """Returns the mean over windows of `stride` x `stride` pixels: (B, H, W, C) -> (B, ceil(H / stride), ceil(W /
    stride), C).

    A window over the right or lower border is the mean of the pixels it has.
    """
    padding = tuple((0, -size % stride) for size in x.shape[1:3])
    return nn.avg_pool(x, (stride, stride), strides=(stride, stride), padding=padding, count_include_pad=False)


def global_average_pool(x: Array, dtype: Dtype) -> Array:
    """Returns the mean over the positions, computed and returned in `dtype`: (B, H, W, C) -> (B, C)."""
    return jnp.mean(x.astype(dtype), axis=(1, 2))
