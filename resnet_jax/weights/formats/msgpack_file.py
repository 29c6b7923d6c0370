"""Trees of arrays that flax.serialization wrote (msgpack), read as data: only plain numbers in arrays, nothing else."""

import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from resnet_jax.errors import UserError, truncate
from resnet_jax.weights.formats.flax_names import name_variables
from resnet_jax.weights.formats.named_tensors import NamedTensors
from resnet_jax.weights.lazy_tensor import DTYPES, MAX_NDIM, ArrayTensor, Unreadable, reading

# Of one list of msgpack's own, which Flax has for shapes alone, and of one dict, open ones within another's.
MAX_LENGTH = 10_000  # the library allocates what the file claims
MAX_ENTRIES = 1_000_000  # of all dicts together
MAX_DEPTH = 100
# Types of Flax's own: an array, and a scalar that is stored as one.
ARRAY, SCALAR = 1, 3
CHUNKED = "__msgpack_chunked_array__"


def looks_like_msgpack(head: bytes) -> bool:
    """Returns whether a file that begins so may be a msgpack of a dict with a name as its first key."""
    if head[:1] in (b"\xde", b"\xdf"):
        key = head[3:4] if head[:1] == b"\xde" else head[5:6]
    elif b"\x81" <= head[:1] <= b"\x8f":
        key = head[1:2]
    else:
        return False
    return b"\xa1" <= key <= b"\xbf" or key in (b"\xd9", b"\xda")


def open_msgpack(path: Path) -> NamedTensors:
    """Returns the network's variables in the file, by names of torch.

    Raises:
      UserError: if it is damaged, or holds no arrays.
    """
    with reading(path):
        named = name_variables(_with_whole_arrays(_unpacked(path.read_bytes())))
    if not any(hasattr(tensor, "read") for tensor in named.tensors.values()):
        raise UserError(f"{path} is a msgpack file without arrays: save the variables with flax.serialization.to_bytes")
    return named


def _unpacked(data: bytes) -> Any:
    num_entries = 0

    def count(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        nonlocal num_entries
        num_entries += len(pairs)
        if num_entries > MAX_ENTRIES:
            raise ValueError(f"its dicts have more than {MAX_ENTRIES} entries")
        return dict(pairs)

    options = {"ext_hook": _extension, "object_pairs_hook": count, "raw": False, "unicode_errors": "replace"}
    try:
        return msgpack.unpackb(data, max_array_len=MAX_LENGTH, max_map_len=MAX_LENGTH, **options)
    except ValueError as error:
        raise ValueError(f"its msgpack is malformed: {error}") from error


def _extension(code: int, data: bytes) -> Any:
    """Returns the array that `data` holds, if the code is one of Flax's for arrays."""
    if code not in (ARRAY, SCALAR):
        return Unreadable(f"an object of msgpack's type {code}")
    content = msgpack.unpackb(data, raw=True, max_array_len=MAX_NDIM, max_ext_len=0)
    if not isinstance(content, list) or len(content) != 3:
        raise ValueError("an array is no (shape, dtype, content)")
    shape, dtype_name, buffer = content
    if not (isinstance(dtype_name, bytes) and isinstance(buffer, bytes)):
        raise ValueError("an array has no dtype or no content")
    dtype = DTYPES.get(dtype_name.decode("ascii", "replace"))
    if dtype is None:
        return Unreadable(f"an array of dtype {truncate(dtype_name.decode('ascii', 'replace'))}, which is not read")
    return ArrayTensor(_shaped(np.frombuffer(buffer, dtype), shape))


def _shaped(flat: np.ndarray, shape: Any) -> np.ndarray:
    if not isinstance(shape, list | tuple) or len(shape) > MAX_NDIM:
        raise ValueError(f"an array's shape is no list of at most {MAX_NDIM} numbers")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != flat.size:
        raise ValueError(f"an array of shape {truncate(shape)} has {flat.size} elements")
    return flat.reshape(shape)


def _with_whole_arrays(tree: Any, depth: int = 0) -> Any:
    """Returns the tree with an array in place of each that Flax cut into chunks, for its size."""
    if not isinstance(tree, dict):
        return tree
    if depth > MAX_DEPTH:
        raise ValueError(f"its dicts are nested more than {MAX_DEPTH} deep")
    if CHUNKED not in tree:
        return {name: _with_whole_arrays(value, depth + 1) for name, value in tree.items()}
    shape, chunks = tree.get("shape"), tree.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        raise ValueError("an array in chunks has no shape or no chunks")
    parts = [part.array for i in range(len(chunks)) if isinstance(part := chunks.get(str(i)), ArrayTensor)]
    if len(parts) != len(chunks) or not parts or any(part.ndim != 1 for part in parts):
        raise ValueError("a chunk of an array is none")
    whole = np.concatenate(parts)
    return ArrayTensor(_shaped(whole, [shape.get(str(i)) for i in range(len(shape))]))
