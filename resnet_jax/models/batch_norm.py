"""Batch norm with PyTorch's arithmetic, and what is left of it where it is folded into a convolution."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import initializers

from resnet_jax.errors import UserError
from resnet_jax.models.initializers import Initializer

Array = jax.Array
Dtype = Any


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
