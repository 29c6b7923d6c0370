"""Poolings with PyTorch's arithmetic, and those that strides are anti-aliased with; images are (B, H, W, C)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Dtype = Any


def max_pool(x: Array) -> Array:
    """Returns the maximum over 3x3 windows at stride 2, padded by 1 as torch does: (B, H, W, C) -> (B, ceil(H/2),
    ceil(W/2), C).
    """
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def same_max_pool(x: Array) -> Array:
    """Returns the same, padded as TensorFlow's "SAME" does: a window begins at the first pixel of an even size."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


def zero_padded_max_pool(x: Array) -> Array:
    """Returns the same with zeros around: it differs where all of a border's window is negative (BiT, Keras' V2)."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(padded, (3, 3), strides=(2, 2))


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


# What takes the place of a stride in a block, by the name of ResNet's argument anti_alias.
ANTI_ALIAS = {"average": average_pool, "blur": blur_pool}
