"""NumPy's arrays in a pickle, as data: shape, dtype and bytes are taken, and nothing is called by name."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnet_jax.errors import truncate
from resnet_jax.weights.lazy_tensor import MAX_NDIM, ArrayTensor, Unreadable
from resnet_jax.weights.torch.safe_unpickler import Buildable, Functions

# By NumPy's codes. Arrays of others are no weights.
DTYPE_CODES = {
    "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1",
}  # fmt: skip
BYTE_ORDERS = {"<": "<", ">": ">", "|": "|", "=": "<"}


@dataclass(frozen=True, slots=True)
class PickledDtype(Buildable):
    """A dtype's code, and the order of its bytes, once it has its state."""

    code: str
    order: list[str] = field(default_factory=list)

    def set_state(self, state: Any) -> None:
        """Takes (version, order of bytes, ...)."""
        if not isinstance(state, tuple) or len(state) < 2 or not isinstance(state[1], str):
            raise ValueError("a dtype has a state that NumPy does not write")
        self.order[:] = [state[1]]

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype; None if it is not one of plain numbers."""
        order = BYTE_ORDERS.get(self.order[0] if self.order else "<")
        return np.dtype(order + self.code) if order and self.code in DTYPE_CODES else None


@dataclass(frozen=True, slots=True)
class PickledArray(Buildable):
    """An array, once it has its state: one tensor, or the stand-in for one that is not read."""

    content: list[ArrayTensor | Unreadable] = field(default_factory=list)

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, dtype, in Fortran's order, bytes)."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ValueError("an array has a state that NumPy does not write")
        shape, dtype, fortran_order, data = state[-4:]
        self.content[:] = [_array(shape, dtype, bool(fortran_order), data)]

    def __hash__(self) -> int:
        """Returns its identity: the content may be anything."""
        return id(self)


def plain_tensor(value: Any) -> Any:
    """Returns the tensor that a pickled array is; anything else as it is."""
    if isinstance(value, PickledArray):
        return value.content[0] if value.content else Unreadable("an array without content")
    return value


def _array(shape: Any, dtype: Any, fortran_order: bool, data: Any) -> ArrayTensor | Unreadable:
    plain = dtype.dtype if isinstance(dtype, PickledDtype) else None
    if plain is None:
        what = truncate(dtype.code) if isinstance(dtype, PickledDtype) else "that is unknown"
        return Unreadable(f"a NumPy array of dtype {what}, which is not read")
    if isinstance(data, str):  # of Python 2, whose strings are bytes
        data = data.encode("latin1")
    if not isinstance(data, bytes):
        raise ValueError("an array has no bytes")
    if not isinstance(shape, tuple) or len(shape) > MAX_NDIM:
        raise ValueError(f"an array's shape is no tuple of at most {MAX_NDIM} numbers")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array's shape must be of integers >= 0")
    if math.prod(shape) * plain.itemsize != len(data):
        raise ValueError(f"an array of shape {truncate(shape)} has {len(data)} bytes")
    flat = np.frombuffer(data, plain)
    return ArrayTensor(flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape))


def _reconstruct(*_class_shape_and_code: Any) -> PickledArray:
    return PickledArray("a NumPy array without content")


def _dtype(code: Any, *_align_and_copy: Any) -> PickledDtype | Unreadable:
    if not isinstance(code, str):
        return Unreadable("a dtype of NumPy's")
    order, code = (code[0], code[1:]) if code[:1] in BYTE_ORDERS else ("", code)
    return PickledDtype("a dtype of NumPy's", code, [order] if order else [])


def _scalar(dtype: Any, data: Any = None) -> Any:
    if data is None:
        return Unreadable("a NumPy scalar")
    array = _array((), dtype, False, data)
    return array if isinstance(array, Unreadable) else array.array.item()


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, *_axes: Any) -> Any:
    """Returns what protocol 5 writes of an array."""
    return _array(shape, dtype, order == "F", buffer)


_MODULES = ("numpy.core", "numpy._core")  # before NumPy 2, and from it on
NUMPY_FUNCTIONS: Functions = {
    "numpy.dtype": _dtype,
    **{f"{module}.multiarray._reconstruct": _reconstruct for module in _MODULES},
    **{f"{module}.multiarray.scalar": _scalar for module in _MODULES},
    **{f"{module}.numeric._frombuffer": _from_buffer for module in _MODULES},
}
