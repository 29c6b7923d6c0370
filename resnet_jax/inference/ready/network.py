"""A traced network as oneDNN's primitives in a row: kernels packed once, activations in whatever layout comes next."""

import ctypes as c
import mmap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from resnet_jax.inference.ready.trace import Operation
from resnet_jax.ops.onednn import is_wrong_forward
from resnet_jax.ops.onednn_library import (
    ADD,
    AVERAGE_WITH_PADDING,
    AVERAGE_WITHOUT_PADDING,
    BIAS,
    DIRECT,
    DST,
    DTYPES,
    FLOAT32,
    FORWARD_INFERENCE,
    GIVEN_STATISTICS,
    LOGISTIC,
    MAX_POOLING,
    MEAN,
    MULTIPLY,
    PREPARING,
    QUERY_DST,
    QUERY_SRC,
    QUERY_WEIGHTS,
    RELU,
    SCALE,
    SHIFT,
    SRC,
    SRC_1,
    SWISH,
    VARIANCE,
    WEIGHTS,
    WITH_RELU,
    WITH_SCALE,
    WITH_SHIFT,
    Library,
    OneDNNError,
    int64s,
    kernel_axes,
    open_library,
)

ALIGNMENT = 64  # bytes


@dataclass(eq=False)
class _Slot:
    """An array in memory: a weight with its content, or an activation for as long as it is needed.

    Attributes:
      first, last: the numbers of the steps that write it first and read it last.
    """

    layout: c.c_void_p
    dtype: int
    content: np.ndarray | None = None
    first: int = -1
    last: int = -1
    address: int = 0


Step = tuple[c.c_void_p, dict[int, _Slot]]  # the description of a primitive, and its arrays by oneDNN's numbers


class ReadyNetwork:
    """Maps images (B, H, W, C) float32 to (B, K) float32 by a list of operations; one call at a time, on all cores.

    Its packed kernels and its activations are its own, and go with it; of oneDNN's descriptions of them a few kB stay.

    Raises:
      OneDNNError: where oneDNN is missing or has no implementation of an operation in `dtype`.
    """

    def __init__(self, operations: list[Operation], dtype: str = "float32") -> None:
        library = open_library()
        if library is None:
            raise OneDNNError("oneDNN is not installed, or does not load")
        with PREPARING:
            builder = _Builder(library, DTYPES[dtype])
            self._input, self._output = builder.build(operations)
            self._arena = builder.place_activations()
            self._kept = builder.constants  # whose memory the primitives read
            self._primitives = builder.primitives()
            self._memories = builder.borrowed(self._input), builder.borrowed(self._output)
        self._library = library
        self.input_shape = operations[0].shape
        batch, _, _, num_classes = operations[-1].shape
        self._output_shape = (batch, num_classes)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits (B, K) float32 of images of `input_shape`."""
        images = np.ascontiguousarray(images, np.float32)
        if images.shape != self.input_shape:
            raise ValueError(f"images.shape={images.shape} must be {self.input_shape}, for which the network was made")
        logits = np.empty(self._output_shape, np.float32)
        self.run(images.ctypes.data, logits.ctypes.data)
        return logits

    def run(self, images: int, logits: int) -> None:
        """Does the same by the addresses of the images and of the logits."""
        inputs, outputs = self._memories
        addresses = [images] * len(inputs) + [logits] * len(outputs)
        self._library.run(self._primitives, (*inputs, *outputs), addresses)


class _Builder:
    """Describes each operation's primitives, one after another, and where their arrays lie."""

    def __init__(self, library: Library, dtype: int) -> None:
        self._library, self._dtype = library, dtype
        self._steps: list[Step] = []
        self._values: list[_Slot] = []  # of the operations
        self._shapes: list[tuple[int, int, int, int]] = []  # of the operations, (B, C, H, W)
        self._copies: dict[tuple[int, int], list[_Slot]] = {}
        self._last_use: dict[int, int] = {}
        self.constants: list[np.ndarray] = []
        self._memories: dict[int, list[c.c_void_p]] = {}

    def build(self, operations: list[Operation]) -> tuple[_Slot, _Slot]:
        """Returns the arrays of the images and of the result."""
        self._shapes = [
            (batch, channels, height, width) for batch, height, width, channels in (o.shape for o in operations)
        ]
        self._last_use = {place: i for i, one in enumerate(operations) for place in one.operands}
        for place, operation in enumerate(operations):
            inputs = [self._values[i] for i in operation.inputs]
            make: Callable[..., _Slot] = getattr(self, f"_{operation.kind}")
            self._values.append(make(operation, place, *inputs))
        batch, _, _, channels = operations[-1].shape
        plain = self._library.layout((batch, channels, 1, 1), (channels, 1, 1, 1))
        result = _Slot(plain, FLOAT32)
        self._reorder(self._values[-1], result)
        return self._values[0], result

    # --- the operations ---

    def _input(self, operation: Operation, place: int) -> _Slot:
        del place
        return _Slot(self._library.images(operation.shape, FLOAT32), FLOAT32, first=0)

    def _conv(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        library, kernel = self._library, operation.kernel
        assert kernel is not None
        batch, height, width, features = operation.shape
        dtype = FLOAT32 if (height, width) == (1, 1) and x.dtype == FLOAT32 else self._dtype
        shape, strides = kernel_axes(kernel.shape, operation.groups)
        source = self._shapes[operation.inputs[0]]
        added = None if operation.added is None else self._as(dtype, operation.added)
        attributes = library.make_attributes(adds=added is not None, activates=operation.activated)
        (top, bottom), (left, right) = operation.padding
        bias = None if operation.bias is None else library.layout((features,), (1,))
        description = library.describe(
            "convolution_forward", c.c_int(FORWARD_INFERENCE), c.c_int(DIRECT),
            library.layout(source, None, dtype), library.layout(shape, None, dtype), bias,
            library.layout((batch, features, height, width), None, dtype) if added is None else added.layout,
            int64s(operation.strides), int64s((operation.dilation - 1,) * 2), int64s((top, left)),
            int64s((bottom, right)), attributes=attributes,
        )  # fmt: skip
        description = self._described(description, operation)
        arrays = {
            SRC: self._in_layout(x, library.query_layout(description, QUERY_SRC), dtype),
            WEIGHTS: self._packed(
                kernel, library.layout(shape, strides), library.query_layout(description, QUERY_WEIGHTS)
            ),
        }
        if bias is not None and operation.bias is not None:
            arrays[BIAS] = self._constant(operation.bias, bias)
        if added is None:
            result = _Slot(library.query_layout(description, QUERY_DST), dtype)
        elif self._last_use[operation.added or 0] == place and added is not self._values[0]:
            result = added  # its place is taken: nobody reads it any more
        else:
            result = _Slot(added.layout, dtype)
            self._reorder(added, result)
        arrays[DST] = result
        self._append(description, arrays)
        return result

    def _max_pool(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        return self._pool(operation, MAX_POOLING, x)

    def _average_pool(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        kind = AVERAGE_WITH_PADDING if operation.counts_padding else AVERAGE_WITHOUT_PADDING
        return self._pool(operation, kind, x)

    def _mean(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        return self._pool(operation, AVERAGE_WITH_PADDING, self._as(FLOAT32, operation.inputs[0]))

    def _pool(self, operation: Operation, kind: int, x: _Slot) -> _Slot:
        batch, height, width, channels = operation.shape
        library = self._library
        (top, bottom), (left, right) = operation.padding
        description = library.describe(
            "pooling_forward", c.c_int(FORWARD_INFERENCE), c.c_int(kind), x.layout,
            library.layout((batch, channels, height, width), None, x.dtype), int64s(operation.strides),
            int64s(operation.window), int64s((0, 0)), int64s((top, left)), int64s((bottom, right)),
        )  # fmt: skip
        return self._result(self._described(description, operation), {SRC: x}, x.dtype)

    def _affine(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        assert operation.factor is not None
        assert operation.bias is not None
        flags = GIVEN_STATISTICS | WITH_SCALE | WITH_SHIFT | (WITH_RELU if operation.activated else 0)
        description = self._library.describe(
            "batch_normalization_forward", c.c_int(FORWARD_INFERENCE), x.layout, x.layout, c.c_float(0.0),
            c.c_uint(flags),
        )  # fmt: skip
        channels = operation.shape[-1]
        numbers = (np.zeros(channels), np.ones(channels), operation.factor, operation.bias)
        names = (MEAN, VARIANCE, SCALE, SHIFT)
        layout = self._library.layout((channels,), (1,))
        arrays = {name: self._constant(one, layout) for name, one in zip(names, numbers, strict=True)}
        return self._result(self._described(description, operation), {SRC: x, **arrays}, x.dtype)

    def _relu(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        return self._elementwise(operation, RELU, 0.0, x)

    def _logistic(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        return self._elementwise(operation, LOGISTIC, 0.0, x)

    def _swish(self, operation: Operation, place: int, x: _Slot) -> _Slot:
        return self._elementwise(operation, SWISH, 1.0, x)

    def _elementwise(self, operation: Operation, kind: int, alpha: float, x: _Slot) -> _Slot:
        description = self._library.describe(
            "eltwise_forward", c.c_int(FORWARD_INFERENCE), c.c_int(kind), x.layout, x.layout, c.c_float(alpha),
            c.c_float(0.0),
        )  # fmt: skip
        return self._result(self._described(description, operation), {SRC: x}, x.dtype)

    def _add(self, operation: Operation, place: int, x: _Slot, y: _Slot) -> _Slot:
        return self._binary(operation, ADD, x, y)

    def _mul(self, operation: Operation, place: int, x: _Slot, y: _Slot) -> _Slot:
        return self._binary(operation, MULTIPLY, x, y)

    def _binary(self, operation: Operation, kind: int, x: _Slot, y: _Slot) -> _Slot:
        library = self._library
        second = library.layout(self._shapes[operation.inputs[1]], None, x.dtype)
        description = library.describe(
            "binary", c.c_int(kind), x.layout, second, x.layout,
            attributes=library.make_attributes(activates=operation.activated),
        )  # fmt: skip
        description = self._described(description, operation)
        other = self._in_layout(y, library.query_layout(description, QUERY_SRC, 1), x.dtype)
        return self._result(description, {SRC: x, SRC_1: other}, x.dtype)

    # --- arrays ---

    def _described(self, description: c.c_void_p | None, operation: Operation) -> c.c_void_p:
        if description is None:
            raise OneDNNError(f"oneDNN has no {operation.kind} of {operation.shape} here")
        while is_wrong_forward(self._library.query_name(description)):
            if not self._library.advance(description):
                raise OneDNNError(f"oneDNN has no {operation.kind} of {operation.shape} here that is right")
        return description

    def _result(self, description: c.c_void_p, arrays: dict[int, _Slot], dtype: int) -> _Slot:
        result = _Slot(self._library.query_layout(description, QUERY_DST), dtype)
        self._append(description, {**arrays, DST: result})
        return result

    def _as(self, dtype: int, place: int) -> _Slot:
        """Returns the array of an operation's result, in another type plain."""
        slot = self._values[place]
        if slot.dtype == dtype:
            return slot
        batch, channels, height, width = self._shapes[place]
        return self._in_layout(slot, self._library.images((batch, height, width, channels), dtype), dtype)

    def _in_layout(self, slot: _Slot, layout: c.c_void_p, dtype: int) -> _Slot:
        """Returns the same array in another layout; a copy is made once."""
        if self._library.same_layout(slot.layout, layout):
            return slot
        version = len([1 for _, arrays in self._steps if arrays.get(DST) is slot])  # it may have been added to since
        copies = self._copies.setdefault((id(slot), version), [])
        for copy in copies:
            if self._library.same_layout(copy.layout, layout):
                return copy
        copy = _Slot(layout, dtype)
        self._reorder(slot, copy)
        copies.append(copy)
        return copy

    def _reorder(self, source: _Slot, target: _Slot) -> None:
        self._append(self._library.reorder(source.layout, target.layout), {SRC: source, DST: target})

    def _constant(self, values: np.ndarray, layout: c.c_void_p) -> _Slot:
        content = _aligned(values.size * 4)
        content.view(np.float32)[: values.size] = values
        self.constants.append(content)
        return _Slot(layout, FLOAT32, content, address=content.ctypes.data)

    def _packed(self, kernel: np.ndarray, layout: c.c_void_p, packed_layout: c.c_void_p) -> _Slot:
        """Returns the kernel in the layout that a convolution reads it in."""
        library = self._library
        plain, packed = np.ascontiguousarray(kernel, np.float32), _aligned(library.num_bytes(packed_layout))
        memories = [library.borrow(layout), library.borrow(packed_layout)]
        run = library.primitive(library.reorder(layout, packed_layout), {SRC: memories[0], DST: memories[1]})
        library.run([run], memories, (plain.ctypes.data, packed.ctypes.data))
        self.constants.append(packed)
        return _Slot(packed_layout, self._dtype, packed, address=packed.ctypes.data)

    def _append(self, description: c.c_void_p, arrays: dict[int, _Slot]) -> None:
        step = len(self._steps)
        for slot in arrays.values():
            slot.first = step if slot.first < 0 else slot.first
            slot.last = step
        self._steps.append((description, arrays))

    # --- when all is described ---

    def place_activations(self) -> mmap.mmap:
        """Returns the memory of all activations; those that are not needed at the same time share it."""
        slots = {id(slot): slot for _, arrays in self._steps for slot in arrays.values()}
        outside = {id(self._values[0]), id(self._steps[-1][1][DST])}
        activations = [slot for key, slot in slots.items() if slot.content is None and key not in outside]
        sizes = {id(slot): -(-self._library.num_bytes(slot.layout) // ALIGNMENT) * ALIGNMENT for slot in activations}
        placed: list[tuple[int, _Slot]] = []  # by offset
        total = 0
        for slot in sorted(activations, key=lambda slot: -sizes[id(slot)]):
            offset = 0
            for start, other in placed:
                if other.first <= slot.last and slot.first <= other.last and start < offset + sizes[id(slot)]:
                    offset = max(offset, start + sizes[id(other)])
            placed.append((offset, slot))
            placed.sort(key=lambda one: one[0])
            total = max(total, offset + sizes[id(slot)])
        arena = mmap.mmap(-1, max(total, 1))
        start_address = c.addressof(c.c_char.from_buffer(arena))
        for offset, slot in placed:
            slot.address = start_address + offset
        return arena

    def primitives(self) -> list[Callable[[], None]]:
        """Returns the functions that run the steps, in order."""
        library, run = self._library, []
        for description, arrays in self._steps:
            memories = {}
            for number, slot in arrays.items():
                memories[number] = library.borrow(slot.layout)
                if slot.address:
                    library.place(memories[number], slot.address)
                else:
                    self._memories.setdefault(id(slot), []).append(memories[number])
            run.append(library.primitive(description, memories))
        return run

    def borrowed(self, slot: _Slot) -> list[c.c_void_p]:
        """Returns the memory objects of an array that lies elsewhere: the images, or the result."""
        return self._memories[id(slot)]


def _aligned(num_bytes: int) -> np.ndarray:
    """Returns so many bytes at an address that vectors like."""
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes]
