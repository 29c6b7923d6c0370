"""oneDNN's C interface, version 3, as far as its convolutions need it: the shared library, its objects and calls."""

import ctypes as c
import functools
import importlib.metadata
import mmap
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

PACKAGE = "onednn-cpu-gomp"
# One convolution at a time: each uses all cores, and its memory objects hold the addresses of the current call.
RUNNING = threading.Lock()
# Programs may be lowered by several threads: there is one library, and XLA takes each name once.
PREPARING = threading.RLock()
MIN_SCRATCHPAD_BYTES = 1 << 20


CPU, IN_ORDER, ANY_LAYOUT = 1, 1, 1
BFLOAT16, FLOAT32 = 2, 3
DTYPES = {"float32": FLOAT32, "bfloat16": BFLOAT16}
FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD, DIRECT = 64, 96, 128, 1
MAX_POOLING, AVERAGE_WITH_PADDING, AVERAGE_WITHOUT_PADDING = 0x1FF, 0x2FF, 0x3FF
RELU, LOGISTIC, SWISH = 0x20, 0x29, 0x2C
ADD, MULTIPLY = 0x1FFF0, 0x1FFF1
GIVEN_STATISTICS, WITH_SCALE, WITH_SHIFT, WITH_RELU = 1, 2, 4, 8
USER_SCRATCHPAD = 1
QUERY_NAME, QUERY_SRC, QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_DST, QUERY_WORKSPACE, QUERY_SCRATCHPAD = (
    8, 129, 131, 132, 133, 135, 136,
)  # fmt: skip
SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
WORKSPACE, SCRATCHPAD, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_SCALE, DIFF_SHIFT = 64, 80, 129, 145, 161, 255, 256
UNIMPLEMENTED, LAST_IMPLEMENTATION = 3, 4


class _Argument(c.Structure):
    _fields_ = (("index", c.c_int), ("memory", c.c_void_p))


class OneDNNError(RuntimeError):
    """A function of oneDNN returned an error status."""


class Library:
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
        self.engine = self.create("engine", c.c_int(CPU), c.c_size_t(0))
        self.stream = self.create("stream", self.engine, c.c_uint(IN_ORDER))
        self.attributes = self.make_attributes()
        self._scratchpad = _anonymous_memory(MIN_SCRATCHPAD_BYTES)

    def call(self, function: str, *arguments: Any) -> int:
        """Calls `dnnl_<function>` and returns its result."""
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
        """Returns the object that `dnnl_<kind>_create` puts behind its first argument."""
        return self._out(f"{kind}_create", *arguments)

    def _out(self, function: str, *arguments: Any) -> c.c_void_p:
        result = c.c_void_p()
        self.check(function, c.byref(result), *arguments)
        return result

    def make_attributes(self, *, adds: bool = False, activates: bool = False) -> c.c_void_p:
        """Returns a primitive's attributes: its result is added to what lies in its place, then passes a ReLU."""
        attributes = self.create("primitive_attr")
        self.check("primitive_attr_set_scratchpad_mode", attributes, c.c_int(USER_SCRATCHPAD))
        if adds or activates:
            afterwards = self.create("post_ops")
            if adds:
                self.check("post_ops_append_sum", afterwards, c.c_float(1.0), c.c_int(0), c.c_int(0))
            if activates:
                self.check("post_ops_append_eltwise", afterwards, c.c_int(RELU), c.c_float(0.0), c.c_float(0.0))
            self.check("primitive_attr_set_post_ops", attributes, afterwards)
        return attributes

    def layout(self, shape: Sequence[int], strides: Sequence[int] | None, dtype: int = FLOAT32) -> c.c_void_p:
        """Returns a memory descriptor; without strides in whatever layout oneDNN likes best."""
        arguments = (c.c_int(len(shape)), int64s(shape), c.c_int(dtype))
        if strides is None:
            return self._out("memory_desc_create_with_tag", *arguments, c.c_int(ANY_LAYOUT))
        return self._out("memory_desc_create_with_strides", *arguments, int64s(strides))

    def images(self, shape: Sequence[int], dtype: int) -> c.c_void_p:
        """Returns the memory descriptor of images that lie as (B, H, W, C); oneDNN names the axes B, C, H, W."""
        batch, height, width, channels = shape
        strides = (height * width * channels, 1, width * channels, channels)
        return self.layout((batch, channels, height, width), strides, dtype)

    def describe(self, kind: str, *arguments: Any, attributes: c.c_void_p | None = None) -> c.c_void_p | None:
        """Returns the description of a primitive as the preferred implementation computes it; None if none can."""
        result = c.c_void_p()
        arguments = (c.byref(result), self.engine, *arguments, attributes or self.attributes)
        return result if self.check(f"{kind}_primitive_desc_create", *arguments, unless=UNIMPLEMENTED) else None

    def advance(self, description: c.c_void_p) -> bool:
        """Moves a description on to the next implementation; returns False if there is none."""
        return self.check("primitive_desc_next_impl", description, unless=LAST_IMPLEMENTATION)

    def query_layout(self, description: c.c_void_p, what: int, index: int = 0) -> c.c_void_p:
        """Returns the memory descriptor of one of a primitive's arrays, by one of the QUERY_ numbers."""
        return c.c_void_p(self.call("primitive_desc_query_md", description, c.c_int(what), c.c_int(index)))

    def num_bytes(self, layout: c.c_void_p) -> int:
        """Returns how many bytes an array takes."""
        return self.call("memory_desc_get_size", layout)

    def same_layout(self, one: c.c_void_p, other: c.c_void_p) -> bool:
        """Returns whether two memory descriptors say the same."""
        return bool(self.call("memory_desc_equal", one, other))

    def query_name(self, description: c.c_void_p) -> str:
        """Returns oneDNN's name of the implementation."""
        name = c.c_char_p()
        self.check("primitive_desc_query", description, c.c_int(QUERY_NAME), c.c_int(0), c.byref(name))
        return (name.value or b"").decode()

    def allocate(self, layout: c.c_void_p) -> c.c_void_p:
        """Returns memory that the library allocates."""
        return self.create("memory", layout, self.engine, c.c_void_p(-1))

    def borrow(self, layout: c.c_void_p) -> c.c_void_p:
        """Returns the memory whose address `place` sets."""
        return self.create("memory", layout, self.engine, c.c_void_p(0))

    def place(self, memory: c.c_void_p, address: int) -> None:
        """Sets where borrowed memory lies."""
        self.check("memory_set_data_handle", memory, c.c_void_p(address))

    def run(
        self, primitives: Iterable[Callable[[], None]], memories: Iterable[c.c_void_p], addresses: Iterable[int]
    ) -> None:
        """Runs primitives in a row, with borrowed memories at these addresses, and waits for the last."""
        with RUNNING:
            for memory, address in zip(memories, addresses, strict=True):
                self.place(memory, address)
            for primitive in primitives:
                primitive()
            self.check("stream_wait", self.stream)

    def kernel(
        self, primitives: Sequence[Callable[[], None]], memories: Sequence[c.c_void_p]
    ) -> Callable[[Sequence[int], Sequence[int]], None]:
        """Returns `run` as a function of the addresses of operands and results, which `memories` are in this order."""
        return lambda operands, results: self.run(primitives, memories, (*operands, *results))

    def reorder(self, source: c.c_void_p, target: c.c_void_p) -> c.c_void_p:
        """Returns the description of a copy from one layout into another."""
        return self.create("reorder_primitive_desc", source, self.engine, target, self.engine, self.attributes)

    def primitive(self, description: c.c_void_p, memories: dict[int, c.c_void_p]) -> Callable[[], None]:
        """Returns a function that runs the primitive on these memories; one at a time may run."""
        primitive = self.create("primitive", description)
        layout = self.query_layout(description, QUERY_SCRATCHPAD)
        num_bytes = self.num_bytes(layout)
        if num_bytes:
            memories = {**memories, SCRATCHPAD: self.borrow(layout)}
        arguments = (_Argument * len(memories))(*(_Argument(index, memory) for index, memory in memories.items()))

        def run() -> None:
            if num_bytes:
                self.place(memories[SCRATCHPAD], self.scratchpad_of(num_bytes))
            self.check("primitive_execute", primitive, self.stream, c.c_int(len(arguments)), arguments)

        return run

    def scratchpad_of(self, num_bytes: int) -> int:
        """Returns the address of so many bytes, page-aligned."""
        if len(self._scratchpad) < num_bytes:
            self._scratchpad = _anonymous_memory(num_bytes)
        return c.addressof(c.c_char.from_buffer(self._scratchpad))


def fill_scratchpad(value: int) -> None:
    """Sets each byte of the primitives' common memory: none may depend on its content."""
    library = open_library()
    assert library is not None
    with RUNNING:
        c.memset(library.scratchpad_of(0), value, len(library._scratchpad))


def _anonymous_memory(num_bytes: int) -> mmap.mmap:
    """Allocates whole pages, which a forked process does not share."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def open_library() -> Library | None:
    """Returns the library, loaded once; None where it is not installed, or does not load."""
    with PREPARING:
        return _load_library()


@functools.cache
def _load_library() -> Library | None:
    try:
        return Library()
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError, OneDNNError):
        return None


def kernel_axes(kernel_shape: Sequence[int], groups: int) -> tuple[list[int], list[int]]:
    """Returns shape and strides of a kernel (k, k, C / groups, F) by oneDNN's axes: (groups,) F, C, k, k."""
    rows, columns, channels, features = kernel_shape
    shape = [features, channels, rows, columns]
    strides = [1, features, columns * channels * features, channels * features]
    if groups == 1:
        return shape, strides
    return [groups, features // groups, *shape[1:]], [features // groups, *strides]


def int64s(values: Sequence[int]) -> c.Array[c.c_int64]:
    """Returns the numbers as a C array."""
    return (c.c_int64 * len(values))(*values)
