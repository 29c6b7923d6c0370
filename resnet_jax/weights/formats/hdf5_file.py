"""HDF5 files through h5py: their datasets, and the elements of one; links out of the file are not followed."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import UserError, truncate
from resnet_jax.weights.lazy_tensor import MAX_NDIM, Unreadable, reading

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000
MAX_DEPTH = 24
MAX_ATTRIBUTE_ELEMENTS = 100_000
# Of a compressed dataset: many times what compression makes of weights.
MAX_RATIO = 100


@dataclass(frozen=True, slots=True)
class Source:
    """An HDF5 file, or the bytes of one that is part of an archive.

    Attributes:
      path: for messages, and to read where `content` is None.
    """

    path: Path
    content: bytes | None = None

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Yields the h5py.File; whatever its bytes raise becomes a UserError."""
        try:
            import h5py
        except ImportError:
            raise UserError(
                f"{self.path} is of Keras, and h5py, which reads it, is not installed: pip install "
                "'resnet-family-jax[keras]'"
            ) from None
        where = self.path if self.content is None else io.BytesIO(self.content)
        with reading(self.path):
            try:
                with h5py.File(where, "r") as file:
                    yield file
            except OSError as error:
                if error.errno is not None:
                    raise
                raise ValueError(str(error)) from error  # what the library says of bytes that it does not understand

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size if self.content is None else len(self.content)


@dataclass(frozen=True, slots=True, eq=False)
class Hdf5Tensor:
    """A dataset of an HDF5 file; nothing of it is in memory."""

    source: Source
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns the elements, of `shape`.

        Raises:
          UserError: if the file is damaged or has changed.
        """
        with self.source.opened() as file:
            dataset = file[self.name]
            if (dataset.shape, dataset.dtype) != (self.shape, self.dtype):
                raise ValueError(f"its dataset {truncate(self.name)} has changed since the file was opened")
            return np.asarray(dataset[()])


def walk(source: Source, group: Any) -> Iterator[tuple[str, Any]]:
    """Yields the path and the h5py object of all that is in the group, each group before its content.

    Raises:
      ValueError: if the file has more than a file of weights has.
    """
    import h5py

    waiting = [("", group, 0)]
    num_objects = 0
    while waiting:
        above, inside, depth = waiting.pop()
        for name in inside:
            num_objects += 1
            if num_objects > MAX_OBJECTS or depth > MAX_DEPTH:
                raise ValueError(f"it has more than {MAX_OBJECTS} objects, or groups more than {MAX_DEPTH} deep")
            if not isinstance(inside.get(name, getlink=True), h5py.HardLink):
                continue  # it may lead out of the file
            item, path = inside[name], f"{above}{name}"
            yield path, item
            if isinstance(item, h5py.Group):
                waiting.append((f"{path}/", item, depth + 1))


def follow(group: Any, path: str) -> Any:
    """Returns the object under `path` in the group, by hard links alone.

    Raises:
      ValueError: if it is not there.
    """
    import h5py

    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"it has no {truncate(path)}")
        group = group[name]
    return group


def tensor(source: Source, dataset: Any) -> Hdf5Tensor | Unreadable:
    """Returns the dataset as a tensor, if it is one of plain numbers within the file."""
    if dataset.shape is None or dataset.dtype.kind not in "fiu" or dataset.dtype.hasobject:
        return Unreadable(f"a dataset of dtype {truncate(dataset.dtype)}, which is not read")
    if dataset.is_virtual or dataset.external:
        return Unreadable("a dataset whose content is in another file")
    num_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if len(dataset.shape) > MAX_NDIM or num_bytes > MAX_RATIO * source.num_bytes:
        raise ValueError(f"its dataset of shape {truncate(dataset.shape)} claims more than the file can hold")
    return Hdf5Tensor(source, dataset.name, dataset.dtype, tuple(dataset.shape))


def texts(item: Any, attribute: str) -> list[str]:
    """Returns an attribute of texts, which may be one of them; empty if there is none."""
    if attribute not in item.attrs:
        return []
    if math.prod(item.attrs.get_id(attribute).shape) > MAX_ATTRIBUTE_ELEMENTS:
        raise ValueError(f"its attribute {attribute} has more than {MAX_ATTRIBUTE_ELEMENTS} elements")
    value = np.atleast_1d(np.asarray(item.attrs[attribute], object))
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in value.ravel()]
