"""oneDNN's batch norm and max-pooling, and their gradients, as XLA custom calls in float32 and bfloat16."""

import ctypes as c
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.ops.onednn_library import (
    BACKWARD,
    DIFF_DST,
    DIFF_SCALE,
    DIFF_SHIFT,
    DIFF_SRC,
    DST,
    DTYPES,
    FORWARD_TRAINING,
    MAX_POOLING,
    MEAN,
    PREPARING,
    QUERY_WORKSPACE,
    SCALE,
    SHIFT,
    SRC,
    VARIANCE,
    WITH_RELU,
    WITH_SCALE,
    WITH_SHIFT,
    WORKSPACE,
    int64s,
    open_library,
)
from resnet_jax.ops.xla_ffi import Kernel, register

Array = jax.Array
Shape = tuple[int, ...]
Layout = c.c_void_p

_SIGN = b"a note of oneDNN"
# Right on every instruction set (docs/processors.md).
_SWEPT = re.compile(
    r"bnorm_(tbb_)?jit:(sse41|avx2|avx512_core|avx512_core_bf16)|jit:(avx2|avx512_core|avx512_core_bf16)"
)


def can_normalize(shape: Shape, dtype: str, epsilon: float, relu: bool = False) -> bool:
    """Returns whether `normalize` and `normalize_gradient` are there for images (B, H, W, C) of a type."""
    with PREPARING:
        return _is_known(shape, dtype) and None not in _batch_norm(shape, dtype, epsilon, relu)


def normalize(x: Array, scale: Array, bias: Array, *, epsilon: float, relu: bool = False) -> tuple[Array, ...]:
    """Returns x (B, H, W, C) normalised by its own statistics, in its type, and their float32 mean and biased variance
    (C,).

    With `relu` it is rectified, and a fourth result of `note_bytes` is what oneDNN notes for its gradient.
    """
    target = _register_batch_norm(False, x.shape, str(x.dtype), epsilon, relu)
    channels = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype), channels, channels]
    if relu:
        results.append(jax.ShapeDtypeStruct((note_bytes(x.shape),), jnp.uint8))
    return tuple(jax.ffi.ffi_call(target, results)(x, scale, bias))


def note_bytes(shape: Shape) -> int:
    """Returns the size of a note on (B, H, W, C): a bit for each number, and the sign that it is one."""
    return -(-math.prod(shape) // 8) + len(_SIGN)


def normalize_gradient(
    cotangent: Array, x: Array, mean: Array, var: Array, scale: Array, *rectified: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Returns the cotangents of x, scale and bias of what `normalize` returned first.

    Args:
      rectified: if it was, what `normalize` returned fourth, or other numbers for want of it, and y.
    """
    target = _register_batch_norm(True, x.shape, str(x.dtype), epsilon, bool(rectified))
    channels = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    results = (jax.ShapeDtypeStruct(x.shape, x.dtype), channels, channels)
    of_x, of_scale, of_bias = jax.ffi.ffi_call(target, results)(cotangent, x, mean, var, scale, *rectified)
    return of_x, of_scale, of_bias


def can_pool(shape: Shape, dtype: str, padding: tuple[tuple[int, int], ...]) -> bool:
    """Returns whether `max_pool_gradient` is there for images (B, H, W, C) of a type."""
    with PREPARING:
        return _is_known(shape, dtype) and None not in _max_pool(shape, dtype, padding)


def max_pool_gradient(cotangent: Array, x: Array, *, padding: tuple[tuple[int, int], ...]) -> Array:
    """Returns the cotangent of x (B, H, W, C) whose 3x3 windows at stride 2, after padding, passed their first maximum
    on. What a window of NaN or of the least float32 alone would get is lost.
    """
    with PREPARING:
        name = f"resnet_jax_onednn_max_pool_gradient_{_written(x.shape)}_{x.dtype}_{_written(sum(padding, ()))}"
        target = register(name, functools.partial(prepare_max_pool, x.shape, str(x.dtype), padding))
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(x.shape, x.dtype))(cotangent, x)


# --- batch norm ------------------------------------------------------------------------------------------------------


@functools.cache
def _batch_norm(shape: Shape, dtype: str, epsilon: float, relu: bool) -> tuple[Layout | None, Layout | None]:
    """Returns the descriptions of batch norm and of its gradient, None where none is known to be right."""
    library, x = open_library(), _images(shape, dtype)
    assert library is not None
    numbers = c.c_float(epsilon), c.c_uint(WITH_SCALE | WITH_SHIFT | (WITH_RELU if relu else 0))
    forward = library.describe("batch_normalization_forward", c.c_int(FORWARD_TRAINING), x, x, *numbers)
    if forward is None or not _is_right(forward):
        return None, None
    if relu and library.num_bytes(library.query_layout(forward, QUERY_WORKSPACE)) + len(_SIGN) != note_bytes(shape):
        return None, None
    backward = library.describe("batch_normalization_backward", c.c_int(BACKWARD), x, x, x, *numbers, forward)
    return forward, _first_right(backward)


def _register_batch_norm(is_gradient: bool, shape: Shape, dtype: str, epsilon: float, relu: bool) -> str:
    with PREPARING:
        name = f"resnet_jax_onednn_batch_norm{'_relu' if relu else ''}{'_gradient' if is_gradient else ''}"
        name += f"_{_written(shape)}_{dtype}_{epsilon}"
        return register(name, functools.partial(prepare_batch_norm, is_gradient, shape, dtype, epsilon, relu))


def prepare_batch_norm(is_gradient: bool, shape: Shape, dtype: str, epsilon: float, relu: bool) -> Kernel:
    """Returns `normalize` or `normalize_gradient` as a function of the addresses of its operands and results."""
    library = open_library()
    assert library is not None
    images, channels = _images(shape, dtype), library.layout(shape[-1:], (1,))
    forward, backward = _batch_norm(shape, dtype, epsilon, relu)
    assert forward is not None
    note = {WORKSPACE: library.query_layout(forward, QUERY_WORKSPACE)} if relu else {}
    if is_gradient:
        kinds = {DIFF_DST: images, SRC: images, MEAN: channels, VARIANCE: channels, SCALE: channels, **note}
        kinds |= {DIFF_SRC: images, DIFF_SCALE: channels, DIFF_SHIFT: channels}
    else:
        kinds = {SRC: images, SCALE: channels, SHIFT: channels, DST: images, MEAN: channels, VARIANCE: channels}
        kinds |= note
    memories = {index: library.borrow(layout) for index, layout in kinds.items()}
    description = backward if is_gradient else forward
    assert description is not None
    run = library.kernel([library.primitive(description, memories)], list(memories.values()))
    if not relu:
        return run
    return functools.partial(_run_with_note if is_gradient else _run_and_sign, run, shape, dtype)


def _run_and_sign(run: Kernel, shape: Shape, dtype: str, operands: Sequence[int], results: Sequence[int]) -> None:
    """Runs batch norm with ReLU, and restores NaN: oneDNN's ReLU of NaN is 0, and nobody would see it."""
    run(operands, results)
    of_channels = (_view(address, shape[-1:], "float32") for address in (*operands[1:3], results[2]))
    bad = functools.reduce(np.logical_or, map(np.isnan, of_channels))  # scale, bias, variance
    if bad.any():
        _view(results[0], shape, dtype)[..., bad] = np.nan
    c.memmove(results[3] + note_bytes(shape) - len(_SIGN), _SIGN, len(_SIGN))


def _run_with_note(run: Kernel, shape: Shape, dtype: str, operands: Sequence[int], results: Sequence[int]) -> None:
    """Runs the gradient of the same. Without oneDNN's note, where something else rectified, makes it of y."""
    *others, note, y = operands
    if c.string_at(note + note_bytes(shape) - len(_SIGN), len(_SIGN)) == _SIGN:
        return run((*others, note), results)
    made = np.packbits(_view(y, shape, dtype).ravel() > 0, bitorder="little")
    return run((*others, made.ctypes.data), results)


def _view(address: int, shape: Shape, dtype: str) -> np.ndarray:
    kind = jnp.dtype(dtype)
    buffer: Any = (c.c_char * (math.prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(buffer, kind).reshape(shape)


# --- max-pooling -----------------------------------------------------------------------------------------------------


@functools.cache
def _max_pool(shape: Shape, dtype: str, padding: tuple[tuple[int, int], ...]) -> tuple[Layout | None, Layout | None]:
    """Returns the descriptions of max-pooling, which notes where the maxima were, and of its gradient."""
    library = open_library()
    assert library is not None
    x, y = _images(shape, dtype), _images(pooled_shape(shape, padding), dtype)
    windows = [int64s(pair) for pair in ((2, 2), (3, 3), (0, 0), *zip(*padding, strict=True))]
    kind = c.c_int(MAX_POOLING)
    forward = library.describe("pooling_forward", c.c_int(FORWARD_TRAINING), kind, x, y, *windows)
    if forward is None or not _is_right(forward):
        return None, None  # the gradient reads what this very implementation noted
    return forward, _first_right(library.describe("pooling_backward", kind, x, y, *windows, forward))


def prepare_max_pool(shape: Shape, dtype: str, padding: tuple[tuple[int, int], ...]) -> Kernel:
    """Returns `max_pool_gradient` as a function of the addresses of its operands and its result."""
    library = open_library()
    assert library is not None
    forward, backward = _max_pool(shape, dtype, padding)
    assert forward is not None
    assert backward is not None
    images, pooled = _images(shape, dtype), _images(pooled_shape(shape, padding), dtype)
    cotangent, x, gradient = library.borrow(pooled), library.borrow(images), library.borrow(images)
    y, places = library.allocate(pooled), library.allocate(library.query_layout(forward, QUERY_WORKSPACE))
    steps = [
        library.primitive(forward, {SRC: x, DST: y, WORKSPACE: places}),
        library.primitive(backward, {DIFF_DST: cotangent, DIFF_SRC: gradient, WORKSPACE: places}),
    ]
    return library.kernel(steps, [cotangent, x, gradient])


def pooled_shape(shape: Shape, padding: tuple[tuple[int, int], ...]) -> Shape:
    """Returns the shape of max-pooled images, from (B, H, W, C)."""
    batch, height, width, channels = shape
    height, width = ((side + sum(pads) - 3) // 2 + 1 for side, pads in zip((height, width), padding, strict=True))
    return batch, height, width, channels


# --- both ------------------------------------------------------------------------------------------------------------


def _is_known(shape: Shape, dtype: str) -> bool:
    return dtype in DTYPES and len(shape) == 4 and 0 not in shape and open_library() is not None


def _images(shape: Shape, dtype: str) -> Layout:
    library = open_library()
    assert library is not None
    return library.images(shape, DTYPES[dtype])


def _first_right(description: Layout | None) -> Layout | None:
    """Returns the description as the first implementation computes it that is known to be right."""
    library = open_library()
    assert library is not None
    while description is not None:
        if _is_right(description):
            return description
        if not library.advance(description):
            return None
    return None


def _is_right(description: Layout) -> bool:
    library = open_library()
    assert library is not None
    return _SWEPT.fullmatch(library.query_name(description)) is not None


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape))
