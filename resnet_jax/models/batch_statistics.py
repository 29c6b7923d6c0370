"""A batch's statistics, and normalisation by them, with their derivatives."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    """Returns `x` (..., C) normalised, in `dtype`, with its mean and biased variance (C,); computed in the type of
    scale and bias (C,).

    Args:
      axis_name: mapped axes over which the statistics are taken together.
      relu: y is rectified.
    """
    if not axis_name:  # scale and bias that all devices share have the sum as their gradient
        x, scale, bias = vary_alike((x, scale, bias), x, scale, bias)
    x = x if x.dtype == dtype else x.astype(scale.dtype)
    y, mean, var, *_ = _normalize_by_batch(x, scale, bias, epsilon, axis_name, relu)
    return y.astype(dtype), mean, var


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _normalize_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: Axes, relu: bool
) -> tuple[Array, ...]:
    """Returns the same in the type of x; with `relu` a fourth, oneDNN's note for its gradient."""
    if axis_name:
        return _normalize(x, scale, bias, epsilon=epsilon, axis_name=axis_name, relu=relu)
    return tuple(_batch_norm.bind(x, scale, bias, epsilon=epsilon, relu=relu))


@_normalize_by_batch.defjvp
def _normalize_by_batch_jvp(epsilon: float, axis_name: Axes, relu: bool, primals: Any, tangents: Any) -> Any:
    x, scale, bias = primals
    y, mean, var, *note = _normalize_by_batch(x, scale, bias, epsilon, axis_name, relu)
    operands = [*tangents, x, mean, var, scale, *((*note, y) if relu else ())]
    if axis_name:
        found = _tangents(*operands, epsilon=epsilon, axis_name=axis_name)
    else:
        found = tuple(_batch_norm_tangents.bind(*operands, epsilon=epsilon))
    return (y, mean, var, *note), (*found, *map(jax.custom_derivatives.zero_from_primal, note))


def _normalize(
    x: Array, scale: Array, bias: Array, *, epsilon: float, axis_name: Axes = (), relu: bool = False
) -> tuple[Array, ...]:
    wide = x.astype(scale.dtype)
    mean, var = mean_and_variance(wide, axis_name)
    y = ((wide - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias).astype(x.dtype)
    if not relu:
        return y, mean, var
    no_note = vary_alike(jnp.zeros(onednn_layers.note_bytes(y.shape), jnp.uint8), y)
    return nn.relu(y), mean, var, no_note


def _tangents(
    x_dot: Array, scale_dot: Array, bias_dot: Array, x: Array, mean: Array, var: Array, scale: Array,
    *rectified: Array, epsilon: float, axis_name: Axes = (),
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Returns the derivative with all that is per channel gathered first: transposed, it sums over the batch twice, not
    thrice.

    The mean has no share in the variance's derivative: the centred x sums to zero.

    Args:
      rectified: nothing, or oneDNN's note and y.
    """
    wide_dot, centred, inverse = x_dot.astype(scale.dtype), x.astype(scale.dtype) - mean, jax.lax.rsqrt(var + epsilon)
    mean_dot, var_dot = _mean(wide_dot, axis_name), 2.0 * _mean(centred * wide_dot, axis_name)
    factor, factor_dot = inverse * scale, inverse * scale_dot - 0.5 * inverse**3 * scale * var_dot
    y_dot = (wide_dot * factor + centred * factor_dot + (bias_dot - mean_dot * factor)).astype(x.dtype)
    if rectified:
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


def _can_be_onednns(x: Any, scale: Any, is_for_one_device: bool, epsilon: float, relu: bool) -> bool:
    """Returns whether oneDNN computes it, by the types of the operands."""
    fits = is_for_one_device and scale.dtype == jnp.float32
    return fits and onednn_layers.can_normalize(x.shape, x.dtype.name, epsilon, relu)


def _forward_for_cpu(avals: Any, results: Any, is_for_one_device: bool, *, epsilon: float, relu: bool) -> Any:
    x, scale, _ = avals
    del results
    can = _can_be_onednns(x, scale, is_for_one_device, epsilon, relu)
    return partial(onednn_layers.normalize, epsilon=epsilon, relu=relu) if can else None


def _gradient_for_cpu(avals: Any, results: Any, is_for_one_device: bool, *, epsilon: float, types: Any) -> Any:
    _, x, _, _, scale, *rectified = avals
    del results, types
    can = _can_be_onednns(x, scale, is_for_one_device, epsilon, bool(rectified))
    return partial(onednn_layers.normalize_gradient, epsilon=epsilon) if can else None


_batch_norm = make_primitive("batch_norm", _normalize, _forward_for_cpu, several=True)
_batch_norm_tangents = make_linear_primitive(
    "batch_norm_tangents", _tangents, _gradient_for_cpu, num_linear=3, num_cotangents=1
)
