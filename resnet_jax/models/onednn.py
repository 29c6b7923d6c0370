"""oneDNN's float32 convolutions as XLA custom calls, through the library's C interface.

oneDNN (Apache-2.0, the library behind PyTorch's convolutions on the CPU) takes a third to a half of the time of XLA's
own. The package `onednn-cpu-gomp` brings it to x86-64 Linux as a plain shared library; elsewhere, or where it does not
load, `available()` is False and `resnet_jax.models.convolution` does without.

XLA calls a custom call through a C function, `handler(call_frame)`. That function is a ctypes callback here, which
reads the buffers' addresses and runs oneDNN primitives prepared for the shapes at hand: nothing is copied but the
kernel, into the blocked layout that oneDNN computes with. It holds the GIL for microseconds, not while oneDNN works.
"""

import ctypes as c
import functools
import importlib.metadata
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.ending import wait_at_exit

Array = jax.Array
Shape = tuple[int, ...]

PACKAGE = "onednn-cpu-gomp"


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


def available() -> bool:
    """Whether oneDNN is installed for this machine and loads."""
    return _library() is not None


def forward(x: Array, kernel: Array, problem: Problem) -> Array:
    """The convolution of `x` by `kernel`."""
    return _call("forward", problem, problem.output_shape)(x, kernel)


def input_gradient(cotangent: Array, kernel: Array, problem: Problem) -> Array:
    """The gradient by the input."""
    return _call("input_gradient", problem, problem.input_shape)(cotangent, kernel)


def kernel_gradient(x: Array, cotangent: Array, problem: Problem) -> Array:
    """The gradient by the kernel."""
    return _call("kernel_gradient", problem, problem.kernel_shape)(x, cotangent)


def _call(operation: str, problem: Problem, result_shape: Shape) -> Callable[..., Array]:
    with _registering:
        target = _register(operation, problem)
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(result_shape, jnp.float32))


# --- oneDNN's C interface (version 3) --------------------------------------------------------------------------------

_CPU, _IN_ORDER, _FLOAT32, _ANY_LAYOUT = 1, 1, 3, 1
_FORWARD_TRAINING, _DIRECT = 64, 1
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS = 131, 132
_SRC, _DST, _WEIGHTS, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 17, 33, 129, 145, 161


class _Argument(c.Structure):
    _fields_ = (("index", c.c_int), ("memory", c.c_void_p))


class OneDNNError(RuntimeError):
    """A function of oneDNN returned an error status."""


class _Library:
    """The shared library, its CPU engine and one stream. Objects made here live as long as the process."""

    def __init__(self) -> None:
        files = importlib.metadata.files(PACKAGE) or []
        path = next(file.locate() for file in files if file.name == "libdnnl.so.3")
        self._functions = c.CDLL(str(path))
        self.engine = self.create("engine", c.c_int(_CPU), c.c_size_t(0))
        self.stream = self.create("stream", self.engine, c.c_uint(_IN_ORDER))

    def check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._functions, f"dnnl_{function}")(*arguments)
        if status:
            raise OneDNNError(f"dnnl_{function} returned status {status}")

    def create(self, kind: str, *arguments: Any) -> c.c_void_p:
        """What `dnnl_<kind>_create` puts behind its first argument."""
        return self._out(f"{kind}_create", *arguments)

    def _out(self, function: str, *arguments: Any) -> c.c_void_p:
        result = c.c_void_p()
        self.check(function, c.byref(result), *arguments)
        return result

    def layout(self, shape: Sequence[int], strides: Sequence[int] | None) -> c.c_void_p:
        """A float32 memory descriptor; without strides in whatever layout oneDNN likes best."""
        arguments = (c.c_int(len(shape)), _int64s(shape), c.c_int(_FLOAT32))
        if strides is None:
            return self._out("memory_desc_create_with_tag", *arguments, c.c_int(_ANY_LAYOUT))
        return self._out("memory_desc_create_with_strides", *arguments, _int64s(strides))

    def query_layout(self, description: c.c_void_p, what: int) -> c.c_void_p:
        query = self._functions.dnnl_primitive_desc_query_md
        query.restype = c.c_void_p
        return c.c_void_p(query(description, c.c_int(what), c.c_int(0)))

    def allocate(self, layout: c.c_void_p) -> c.c_void_p:
        """Memory of its own."""
        return self.create("memory", layout, self.engine, c.c_void_p(-1))

    def borrow(self, layout: c.c_void_p) -> c.c_void_p:
        """Memory whose address `place` sets."""
        return self.create("memory", layout, self.engine, c.c_void_p(0))

    def place(self, memory: c.c_void_p, address: int) -> None:
        self.check("memory_set_data_handle", memory, c.c_void_p(address))

    def reorder(self, source: c.c_void_p, target: c.c_void_p) -> c.c_void_p:
        description = self.create("reorder_primitive_desc", source, self.engine, target, self.engine, None)
        return self.create("primitive", description)

    def execute(self, primitive: c.c_void_p, arguments: c.Array[_Argument]) -> None:
        self.check("primitive_execute", primitive, self.stream, c.c_int(len(arguments)), arguments)


@functools.cache
def _library() -> _Library | None:
    try:
        return _Library()
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError, OneDNNError):
        return None


def _int64s(values: Sequence[int]) -> c.Array[c.c_int64]:
    return (c.c_int64 * len(values))(*values)


# --- one convolution -------------------------------------------------------------------------------------------------

_Kernel = Callable[[Sequence[int], Sequence[int]], None]  # (addresses of the operands, of the results)
# One convolution at a time: each uses all cores, and its memory objects hold the addresses of the current call.
_running = threading.Lock()
_registering = threading.Lock()  # programs may be lowered by several threads; XLA takes each name once


@functools.cache
def _register(operation: str, problem: Problem) -> str:
    """The name of the custom call, which XLA knows from now on."""
    kernel = _prepare(operation, problem)
    shapes = "_".join("x".join(map(str, shape)) for shape in (problem.input_shape, problem.kernel_shape))
    name = f"resnet_jax_onednn_{operation}_{shapes}_stride{problem.stride}_groups{problem.groups}"
    name += f"_dilation{problem.dilation}"
    handler = _handler(kernel)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    _handlers.append(handler)
    wait_at_exit()
    return name


def _prepare(operation: str, problem: Problem) -> _Kernel:
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

    description = library.create(
        "convolution_forward_primitive_desc", library.engine, c.c_int(_FORWARD_TRAINING), c.c_int(_DIRECT),
        x, blocked, None, y, *geometry, None,
    )  # fmt: skip
    x_memory, kernel_memory, y_memory = library.borrow(x), library.borrow(kernel), library.borrow(y)
    query = _QUERY_WEIGHTS
    if operation == "input_gradient":
        description = library.create(
            "convolution_backward_data_primitive_desc", library.engine, c.c_int(_DIRECT),
            x, blocked, y, *geometry, description, None,
        )  # fmt: skip
    elif operation == "kernel_gradient":
        description = library.create(
            "convolution_backward_weights_primitive_desc", library.engine, c.c_int(_DIRECT),
            x, blocked, None, y, *geometry, description, None,
        )  # fmt: skip
        query = _QUERY_DIFF_WEIGHTS
    blocked = library.query_layout(description, query)
    blocked_memory = library.allocate(blocked)
    convolution = library.create("primitive", description)

    pack = (library.reorder(kernel, blocked), _arguments({_SRC: kernel_memory, _DST: blocked_memory}))
    if operation == "forward":
        steps = [pack, (convolution, _arguments({_SRC: x_memory, _WEIGHTS: blocked_memory, _DST: y_memory}))]
        operands, result = (x_memory, kernel_memory), y_memory
    elif operation == "input_gradient":
        steps = [pack, (convolution, _arguments({_DIFF_DST: y_memory, _WEIGHTS: blocked_memory, _DIFF_SRC: x_memory}))]
        operands, result = (y_memory, kernel_memory), x_memory
    else:
        unpack = (library.reorder(blocked, kernel), _arguments({_SRC: blocked_memory, _DST: kernel_memory}))
        steps = [
            (convolution, _arguments({_SRC: x_memory, _DIFF_DST: y_memory, _DIFF_WEIGHTS: blocked_memory})), unpack,
        ]  # fmt: skip
        operands, result = (x_memory, y_memory), kernel_memory

    def run(operand_addresses: Sequence[int], result_addresses: Sequence[int]) -> None:
        with _running:
            for memory, address in zip((*operands, result), (*operand_addresses, *result_addresses), strict=True):
                library.place(memory, address)
            for primitive, arguments in steps:
                library.execute(primitive, arguments)
            library.check("stream_wait", library.stream)

    return run


def _arguments(memories: dict[int, c.c_void_p]) -> c.Array[_Argument]:
    return (_Argument * len(memories))(*(_Argument(index, memory) for index, memory in memories.items()))


# --- XLA's foreign function interface --------------------------------------------------------------------------------
# The structures of xla/ffi/api/c_api.h, as far as they are read here.


class _Buffer(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("dtype", c.c_int), ("data", c.c_void_p),
        ("rank", c.c_int64), ("dims", c.c_void_p),
    )  # fmt: skip


class _Buffers(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("size", c.c_int64), ("types", c.c_void_p),
        ("buffers", c.POINTER(c.POINTER(_Buffer))),
    )  # fmt: skip

    def addresses(self) -> list[int]:
        return [self.buffers[i].contents.data for i in range(self.size)]


class _Version(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("extension", c.c_void_p), ("major", c.c_int), ("minor", c.c_int))


class _Metadata(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("version", _Version), ("traits", c.c_uint32))


class _MetadataExtension(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("type", c.c_int), ("next", c.c_void_p), ("metadata", c.POINTER(_Metadata)),
    )  # fmt: skip


class _ErrorArguments(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("extension", c.c_void_p), ("message", c.c_char_p), ("code", c.c_int))


_CREATE_ERROR = c.CFUNCTYPE(c.c_void_p, c.POINTER(_ErrorArguments))


class _Api(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("version", _Version), ("internal", c.c_void_p),
        ("create_error", _CREATE_ERROR),
    )  # fmt: skip


class _CallFrame(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.POINTER(_MetadataExtension)), ("api", c.POINTER(_Api)),
        ("context", c.c_void_p), ("stage", c.c_int), ("operands", _Buffers), ("results", _Buffers),
    )  # fmt: skip


_HANDLER = c.CFUNCTYPE(c.c_void_p, c.POINTER(_CallFrame))
_FFI_VERSION = (0, 3)  # of the structures above; XLA refuses a registration that it does not understand
_INTERNAL_ERROR = 13
_handlers: list[Any] = []  # ctypes callbacks must outlive their registration


def _handler(kernel: _Kernel) -> Any:
    """`kernel` as an XLA FFI handler: returns NULL, or an error that fails the execution."""

    def handle(frame_pointer: Any) -> int | None:
        frame = frame_pointer.contents
        if frame.extension:  # XLA asks for the handler's metadata
            metadata = frame.extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = _FFI_VERSION
            metadata.traits = 0
            return None
        try:
            kernel(frame.operands.addresses(), frame.results.addresses())
        except Exception as error:  # an exception must not be lost in C: the results would be garbage
            arguments = _ErrorArguments(c.sizeof(_ErrorArguments), None, str(error).encode(), _INTERNAL_ERROR)
            return frame.api.contents.create_error(c.byref(arguments))
        return None

    return _HANDLER(handle)
