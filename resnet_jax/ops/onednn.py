"""oneDNN's convolutions as XLA custom calls, in float32 and bfloat16, through the library's C interface.

oneDNN (Apache-2.0, the library behind PyTorch's convolutions on the CPU) takes a third to a half of the time of XLA's
own. The package `onednn-cpu-gomp` brings it to x86-64 Linux as a plain shared library; elsewhere, or where it does not
load, `available()` is False and `resnet_jax.ops.convolution` does without.

A custom call reads the buffers' addresses and runs oneDNN primitives prepared for the shapes at hand: nothing is copied
but the kernel, into the blocked layout that oneDNN computes with. It holds the GIL for microseconds, not while oneDNN
works.

Which code oneDNN runs depends on the processor. An implementation is taken only where `benchmarks/onednn_sweep.py`
found it right on every instruction set (docs/processors.md); `implementation` names it.
"""

import ctypes as c
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.ops.onednn_library import (
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DIRECT,
    DST,
    DTYPES,
    FORWARD_TRAINING,
    PREPARING,
    QUERY_DIFF_WEIGHTS,
    QUERY_WEIGHTS,
    SRC,
    WEIGHTS,
    OneDNNError,
    int64s,
    kernel_axes,
    open_library,
)
from resnet_jax.ops.xla_ffi import Kernel, register

Array = jax.Array
Shape = tuple[int, ...]

OPERATIONS = ("forward", "input_gradient", "kernel_gradient")


@dataclass(frozen=True)
class Problem:
    """The shapes of a convolution padded by k // 2 * dilation: input (B, H, W, C), kernel (k, k, C / groups, F).

    Attributes:
      dtype: of the images, "float32" or "bfloat16"; kernels, their gradients and sums are float32 in either.
    """

    input_shape: Shape
    kernel_shape: Shape
    stride: int
    groups: int
    dilation: int = 1
    dtype: str = "float32"

    @property
    def padding(self) -> int:
        """Pixels on every side."""
        return self.kernel_shape[0] // 2 * self.dilation

    @property
    def output_shape(self) -> Shape:
        """(B, ceil(H / stride), ceil(W / stride), F) for an odd k."""
        batch, height, width, _ = self.input_shape
        size, _, _, features = self.kernel_shape
        extent = self.dilation * (size - 1) + 1
        height, width = ((side + 2 * self.padding - extent) // self.stride + 1 for side in (height, width))
        return batch, height, width, features

    @property
    def arrays(self) -> tuple[Shape, Shape, Shape]:
        """The shapes of the input, the kernel and the output."""
        return self.input_shape, self.kernel_shape, self.output_shape


def available() -> bool:
    """Returns whether oneDNN is installed for this machine and loads."""
    return open_library() is not None


def implementation(operation: str, problem: Problem) -> str | None:
    """Returns the name of the code that computes this here, None where none is known to be right.

    Args:
      operation: one of OPERATIONS. "brgconv:avx512_core" and the like: the algorithm and the instruction set.
    """
    chosen = _choose(operation, problem)
    return None if chosen is None else chosen.name


def call(operation: str, problem: Problem, left: Array, right: Array) -> Array:
    """Computes one of OPERATIONS: of (x, kernel), (cotangent, kernel) or (x, cotangent), as they are named.

    The operands are of `operand_dtypes`; the result is of the problem's type, a kernel's gradient float32.

    Raises:
      OneDNNError: where `implementation` is None.
    """
    with PREPARING:
        target = _register(operation, problem)
    x, kernel, y = problem.arrays
    result_shape = {"forward": y, "input_gradient": x, "kernel_gradient": kernel}[operation]
    result = jax.ShapeDtypeStruct(result_shape, result_dtype(operation, problem))
    return jax.ffi.ffi_call(target, result)(left, right)


def operand_dtypes(operation: str, problem: Problem) -> tuple[Any, Any]:
    """Returns the types of an operation's two operands."""
    images = jnp.dtype(problem.dtype)
    return images, images if operation == "kernel_gradient" else jnp.dtype(jnp.float32)


def result_dtype(operation: str, problem: Problem) -> Any:
    """Returns the type of an operation's result."""
    return jnp.dtype(jnp.float32) if operation == "kernel_gradient" else jnp.dtype(problem.dtype)


# --- which implementations are right ---------------------------------------------------------------------------------


_SWEPT = re.compile(
    r"(jit|jit_1x1|jit_dw|brgconv|brgconv_1x1|brgconv_strided|brgdgmm_dw|brg_fwd):(sse41|avx|avx2|avx512_core)"
    r"|x64:gemm:jit"
)
# In bfloat16, by AVX-512's products of pairs or by AMX's of tiles; right where `is_right` says so.
_SWEPT_BFLOAT16 = re.compile(
    r"(jit_bf16|jit_bf16_1x1|jit_dw|brdgmm_dw|brgconv|brgconv_1x1|brgconv_strided|brg_fwd):avx512_core_bf16"
    r"|(jit|brgconv|brgconv_1x1|brgconv_strided|brgconv_bwd_w|brg_fwd):avx512_core_amx"
)


def is_right(operation: str, problem: Problem, name: str) -> bool:
    """Returns whether the implementation of this name is known to be right for an operation of a problem."""
    known = _SWEPT_BFLOAT16 if problem.dtype == "bfloat16" else _SWEPT
    if not all(known.fullmatch(part) for part in name.split("+")):
        return False
    if problem.dtype == "bfloat16" and not _is_right_in_bfloat16(operation, problem, name):
        return False
    # Threads overwrite one another where channels do not fill the vectors: wrong sums in oneDNN 3.2, now and then.
    races = operation == "kernel_gradient" and name.startswith(("jit_1x1", "jit_bf16_1x1")) and problem.stride > 1
    return not (races and problem.kernel_shape[2] % 16)


def is_wrong_forward(name: str) -> bool:
    """Returns whether the implementation of this name was found wrong for convolutions and gradients of images.

    Sums of few channels are wrong, of 33 to 4 and of 12 to 9; in AMX's tiles the process ends.
    """
    return name.startswith(("jit_bf16_1x1:", "jit_1x1:avx512_core_amx"))


def _is_right_in_bfloat16(operation: str, problem: Problem, name: str) -> bool:
    height, width = problem.input_shape[1:3]
    if operation != "kernel_gradient":
        return not is_wrong_forward(name)
    if min(height, width) < problem.stride:  # what lies beside the images is summed too
        return False
    if name.startswith("jit_bf16:"):  # wrong where rows of the kernel see padding alone, and grouped and dilated
        return problem.padding <= height and problem.dilation == 1
    return name != "jit:avx512_core_amx"  # wrong where dilated; brgconv_bwd_w takes all that it does


def _choose(operation: str, problem: Problem) -> "Implementation | None":
    with PREPARING:
        return _first_right(operation, problem)


@functools.cache
def _first_right(operation: str, problem: Problem) -> "Implementation | None":
    right = (one for one in implementations(operation, problem) if is_right(operation, problem, one.name))
    return next(right, None)


# --- one convolution -------------------------------------------------------------------------------------------------


@functools.cache
def _register(operation: str, problem: Problem) -> str:
    """Returns the name of the custom call, which XLA knows from now on."""
    chosen = _first_right(operation, problem)
    if chosen is None:
        raise OneDNNError(f"no implementation is known to be right for the {operation} of {problem}")
    shapes = "_".join("x".join(map(str, shape)) for shape in (problem.input_shape, problem.kernel_shape))
    name = f"resnet_jax_onednn_{operation}_{shapes}_stride{problem.stride}_groups{problem.groups}"
    name += f"_dilation{problem.dilation}_{problem.dtype}"
    return register(name, chosen.prepare)


@dataclass(frozen=True)
class Implementation:
    """One of the ways in which oneDNN can compute an operation of a problem, and its name."""

    name: str
    operation: str
    layouts: "_Layouts"
    description: c.c_void_p

    def prepare(self) -> Kernel:
        """Returns a function of the addresses of the operands and of the result, which lie as the problem's shapes
        say.
        """
        library = open_library()
        assert library is not None
        x, kernel, y = (library.borrow(layout) for layout in (self.layouts.x, self.layouts.kernel, self.layouts.y))
        query = QUERY_DIFF_WEIGHTS if self.operation == "kernel_gradient" else QUERY_WEIGHTS
        blocked_layout = library.query_layout(self.description, query)
        blocked = library.allocate(blocked_layout)
        pack = library.reorder(self.layouts.kernel, blocked_layout), {SRC: kernel, DST: blocked}
        unpack = library.reorder(blocked_layout, self.layouts.kernel), {SRC: blocked, DST: kernel}
        operands, result, steps = {
            "forward": ((x, kernel), y, [pack, (self.description, {SRC: x, WEIGHTS: blocked, DST: y})]),
            "input_gradient": (
                (y, kernel), x, [pack, (self.description, {DIFF_DST: y, WEIGHTS: blocked, DIFF_SRC: x})],
            ),
            "kernel_gradient": (
                (x, y), kernel, [(self.description, {SRC: x, DIFF_DST: y, DIFF_WEIGHTS: blocked}), unpack],
            ),
        }[self.operation]  # fmt: skip
        primitives = [library.primitive(description, memories) for description, memories in steps]
        return library.kernel(primitives, (*operands, result))


class _Layouts(NamedTuple):
    x: c.c_void_p
    kernel: c.c_void_p
    y: c.c_void_p


def implementations(operation: str, problem: Problem) -> Iterator[Implementation]:
    """Yields oneDNN's implementations of an operation of a problem on this processor, the one that it prefers first.

    One is valid until the next is asked for.
    """
    library = open_library()
    assert library is not None
    dtype = DTYPES[problem.dtype]
    x, y = library.images(problem.input_shape, dtype), library.images(problem.output_shape, dtype)
    # oneDNN names the axes (groups,) F, C, k, k; strides say that ours lie as k, k, C, F.
    shape, strides = kernel_axes(problem.kernel_shape, problem.groups)
    kernel, blocked = library.layout(shape, strides), library.layout(shape, None, dtype)
    # oneDNN counts the pixels between those that the kernel meets.
    numbers = (problem.stride, problem.dilation - 1, problem.padding, problem.padding)
    geometry = [int64s((value, value)) for value in numbers]

    description = library.describe(
        "convolution_forward", c.c_int(FORWARD_TRAINING), c.c_int(DIRECT), x, blocked, None, y, *geometry
    )
    if operation == "input_gradient" and description:
        description = library.describe(
            "convolution_backward_data", c.c_int(DIRECT), x, blocked, y, *geometry, description
        )
    elif operation == "kernel_gradient" and description:
        description = library.describe(
            "convolution_backward_weights",
            c.c_int(DIRECT),
            x,
            library.layout(shape, None),
            None,
            y,
            *geometry,
            description,
        )
    while description:
        yield Implementation(library.query_name(description), operation, _Layouts(x, kernel, y), description)
        if not library.advance(description):
            return
