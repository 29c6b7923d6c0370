"""oneDNN's float32 convolutions as XLA custom calls, through the library's C interface.

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
import importlib.metadata
import mmap
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.ops.exit_wait import wait_at_exit
from resnet_jax.ops.xla_ffi import Kernel, make_handler

Array = jax.Array
Shape = tuple[int, ...]

PACKAGE = "onednn-cpu-gomp"
MIN_SCRATCHPAD_BYTES = 1 << 20
OPERATIONS = ("forward", "input_gradient", "kernel_gradient")


@dataclass(frozen=True)
class Problem:
    """The shapes of a convolution padded by k // 2 * dilation: input (B, H, W, C), kernel (k, k, C / groups, F)."""

    input_shape: Shape
    kernel_shape: Shape
    stride: int
    groups: int
    dilation: int = 1

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
    return _library() is not None


def implementation(operation: str, problem: Problem) -> str | None:
    """Returns the name of the code that computes this here, None where none is known to be right.

    Args:
      operation: one of OPERATIONS. "brgconv:avx512_core" and the like: the algorithm and the instruction set.
    """
    chosen = _choose(operation, problem)
    return None if chosen is None else chosen.name


def call(operation: str, problem: Problem, left: Array, right: Array) -> Array:
    """Computes one of OPERATIONS, float32: of (x, kernel), (cotangent, kernel) or (x, cotangent), as they are named.

    Raises:
      OneDNNError: where `implementation` is None.
    """
    with _preparing:
        target = _register(operation, problem)
    x, kernel, y = problem.arrays
    result_shape = {"forward": y, "input_gradient": x, "kernel_gradient": kernel}[operation]
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(result_shape, jnp.float32))(left, right)


# --- which implementations are right ---------------------------------------------------------------------------------


_SWEPT = re.compile(
    r"(jit|jit_1x1|jit_dw|brgconv|brgconv_1x1|brgconv_strided|brgdgmm_dw|brg_fwd):(sse41|avx|avx2|avx512_core)"
    r"|x64:gemm:jit"
)


def is_right(operation: str, problem: Problem, name: str) -> bool:
    """Returns whether the implementation of this name is known to be right for an operation of a problem."""
    if not all(_SWEPT.fullmatch(part) for part in name.split("+")):
        return False
    # Threads overwrite one another where channels do not fill the vectors: wrong sums in oneDNN 3.2, now and then.
    races = operation == "kernel_gradient" and name.startswith("jit_1x1") and problem.stride > 1
    return not (races and problem.kernel_shape[2] % 16)


def _choose(operation: str, problem: Problem) -> "Implementation | None":
    with _preparing:
        return _first_right(operation, problem)


@functools.cache
def _first_right(operation: str, problem: Problem) -> "Implementation | None":
    right = (one for one in implementations(operation, problem) if is_right(operation, problem, one.name))
    return next(right, None)


# --- oneDNN's C interface (version 3) --------------------------------------------------------------------------------

_CPU, _IN_ORDER, _FLOAT32, _ANY_LAYOUT = 1, 1, 3, 1
_FORWARD_TRAINING, _DIRECT = 64, 1
_USER_SCRATCHPAD = 1
_QUERY_NAME, _QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS, _QUERY_SCRATCHPAD = 8, 131, 132, 136
_SRC, _DST, _WEIGHTS, _SCRATCHPAD, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 17, 33, 80, 129, 145, 161
_UNIMPLEMENTED, _LAST_IMPLEMENTATION = 3, 4


class _Argument(c.Structure):
    _fields_ = (("index", c.c_int), ("memory", c.c_void_p))


class OneDNNError(RuntimeError):
    """A function of oneDNN returned an error status."""


class _Library:
    """The shared library, its CPU engine and one stream.

    Objects made here live as long as the process.

    Programs are lowered in one thread and run in others. Left to itself oneDNN keeps scratchpads by thread, and some of
    its implementations then write to none; so every primitive gets its scratchpad from us ("user" mode), the same
    memory for all, as one runs at a time.
    """

    def __init__(self) -> None:
        files = importlib.metadata.files(PACKAGE) or []
        path = next(file.locate() for file in files if file.name == "libdnnl.so.3")
        self._functions = c.CDLL(str(path))
        self._functions.dnnl_primitive_desc_query_md.restype = c.c_void_p
        self._functions.dnnl_memory_desc_get_size.restype = c.c_size_t
        self.engine = self.create("engine", c.c_int(_CPU), c.c_size_t(0))
        self.stream = self.create("stream", self.engine, c.c_uint(_IN_ORDER))
        self.attributes = self.create("primitive_attr")
        self.check("primitive_attr_set_scratchpad_mode", self.attributes, c.c_int(_USER_SCRATCHPAD))
        self._scratchpad = _anonymous_memory(MIN_SCRATCHPAD_BYTES)

    def call(self, function: str, *arguments: Any) -> int:
        """Calls `dnnl_<function>` and returns what it returns."""
        return getattr(self._functions, f"dnnl_{function}")(*arguments)

    def check(self, function: str, *arguments: Any, unless: int = 0) -> bool:
        """Calls `dnnl_<function>`; returns False if its status is `unless`.

        Raises:
          OneDNNError: for any other error.
        """
        status = self.call(function, *arguments)
        if status not in (0, unless):
            raise OneDNNError(f"dnnl_{function} returned status {status}")
        return status == 0

    def create(self, kind: str, *arguments: Any) -> c.c_void_p:
        """Returns what `dnnl_<kind>_create` puts behind its first argument."""
        return self._out(f"{kind}_create", *arguments)

    def _out(self, function: str, *arguments: Any) -> c.c_void_p:
        result = c.c_void_p()
        self.check(function, c.byref(result), *arguments)
        return result

    def layout(self, shape: Sequence[int], strides: Sequence[int] | None) -> c.c_void_p:
        """Returns a float32 memory descriptor; without strides in whatever layout oneDNN likes best."""
        arguments = (c.c_int(len(shape)), _int64s(shape), c.c_int(_FLOAT32))
        if strides is None:
            return self._out("memory_desc_create_with_tag", *arguments, c.c_int(_ANY_LAYOUT))
        return self._out("memory_desc_create_with_strides", *arguments, _int64s(strides))

    def describe(self, kind: str, *arguments: Any) -> c.c_void_p | None:
        """Returns the description of a primitive as the preferred implementation computes it; None if none can."""
        result = c.c_void_p()
        arguments = (c.byref(result), self.engine, *arguments, self.attributes)
        return result if self.check(f"{kind}_primitive_desc_create", *arguments, unless=_UNIMPLEMENTED) else None

    def advance(self, description: c.c_void_p) -> bool:
        """Makes a description that of the next implementation; False if there is none."""
        return self.check("primitive_desc_next_impl", description, unless=_LAST_IMPLEMENTATION)

    def query_layout(self, description: c.c_void_p, what: int) -> c.c_void_p:
        return c.c_void_p(self.call("primitive_desc_query_md", description, c.c_int(what), c.c_int(0)))

    def query_name(self, description: c.c_void_p) -> str:
        """Returns oneDNN's name of the implementation."""
        name = c.c_char_p()
        self.check("primitive_desc_query", description, c.c_int(_QUERY_NAME), c.c_int(0), c.byref(name))
        return (name.value or b"").decode()

    def allocate(self, layout: c.c_void_p) -> c.c_void_p:
        """Returns the memory of its own."""
        return self.create("memory", layout, self.engine, c.c_void_p(-1))

    def borrow(self, layout: c.c_void_p) -> c.c_void_p:
        """Returns the memory whose address `place` sets."""
        return self.create("memory", layout, self.engine, c.c_void_p(0))

    def place(self, memory: c.c_void_p, address: int) -> None:
        self.check("memory_set_data_handle", memory, c.c_void_p(address))

    def reorder(self, source: c.c_void_p, target: c.c_void_p) -> c.c_void_p:
        """Returns the description of a copy from one layout into another."""
        return self.create("reorder_primitive_desc", source, self.engine, target, self.engine, self.attributes)

    def primitive(self, description: c.c_void_p, memories: dict[int, c.c_void_p]) -> Callable[[], None]:
        """Returns a function that runs what is described on these memories; one at a time may run."""
        primitive = self.create("primitive", description)
        layout = self.query_layout(description, _QUERY_SCRATCHPAD)
        num_bytes = self.call("memory_desc_get_size", layout)
        if num_bytes:
            memories = {**memories, _SCRATCHPAD: self.borrow(layout)}
        arguments = (_Argument * len(memories))(*(_Argument(index, memory) for index, memory in memories.items()))

        def run() -> None:
            if num_bytes:
                self.place(memories[_SCRATCHPAD], self.scratchpad_of(num_bytes))
            self.check("primitive_execute", primitive, self.stream, c.c_int(len(arguments)), arguments)

        return run

    def scratchpad_of(self, num_bytes: int) -> int:
        """Returns the address of so many bytes, page-aligned."""
        if len(self._scratchpad) < num_bytes:
            self._scratchpad = _anonymous_memory(num_bytes)
        return c.addressof(c.c_char.from_buffer(self._scratchpad))


def fill_scratchpad(value: int) -> None:
    """Sets each byte of the primitives' common memory: none may depend on what is there."""
    library = _library()
    assert library is not None
    with _running:
        c.memset(library.scratchpad_of(0), value, len(library._scratchpad))


def _anonymous_memory(num_bytes: int) -> mmap.mmap:
    """Allocates whole pages, which a forked process does not share."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _library() -> _Library | None:
    with _preparing:
        return _load_library()


@functools.cache
def _load_library() -> _Library | None:
    try:
        return _Library()
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError, OneDNNError):
        return None


def _int64s(values: Sequence[int]) -> c.Array[c.c_int64]:
    return (c.c_int64 * len(values))(*values)


# --- one convolution -------------------------------------------------------------------------------------------------

# One convolution at a time: each uses all cores, and its memory objects hold the addresses of the current call.
_running = threading.Lock()
# Programs may be lowered by several threads: there is one library, and XLA takes each name once.
_preparing = threading.RLock()
_handlers: list[Any] = []  # ctypes callbacks must outlive their registration


@functools.cache
def _register(operation: str, problem: Problem) -> str:
    """Returns the name of the custom call, which XLA knows from now on."""
    chosen = _first_right(operation, problem)
    if chosen is None:
        raise OneDNNError(f"no implementation is known to be right for the {operation} of {problem}")
    shapes = "_".join("x".join(map(str, shape)) for shape in (problem.input_shape, problem.kernel_shape))
    name = f"resnet_jax_onednn_{operation}_{shapes}_stride{problem.stride}_groups{problem.groups}"
    name += f"_dilation{problem.dilation}"
    handler = make_handler(chosen.prepare())
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    _handlers.append(handler)
    wait_at_exit()
    return name


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
        library = _library()
        assert library is not None
        x, kernel, y = (library.borrow(layout) for layout in (self.layouts.x, self.layouts.kernel, self.layouts.y))
        query = _QUERY_DIFF_WEIGHTS if self.operation == "kernel_gradient" else _QUERY_WEIGHTS
        blocked_layout = library.query_layout(self.description, query)
        blocked = library.allocate(blocked_layout)
        pack = library.reorder(self.layouts.kernel, blocked_layout), {_SRC: kernel, _DST: blocked}
        unpack = library.reorder(blocked_layout, self.layouts.kernel), {_SRC: blocked, _DST: kernel}
        operands, result, steps = {
            "forward": ((x, kernel), y, [pack, (self.description, {_SRC: x, _WEIGHTS: blocked, _DST: y})]),
            "input_gradient": (
                (y, kernel), x, [pack, (self.description, {_DIFF_DST: y, _WEIGHTS: blocked, _DIFF_SRC: x})],
            ),
            "kernel_gradient": (
                (x, y), kernel, [(self.description, {_SRC: x, _DIFF_DST: y, _DIFF_WEIGHTS: blocked}), unpack],
            ),
        }[self.operation]  # fmt: skip
        primitives = [library.primitive(description, memories) for description, memories in steps]

        def run(operand_addresses: Sequence[int], result_addresses: Sequence[int]) -> None:
            with _running:
                for memory, address in zip((*operands, result), (*operand_addresses, *result_addresses), strict=True):
                    library.place(memory, address)
                for primitive in primitives:
                    primitive()
                library.check("stream_wait", library.stream)

        return run


class _Layouts(NamedTuple):
    x: c.c_void_p
    kernel: c.c_void_p
    y: c.c_void_p


def implementations(operation: str, problem: Problem) -> Iterator[Implementation]:
    """Yields oneDNN's implementations of an operation of a problem on this processor, the one that it prefers first.

    One is valid until the next is asked for.
    """
    library = _library()
    assert library is not None
    batch, height, width, channels = problem.input_shape
    _, out_height, out_width, features = problem.output_shape
    size, groups = problem.kernel_shape[0], problem.groups
    channels_per_group = problem.kernel_shape[2]

    # oneDNN names the axes B, C, H, W and (groups,) F, C, k, k; strides say that ours lie as B, H, W, C and k, k, C, F.
    x = library.layout((batch, channels, height, width), (height * width * channels, 1, width * channels, channels))
    y = library.layout(
        (batch, features, out_height, out_width), (out_height * out_width * features, 1, out_width * features, features)
    )
    shape, strides = [features, channels_per_group, size, size], [
        1, features, size * channels_per_group * features, channels_per_group * features,
    ]  # fmt: skip
    if groups > 1:
        shape, strides = [groups, features // groups, *shape[1:]], [features // groups, *strides]
    kernel, blocked = library.layout(shape, strides), library.layout(shape, None)
    # oneDNN counts the pixels between those that the kernel meets.
    numbers = (problem.stride, problem.dilation - 1, problem.padding, problem.padding)
    geometry = [_int64s((value, value)) for value in numbers]

    description = library.describe(
        "convolution_forward", c.c_int(_FORWARD_TRAINING), c.c_int(_DIRECT), x, blocked, None, y, *geometry
    )
    if operation == "input_gradient" and description:
        description = library.describe(
            "convolution_backward_data", c.c_int(_DIRECT), x, blocked, y, *geometry, description
        )
    elif operation == "kernel_gradient" and description:
        description = library.describe(
            "convolution_backward_weights", c.c_int(_DIRECT), x, blocked, None, y, *geometry, description
        )
    while description:
        yield Implementation(library.query_name(description), operation, _Layouts(x, kernel, y), description)
        if not library.advance(description):
            return
