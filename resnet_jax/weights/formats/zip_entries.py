"""The entries of a zip archive, from a directory of a size that a file of weights may have."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# zipfile keeps some 500 bytes for each of the 46 or more that an entry takes.
MAX_DIRECTORY_BYTES = 8 * 2**20
MAX_DEFLATE_RATIO = 1040  # zlib packs no more bytes into one


class ZipFile(io.FileIO):
    """A file that refuses to read a directory of a size that no file of weights has.

    Attributes:
      reads_directory: set it to False when that has been read; an entry may be of any size.
    """

    reads_directory = True

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns at most `size` bytes; a ValueError for more than a directory may have."""
        if self.reads_directory and size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory has more than {MAX_DIRECTORY_BYTES} bytes")
        return super().read(size) or b""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Yields the archive; a damaged one raises zipfile's errors."""
    with ZipFile(str(path)) as file, zipfile.ZipFile(file) as archive:
        file.reads_directory = False
        yield archive


def zip_names(path: Path) -> list[str]:
    """Returns the names of the archive's entries."""
    with open_zip(path) as archive:
        return archive.namelist()


def check_entry(info: zipfile.ZipInfo) -> None:
    """Raises ValueError for an entry that claims more bytes than its packed ones can be."""
    if info.flag_bits & 1:
        raise ValueError(f"its entry {info.filename[:100]!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its entry {info.filename[:100]!r} is packed by a method that is not read")
    most = info.compress_size * (MAX_DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.file_size > most + MAX_DEFLATE_RATIO:
        raise ValueError(f"its entry {info.filename[:100]!r} claims {info.file_size} bytes, too many for what it packs")
