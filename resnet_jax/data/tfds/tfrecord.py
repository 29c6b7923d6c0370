"""TFRecord files read by index, without TensorFlow: each shard's offsets are found when it is first asked for.

A record is its length (8 bytes, little-endian), a checksum of these, its bytes, and a checksum of those.
"""

import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from resnet_jax.errors import RunError
from resnet_jax.storage.ranged_files import is_ranged, open_file, read_at

_HEADER, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")


class DamagedRecordError(RuntimeError):
    """A file that is missing, cannot be read, or differs from the written one."""


class TfRecords:
    """The records of TFRecord files, in their order, as bytes; any number of threads may read at once."""

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int]) -> None:
        """lengths: how many records each of the files holds."""
        self._shards = [_Shard(path, length) for path, length in zip(paths, lengths, strict=True)]
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """Returns the record's bytes.

        Raises:
          DamagedRecordError: if they differ from the written bytes.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        shard = self._shards[number]
        return shard.read(index - self._ends[number] + shard.length)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the records' bytes."""
        return [self[index] for index in indices]


class _Shard:
    """One file; it stays open once it has been read."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length, self._is_ranged = path, length, is_ranged(path)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._places: list[tuple[int, int]] = []  # where each record's bytes begin, and how many there are

    def read(self, number: int) -> bytes:
        """Returns the bytes of a record, counted from 0."""
        if self._file is None:
            with self._lock:
                if self._file is None:
                    self._open()
        start, size = self._places[number]
        data = self._at(start, size + _CHECKSUM.size)
        if len(data) != size + _CHECKSUM.size or _CHECKSUM.unpack(data[size:])[0] != masked_crc32c(data[:size]):
            raise DamagedRecordError(f"{self.path}: record {number} is damaged")
        return data[:size]

    def _open(self) -> None:
        """Opens the file and finds its records."""
        try:
            file = open_file(self.path) if self._is_ranged else self.path.open("rb", buffering=0)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise DamagedRecordError(f"{self.path}: {error.strerror or error}") from error
        except OSError as error:
            raise _fault(self.path, error) from error
        places, place = [], 0
        for number in range(self.length):
            header = self._at(place, _HEADER.size, file)
            if len(header) < _HEADER.size or _HEADER.unpack(header)[1] != masked_crc32c(header[:8]):
                file.close()
                raise DamagedRecordError(f"{self.path} is damaged from record {number} of {self.length} on")
            size = _HEADER.unpack(header)[0]
            places.append((place + _HEADER.size, size))
            place += _HEADER.size + size + _CHECKSUM.size
        self._places, self._file = places, file

    def _at(self, start: int, size: int, file: BinaryIO | None = None) -> bytes:
        if self._is_ranged and file is None:
            return read_at(self.path, start, size)
        file = file or self._file
        assert file is not None
        try:
            if self._is_ranged:  # from its beginning to its end
                file.seek(start)
                return file.read(size)
            if hasattr(os, "pread"):
                return os.pread(file.fileno(), size, start)
            with _SEEK_LOCK:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise _fault(self.path, error) from error


def _fault(path: Path, error: OSError) -> RunError:
    """Returns the error for a fault of the disk or the network: to leave the images out would change the run."""
    return RunError(f"{path} cannot be read: {error.strerror or error}")


_SEEK_LOCK = threading.Lock()  # where a system cannot read at a place without moving the file's


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord has of `data`: CRC-32C, rotated, plus a constant."""
    import google_crc32c  # here, so that whoever reads no TFRecord does without it

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
