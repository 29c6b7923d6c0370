"""safetensors files: read with the tensors still in the file, and written tensor by tensor."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.filesystem import atomic_write
from resnet_jax.weights.lazy_tensor import DTYPES, MAX_INT, MAX_NDIM, ByteRange, StoredTensor, reading

# The format allows 100 MB. JSON takes up to 24 times its length in memory, and 16 MiB describe 100,000 tensors.
MAX_HEADER_BYTES = 16 * 2**20
HEADER_LENGTH = struct.Struct("<Q")
CODES = {
    "F64": DTYPES["float64"],
    "F32": DTYPES["float32"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "I64": DTYPES["int64"],
    "I32": DTYPES["int32"],
    "I16": DTYPES["int16"],
    "I8": DTYPES["int8"],
    "U64": DTYPES["uint64"],
    "U32": DTYPES["uint32"],
    "U16": DTYPES["uint16"],
    "U8": DTYPES["uint8"],
    "BOOL": DTYPES["bool"],
}
CODES_BY_DTYPE = {dtype: code for code, dtype in CODES.items()}


def open_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Returns the tensors of the file, by name and not read yet, and its metadata.

    Raises:
      UserError: if the file is damaged, has gaps or overlaps, or a dtype that numpy does not have.
    """
    with reading(path), path.open("rb") as file:
        num_bytes = path.stat().st_size
        (header_bytes,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))
        if header_bytes > min(MAX_HEADER_BYTES, num_bytes - HEADER_LENGTH.size):
            raise ValueError(f"its header of {header_bytes} bytes is longer than the file, or than {MAX_HEADER_BYTES}")
        header = json.loads(file.read(header_bytes).decode("utf-8"), object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its __metadata__ must map text to text")
        start = HEADER_LENGTH.size + header_bytes
        tensors = {name: _tensor(path, start, name, entry) for name, entry in header.items()}
        end = start
        for storage in sorted((tensor.storage for tensor in tensors.values()), key=lambda at: (at.start, at.length)):
            if storage.start != end:
                raise ValueError("its tensors overlap or leave gaps")
            end += storage.length
        if end != num_bytes:
            raise ValueError(f"its tensors end at byte {end}, the file at {num_bytes}")
        return tensors, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("its header has a name twice")
    return values


def _tensor(path: Path, start: int, name: str, entry: Any) -> StoredTensor:
    where = f"its tensor {name[:100]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = CODES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise ValueError(f"{where} has dtype {str(code)[:20]!r}: only {', '.join(CODES)} are read")
    if not _are_counts(shape) or len(shape) > MAX_NDIM:
        raise ValueError(f"{where} must have a shape of at most {MAX_NDIM} integers >= 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{where} has data_offsets that do not fit its shape and dtype")
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    storage = ByteRange(path, start + offsets[0], offsets[1] - offsets[0])
    return StoredTensor.checked(storage, dtype, 0, tuple(shape), strides)


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < MAX_INT for number in numbers)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Replaces the file at once by one with these tensors and metadata: whatever fails, the old one remains.

    Raises:
      UserError: if the format does not have a tensor's dtype, or the file cannot be written.
    """
    for name, array in tensors.items():
        if array.dtype.newbyteorder("<") not in CODES_BY_DTYPE:
            raise UserError(f"{path}: tensor {name!r} has dtype {array.dtype}: only {', '.join(DTYPES)} can be written")
    # The widest first, so that each tensor is aligned to its own size, which some readers need.
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    with atomic_write(path) as file:
        header = _header(names, tensors, metadata)
        file.write(HEADER_LENGTH.pack(len(header)))
        file.write(header)
        for name in names:
            array = tensors[name]
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            file.write(data.reshape(-1).view(np.uint8).data)


def _header(names: list[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        array = tensors[name]
        start, end = end, end + array.nbytes
        code = CODES_BY_DTYPE[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    return text + b" " * (-len(text) % 8)
