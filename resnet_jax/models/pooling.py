"""Poolings with PyTorch's arithmetic, and those that strides are anti-aliased with; images are (B, H, W, C)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.ops import onednn_layers
from resnet_jax.ops.primitives import evaluate_what_counts, make_linear_primitive

Array = jax.Array
Dtype = Any
Padding = tuple[tuple[int, int], tuple[int, int]]


def max_pool(x: Array) -> Array:
    """Returns the maximum over 3x3 windows at stride 2, padded by 1 as torch does: (B, H, W, C) -> (B, ceil(H/2),
    ceil(W/2), C).
    """
    return _max_pool(x, ((1, 1), (1, 1)))


def same_max_pool(x: Array) -> Array:
    """Returns the same, padded as TensorFlow's "SAME" does: a window begins at the first pixel of an even size."""
    (top, bottom), (left, right) = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), "SAME")
    return _max_pool(x, ((top, bottom), (left, right)))


def zero_padded_max_pool(x: Array) -> Array:
    """Returns the same with zeros around: it differs where all of a border's window is negative (BiT, Keras' V2)."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _max_pool(padded, ((0, 0), (0, 0)))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: Array, padding: Padding) -> Array:
    """Returns the maximum over 3x3 windows at stride 2, after padding."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


@_max_pool.defjvp
def _max_pool_jvp(padding: Padding, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (y_dot,) = _max_pool_tangent.bind(*tangents, *primals, padding=padding)
    return _max_pool(*primals, padding), y_dot


def _pooled_tangent(x_dot: Array, x: Array, *, padding: Padding) -> tuple[Array]:
    """Returns of each window what stands in the place of its first maximum, without the maximum."""

    def tangent(x_dot: Array, x: Array) -> Array:
        pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=padding)
        return jax.jvp(pool, (x,), (x_dot,))[1]

    return (evaluate_what_counts(tangent, x_dot, x),)


def _pooling_gradient_for_cpu(
    avals: Any, results: Any, is_for_one_device: bool, *, padding: Padding, types: Any
) -> Callable[..., tuple[Array]] | None:
    x = avals[1]
    del results, types
    if not is_for_one_device or not onednn_layers.can_pool(x.shape, x.dtype.name, padding):
        return None
    return lambda cotangent, x: (onednn_layers.max_pool_gradient(cotangent, x, padding=padding),)


_max_pool_tangent = make_linear_primitive(
    "max_pool_tangent", _pooled_tangent, _pooling_gradient_for_cpu, num_linear=1, num_cotangents=1
)


def average_pool(x: Array, stride: int) -> Array:
    """Returns the mean over windows of `stride` x `stride` pixels: (B, H, W, C) -> (B, ceil(H / stride), ceil(W /
    stride), C).

    A window over the right or lower border is the mean of the pixels it has.
    """
    padding = tuple((0, -size % stride) for size in x.shape[1:3])
    if min(x.shape[1:3]) <= stride:
        return _average_by_slices(x, stride)
    return nn.avg_pool(x, (stride, stride), strides=(stride, stride), padding=padding, count_include_pad=False)


def _average_by_slices(x: Array, stride: int) -> Array:
    """Returns the same as a sum of strided slices, for images as narrow as a window.

    XLA's CPU backend (jaxlib 0.10.2) sums such windows wrongly from some batch size on.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))
    rows = [jax.lax.slice_in_dim(padded, i, None, stride, axis=1) for i in range(stride)]
    parts = [jax.lax.slice_in_dim(row, j, None, stride, axis=2) for row in rows for j in range(stride)]
    counts = np.multiply.outer(*(np.minimum(stride, side - np.arange(0, side, stride)) for side in (height, width)))
    return sum(parts[1:], parts[0]) / counts.astype(x.dtype)[None, :, :, None]


def blur_pool(x: Array, stride: int) -> Array:
    """Returns every `stride`-th pixel of `x` blurred by (1, 2, 1) / 4 both ways, its border mirrored (Zhang 2019,
    arXiv:1904.11486): (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C).
    """
    channels = x.shape[-1]
    row = np.array([1.0, 2.0, 1.0]) / 4.0
    kernel = jnp.asarray(np.outer(row, row), x.dtype)[:, :, None, None]
    padded = x
    for axis in (1, 2):
        first, last = (
            jax.lax.slice_in_dim(padded, i, i + 1, axis=axis)
            for i in (min(1, x.shape[axis] - 1), max(x.shape[axis] - 2, 0))
        )
        padded = jnp.concatenate([first, padded, last], axis)
    return jax.lax.conv_general_dilated(
        padded,
        jnp.tile(kernel, (1, 1, 1, channels)),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def max_blur_pool(x: Array) -> Array:
    """Returns the maximum over 3x3 windows of each pixel, then `blur_pool` at stride 2: a stem's, anti-aliased."""
    return blur_pool(nn.max_pool(x, (3, 3), strides=(1, 1), padding=((1, 1), (1, 1))), 2)


def global_average_pool(x: Array, dtype: Dtype) -> Array:
    """Returns the mean over the positions, computed and returned in `dtype`: (B, H, W, C) -> (B, C)."""
    return jnp.mean(x.astype(dtype), axis=(1, 2))


# The replacements for a stride in a block, by the name of ResNet's argument anti_alias.
ANTI_ALIAS = {"average": average_pool, "blur": blur_pool}
