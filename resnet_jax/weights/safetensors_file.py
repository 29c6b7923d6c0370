"""safetensors files, by the library of that name: opened with the tensors still in the file, and written atomically."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnet_jax.errors import UserError
from resnet_jax.filesystem import atomic_path
from resnet_jax.weights.lazy_tensor import FLOAT8, Unreadable, reading

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """A tensor of a safetensors file; nothing of it is in memory."""

    path: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns the elements, of `shape`.

        Raises:
          UserError: if the file has changed since it was opened.
        """
        # Opened for each tensor: a file that is mapped all the while can be neither replaced (Windows) nor cut safely.
        with reading(self.path), safe_open(self.path, "numpy") as file:
            array = file.get_tensor(self.name)
            if (array.dtype, array.shape) != (self.dtype, self.shape):
                raise ValueError(f"its tensor {self.name[:100]!r} has changed since the file was opened")
            return array


def open_safetensors(path: Path) -> tuple[dict[str, SafetensorsTensor | Unreadable], dict[str, str]]:
    """Returns the tensors of the file, by name and not read yet, and its metadata.

    Raises:
      UserError: if the file is damaged.
    """
    with reading(path), safe_open(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        return {name: _tensor(path, name, part) for name, part in slices.items()}, dict(file.metadata() or {})


def _tensor(path: Path, name: str, part: object) -> SafetensorsTensor | Unreadable:
    code, shape = part.get_dtype(), part.get_shape()  # type: ignore[attr-defined]
    if code.startswith("F8_"):
        return Unreadable(FLOAT8.format(code))
    if code not in DTYPES:
        return Unreadable(f"a tensor of dtype {code}, which is not read")
    return SafetensorsTensor(path, name, DTYPES[code], tuple(shape))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Replaces the file at once by one with these tensors and metadata: whatever fails, the old one remains.

    Raises:
      UserError: if the format does not have a tensor's dtype, or the file cannot be written.
    """
    # safetensors 0.8.0 writes an array's memory as it lies, in whatever order its axes are.
    contiguous = {
        name: np.asarray(array, array.dtype.newbyteorder("<"), order="C", copy=None) for name, array in tensors.items()
    }
    with atomic_path(path) as partial:
        try:
            save_file(contiguous, partial, dict(metadata) or None)
        except SafetensorError as error:
            raise UserError(f"{path} cannot be written: {error}") from error
