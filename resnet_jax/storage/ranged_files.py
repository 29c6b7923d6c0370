"""Files whose bytes are in a bucket: read by ranges, when asked for, and kept in blocks on the disk where they fit.

`image_folder` makes the stand-ins, empty files of their names and sizes; here is how they are read.
"""

import contextlib
import hashlib
import io
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resnet_jax.errors import RunError, UserError

if TYPE_CHECKING:
    from resnet_jax.storage.object_store import ObjectStore

BLOCK_BYTES = 2**20
RANGED = re.compile(
    r"\.(tar|parquet|tfrecord(-\d+-of-\d+)?|jpe?g|png|webp|bmp|gif|tiff?|ppm|pgm|jp2|avif|npy)$", re.IGNORECASE
)
_BUFFERED_BLOCKS = 4  # of a file that is read from its beginning to its end


@dataclass(frozen=True)
class RangedFolder:
    """A stand-in for a folder in a bucket.

    Attributes:
      store: its objects.
      path: the stand-in.
      etags: identify its objects' contents, by key.
      blocks: where blocks of its files are kept; None: nothing is.
    """

    store: "ObjectStore"
    path: Path
    etags: dict[str, str]
    blocks: Path | None


# The stand-ins of this process, by what was asked for.
folders: dict[Path, RangedFolder] = {}


def open_file(path: Path) -> BinaryIO:
    """Returns a file opened for reading, wherever its bytes are."""
    found = _find(path)
    return path.open("rb") if found is None else io.BufferedReader(_RangedFile(*found, path), BLOCK_BYTES)


def read_at(path: str | Path, start: int = 0, num_bytes: int = -1) -> bytes:
    """Returns bytes of a file, wherever they are: from `start` on so many, fewer where it ends, or with -1 all."""
    found = _find(Path(path)) if folders else None
    if found is None:
        with open(path, "rb", buffering=0) as file:
            if start:
                file.seek(start)
            return file.read(num_bytes)
    size = os.path.getsize(path) - start
    num_bytes = max(size, 0) if num_bytes < 0 else max(min(num_bytes, size), 0)
    return _read(*found, Path(path), start, num_bytes)


def is_ranged(path: str | Path) -> bool:
    """Returns whether a file is a stand-in, of which only `open_file` and `read_at` read the bytes."""
    return _find(Path(path)) is not None


def why_not_kept(path: str | Path) -> str | None:
    """Returns why nothing of a file may stay on the disk; None if it may, or its bytes are there anyway."""
    found = _find(Path(path))
    if found is None or found[0].blocks is not None:
        return None
    return f"{found[0].store.address} does not fit on the disk: see RESNET_JAX_IMAGES_GB"


def blocks_name(address: str, key: str, etag: str) -> str:
    """Returns the name of the folder of an object's blocks."""
    return hashlib.sha256(f"{address}/{key}\0{etag}".encode()).hexdigest()[:32]


def _find(path: Path) -> tuple[RangedFolder, str] | None:
    """Returns the folder in a bucket that a file stands for a part of, and its key; None for other files."""
    if not folders or not RANGED.search(path.name):
        return None
    for folder in folders.values():
        with contextlib.suppress(ValueError):
            return folder, path.relative_to(folder.path).as_posix()
    return None


def _read(folder: RangedFolder, key: str, path: Path, start: int, num_bytes: int) -> bytes:
    if num_bytes <= 0:
        return b""
    if folder.blocks is None:
        return folder.store.read_range(key, start, num_bytes, folder.etags.get(key, ""))
    end, parts = start + num_bytes, []
    for number in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
        first = number * BLOCK_BYTES
        parts.append(_part(folder, key, path, number, max(start - first, 0), min(end - first, BLOCK_BYTES)))
    return b"".join(parts)


def _part(folder: RangedFolder, key: str, path: Path, number: int, start: int, end: int) -> bytes:
    """Returns bytes of a block of a file, from the disk if it is there."""
    from resnet_jax.filesystem import atomic_write

    assert folder.blocks is not None
    etag = folder.etags.get(key, "")
    size = min(BLOCK_BYTES, path.stat().st_size - number * BLOCK_BYTES)
    kept = folder.blocks / blocks_name(folder.store.address, key, etag) / str(number)
    with contextlib.suppress(OSError), kept.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size == size:
            file.seek(start)
            return file.read(end - start)
    data = folder.store.read_range(key, number * BLOCK_BYTES, size, etag)
    with contextlib.suppress(OSError, UserError), atomic_write(kept) as written:  # a full disk: it is fetched again
        written.write(data)
    return data[start:end]


class ReadOnlyFile(io.RawIOBase):
    """A file of so many bytes that knows where it is; what it reads from there, its kinds say."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        """Does as io's."""
        return True

    def seekable(self) -> bool:
        """Does as io's."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Does as io's."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Does as io's."""
        return self._at


class _RangedFile(ReadOnlyFile):
    """A file whose bytes are in a bucket; a few blocks of it are held, for who reads it from end to end."""

    def __init__(self, folder: RangedFolder, key: str, path: Path) -> None:
        super().__init__(path.stat().st_size)
        self._folder, self._key, self._path = folder, key, path
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Does as io's."""
        number, offset = divmod(self._at, BLOCK_BYTES)
        if self._at >= self._size:
            return 0
        if number not in self._held:
            start = number * BLOCK_BYTES
            length = min(BLOCK_BYTES, self._size - start)
            self._held[number] = _read(self._folder, self._key, self._path, start, length)
            if len(self._held) > _BUFFERED_BLOCKS:
                self._held.popitem(last=False)
        data = self._held[number][offset : offset + len(buffer)]
        if not data:
            raise RunError(f"{self._folder.store.address}/{self._key} is shorter than it was: start again")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
