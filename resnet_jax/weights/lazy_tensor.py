"""Tensors that are still in their file: where their bytes are, and how to read only those."""

import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from resnet_jax.errors import UserError

CRC_PIECE_BYTES = 2**20
MAX_NDIM = 8
MAX_INT = 2**40  # of a size, stride or offset: far above any file, far below an overflow
# By torch's names. Each is little-endian, as both file formats are.
DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
# Numbers of 8 bits mean nothing without scales, which lie elsewhere.
FLOAT8 = "a tensor of dtype {}, which is not read without its scales (convert the file to bfloat16 first)"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in place of an object that is neither a strided tensor nor a plain container, number or string."""

    what: str  # as in "an object of class torchvision.models.resnet.ResNet"


@dataclass(frozen=True, slots=True, eq=False)
class PickledObject(Unreadable):
    """Stands for one object of a class.

    Attributes:
      state: of a torch module that was pickled whole, its parameters, buffers and modules, which are plain data; empty
        for others.
    """

    state: dict[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Returns whether both stand for objects of one class."""
        return isinstance(other, Unreadable) and self.what == other.what

    def __hash__(self) -> int:
        """Returns its identity: the state may hold anything."""
        return id(self)


@dataclass(slots=True)
class ByteRange:
    """`length` bytes of a file from `start` on, read when asked for."""

    path: Path
    start: int
    length: int
    crc32: int | None = None
    _checked: bool = field(default=False, init=False, repr=False, compare=False)

    def read(self, offset: int, count: int) -> bytes:
        """Returns the `count` bytes from `offset` on; the first read compares the whole range with its checksum.

        Raises:
          UserError: if the file is damaged, or shorter than it was.
        """
        if min(offset, count) < 0 or offset + count > self.length:
            raise ValueError(f"offset={offset} count={count} must lie within length={self.length}")
        # Not mmap: its pages would count as this process's memory.
        with reading(self.path), self.path.open("rb") as file:
            if self.crc32 is None or self._checked:
                return self._bytes_at(file, offset, count)
            if count == self.length:
                data = self._bytes_at(file, 0, count)
                crc32 = zlib.crc32(data, 0)
            else:
                crc32 = 0
                for position in range(0, self.length, CRC_PIECE_BYTES):
                    piece = self._bytes_at(file, position, min(CRC_PIECE_BYTES, self.length - position))
                    crc32 = zlib.crc32(piece, crc32)
                data = self._bytes_at(file, offset, count)
            if crc32 != self.crc32:
                raise ValueError("its checksum does not match its content; fetch the file again")
            self._checked = True
            return data

    def _bytes_at(self, file: BinaryIO, offset: int, count: int) -> bytes:
        file.seek(self.start + offset)
        data = file.read(count)
        if len(data) != count:
            raise ValueError("it ends early; fetch the file again")
        return data

    def part(self, offset: int, length: int) -> "ByteRange":
        """Returns the `length` bytes from `offset` on as a separate range (without checksum)."""
        if min(offset, length) < 0 or offset + length > self.length:
            raise ValueError(f"offset={offset} length={length} must lie within length={self.length}")
        return ByteRange(self.path, self.start + offset, length)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of `shape` whose elements are in `storage`; nothing of it is in memory.

    Made by `checked`.
    """

    storage: ByteRange
    dtype: np.dtype
    offset: int  # in elements, from the start of the storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @classmethod
    def checked(
        cls, storage: ByteRange, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> "StoredTensor":
        """Returns the tensor, if its numbers are sound and its elements lie within `storage`; otherwise a ValueError.

        Its shape may claim more elements than the file has (a stride of 0 repeats one): compare it before reading.
        """
        if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MAX_NDIM):
            raise ValueError(f"a tensor's shape and strides must be two tuples of one length <= {MAX_NDIM}")
        if not all(type(number) is int and 0 <= number < MAX_INT for number in (offset, *shape, *strides)):
            raise ValueError("a tensor's offset, shape and strides must be integers in [0, 2**40)")
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:
            raise ValueError(f"a tensor of shape {shape} has more bytes than can be addressed")
        tensor = cls(storage, dtype, offset, shape, strides)
        if 0 not in shape and (offset + tensor._span()) * dtype.itemsize > storage.length:
            raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.length} stored bytes")
        return tensor

    def _span(self) -> int:
        """Returns how many elements lie between the first and the last of the tensor, both included."""
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    def read(self) -> np.ndarray:
        """Returns the elements, of `shape`: a read-only view of the bytes between the first and the last, just read.

        Raises:
          UserError: if the file is damaged.
        """
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        itemsize = self.dtype.itemsize
        data = self.storage.read(self.offset * itemsize, self._span() * itemsize)
        strides = tuple(stride * itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(np.frombuffer(data, self.dtype), self.shape, strides, writeable=False)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayTensor:
    """A tensor in torch's order that is in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements."""
        return self.array.dtype

    def read(self) -> np.ndarray:
        """Returns its elements."""
        return self.array


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever the bytes of `path` make the code in this context raise into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # hostile bytes find every kind, MemoryError and RecursionError too
        reason = str(error)[:200] or type(error).__name__
        reason = "".join(character if character.isprintable() else "?" for character in reason)
        raise UserError(f"{path} is damaged or no checkpoint: {reason}") from error
