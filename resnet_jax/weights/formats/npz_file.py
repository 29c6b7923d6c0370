"""NumPy archives (.npz): Big Transfer's of google-research, or any in torch's order; no pickle in them is read."""

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from resnet_jax.errors import truncate
from resnet_jax.weights.formats.named_tensors import NamedTensors, any_match, translate
from resnet_jax.weights.formats.zip_entries import check_entry, open_zip
from resnet_jax.weights.lazy_tensor import MAX_NDIM, Unreadable, reading

SUFFIX = ".npy"
MAX_HEADER_BYTES = 10_000
_BIT = re.compile(r"(?:resnet/)?(root_block|block\d+/unit\d+|head|group_norm)/")
# The arguments that all networks of Big Transfer have and no tensor shows.
BIT_ARGUMENTS = {"norm_layer": "group", "weight_standardization": True, "stem_pool": "zero_padded_max"}
_BIT_MODULES = {
    "root_block/standardized_conv2d": "conv1",
    "group_norm": "norm",
    "head/conv2d": "fc",
}
_BIT_UNIT = re.compile(r"block(\d{1,4})/unit(\d{1,4})/([abc])/(proj/)?(standardized_conv2d|group_norm)")
_BIT_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}


@dataclass(frozen=True, slots=True, eq=False)
class NpzTensor:
    """An array of a NumPy archive; nothing of it is in memory."""

    path: Path
    entry: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns the elements, of `shape`.

        Raises:
          UserError: if the file is damaged or has changed.
        """
        with reading(self.path), open_zip(self.path) as archive:
            check_entry(archive.getinfo(self.entry))
            with archive.open(self.entry) as stream:
                shape, fortran_order, dtype = _header(stream)
                if (shape, dtype) != (self.shape, self.dtype):
                    raise ValueError(f"its array {truncate(self.entry)} has changed since the file was opened")
                data = stream.read()
            array = np.frombuffer(data, dtype)
            return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def is_npz(names: list[str]) -> bool:
    """Returns whether a zip archive of entries of these names is one of NumPy's."""
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def open_npz(path: Path) -> dict[str, Any] | NamedTensors:
    """Returns the arrays of the archive by their names, none read yet; Big Transfer's by torchvision's.

    Raises:
      UserError: if it is damaged.
    """
    with reading(path):
        entries = _entries(path)
        if not any_match(entries, _BIT):
            return entries
        return translate(entries, bit_name, "bit", BIT_ARGUMENTS)


def _entries(path: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    with open_zip(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(SUFFIX)
            if name in entries:
                raise ValueError(f"it has two entries {truncate(info.filename)}")
            check_entry(info)
            with archive.open(info) as stream:
                entries[name] = _tensor(path, info, stream)
    return entries


def _tensor(path: Path, info: zipfile.ZipInfo, stream: Any) -> NpzTensor | Unreadable:
    shape, _, dtype = _header(stream)
    if dtype.kind not in "fiub" or dtype.hasobject or dtype.names:
        return Unreadable(f"an array of dtype {truncate(dtype)}, which is not read")
    if len(shape) > MAX_NDIM or math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
        raise ValueError(f"its array {truncate(info.filename)} of shape {truncate(shape)} has another length")
    return NpzTensor(path, info.filename, dtype, shape)


def _header(stream: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, order and dtype of an .npy file, at whose elements the stream then stands."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is of .npy version {version}, which is not read")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array has a shape of other than counts")
    return shape, fortran_order, dtype


def bit_name(name: str) -> str | None:
    """Returns torchvision's name of one of Big Transfer's: ".../block1/unit01/a/group_norm/gamma" is
    "layer1.0.bn1.weight".
    """
    module, _, leaf = name.removeprefix("resnet/").rpartition("/")
    if leaf not in _BIT_LEAVES:
        return None
    found = _BIT_MODULES.get(module)
    if match := _BIT_UNIT.fullmatch(module):
        stage, unit, letter, projects, kind = match.groups()
        k = "abc".index(letter) + 1
        part = "downsample.0" if projects else f"conv{k}" if kind.startswith("standardized") else f"bn{k}"
        found = f"layer{int(stage)}.{int(unit) - 1}.{part}"
    return f"{found}.{_BIT_LEAVES[leaf]}" if found else None
