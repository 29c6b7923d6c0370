"""A batch's statistics, and what is normalised by them, with their derivatives."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.ops import onednn_layers
from resnet_jax.ops.batch_axes import vary_alike
from resnet_jax.ops.primitives import make_linear_primitive, make_primitive

Array = jax.Array
Dtype = Any
Axes = tuple[str, ...]


def normalize_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: Axes = (), dtype: Dtype = jnp.float32,
    *, relu: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Returns `x` (..., C) normalised, with its mean and biased variance (C,), in the type of scale and bias (C,).

    Args:
      axis_name: mapped axes over which the statistics are taken together.
      dtype: to which y will be rounded; it may be so already.
      relu: y is rectified, and in `dtype`.
    """
    if not axis_name:  # scale and bias that all devices share have the sum as their gradient
        x, scale, bias = vary_alike((x, scale, bias), x, scale, bias)
    wide = x.astype(scale.dtype)
    as_given = jax.lax.stop_gradient(x if x.dtype == dtype else wide)
    y, mean, var, *_ = _normalize_by_batch(wide, scale, bias, as_given, epsilon, axis_name, relu)
    return y.astype(dtype) if relu else y, mean, var


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _normalize_by_batch(
    x: Array, scale: Array, bias: Array, as_given: Array, epsilon: float, axis_name: Axes, relu: bool
) -> tuple[Array, ...]:
    """Returns the same in one type; with `relu` a fourth, for oneDNN's gradient alone.

    Args:
      as_given: the same x in its own type, of which oneDNN returns y and takes the cotangent; a rectified y is of it.
    """
    if axis_name:
        return _normalize(x, scale, bias, as_given, epsilon=epsilon, axis_name=axis_name, relu=relu)
    return tuple(_batch_norm.bind(x, scale, bias, as_given, epsilon=epsilon, relu=relu))


@_normalize_by_batch.defjvp
def _normalize_by_batch_jvp(epsilon: float, axis_name: Axes, relu: bool, primals: Any, tangents: Any) -> Any:
    x, scale, bias, as_given = primals
    y, mean, var, *note = _normalize_by_batch(x, scale, bias, as_given, epsilon, axis_name, relu)
    centred, inverse = x - mean, jax.lax.rsqrt(var + epsilon)
    factor, slope = inverse * scale, 0.5 * inverse**3 * scale
    factors = jax.lax.broadcast_in_dim(factor, (1,) * (x.ndim - 1) + factor.shape, (x.ndim - 1,))
    rectified = (*note, y) if relu else ()
    operands = [*tangents[:3], as_given, mean, var, scale, *rectified, centred, inverse, factor, factors, slope]
    if axis_name:
        found = _tangents(*operands, epsilon=epsilon, axis_name=axis_name)
    else:
        found = tuple(_batch_norm_tangents.bind(*operands, epsilon=epsilon))
    return (y, mean, var, *note), (*found, *(np.zeros(one.shape, jax.dtypes.float0) for one in note))


def _normalize(
    x: Array, scale: Array, bias: Array, as_given: Array, *, epsilon: float, axis_name: Axes = (), relu: bool = False
) -> tuple[Array, ...]:
    mean, var = mean_and_variance(x, axis_name)
    y = (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias
    if not relu:
        return y, mean, var
    y = y.astype(as_given.dtype)
    return nn.relu(y), mean, var, y > 0


def _tangents(
    x_dot: Array, scale_dot: Array, bias_dot: Array, as_given: Array, mean: Array, var: Array, scale: Array,
    *others: Array, epsilon: float, axis_name: Axes = (),
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Returns the derivative with all that is per channel gathered first: transposed, it sums over the batch twice, not
    thrice.

    The mean has no share in the variance's derivative: the centred x sums to zero. oneDNN reads the operands up to the
    scale and its note, this formula the others.

    Args:
      others: if y was rectified, oneDNN's note and y; x - mean; inverse = 1 / sqrt(var + epsilon); factor = inverse *
        scale, then the same of the rank of x; slope = inverse**3 * scale / 2.
    """
    del mean, var, scale, epsilon
    *rectified, centred, inverse, factor, factors, slope = others
    mean_dot, var_dot = _mean(x_dot, axis_name), 2.0 * _mean(centred * x_dot, axis_name)
    factor_dot = inverse * scale_dot - slope * var_dot
    y_dot = x_dot * factors + centred * factor_dot + (bias_dot - mean_dot * factor)
    if rectified:
        y_dot = y_dot.astype(as_given.dtype)
        y_dot = jax.lax.select(rectified[-1] > 0, y_dot, jnp.zeros_like(y_dot))
    return y_dot, mean_dot, var_dot


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


# --- on the CPU ------------------------------------------------------------------------------------------------------


def _can_be_onednns(as_given: Any, scale: Any, is_for_one_device: bool, epsilon: float, relu: bool) -> bool:
    """Returns whether oneDNN computes it, by the types of the operands."""
    fits = is_for_one_device and scale.dtype == jnp.float32
    return fits and onednn_layers.can_normalize(as_given.shape, as_given.dtype.name, epsilon, relu)


def _forward_for_cpu(avals: Any, results: Any, is_for_one_device: bool, *, epsilon: float, relu: bool) -> Any:
    _, scale, _, as_given = avals

    def compute(x: Array, scale: Array, bias: Array, as_given: Array) -> tuple[Array, ...]:
        del x
        y, *others = onednn_layers.normalize(as_given, scale, bias, epsilon=epsilon, relu=relu)
        return y.astype(results[0].dtype), *others

    return compute if _can_be_onednns(as_given, scale, is_for_one_device, epsilon, relu) else None


def _gradient_for_cpu(avals: Any, results: Any, is_for_one_device: bool, *, epsilon: float, types: Any) -> Any:
    _, as_given, _, _, scale, fifth, *_ = avals
    relu = fifth.dtype == jnp.bool_
    del types

    def compute(cotangent: Array, as_given: Array, *others: Array) -> Any:
        operands = cotangent.astype(as_given.dtype), as_given, *others[: 4 if relu else 3]
        of_x, of_scale, of_bias = onednn_layers.normalize_gradient(*operands, epsilon=epsilon)
        return of_x.astype(results[0].dtype), of_scale, of_bias

    return compute if _can_be_onednns(as_given, scale, is_for_one_device, epsilon, relu) else None


_batch_norm = make_primitive("batch_norm", _normalize, _forward_for_cpu, several=True)
_batch_norm_tangents = make_linear_primitive(
    "batch_norm_tangents", _tangents, _gradient_for_cpu, num_linear=3, num_cotangents=1
)
