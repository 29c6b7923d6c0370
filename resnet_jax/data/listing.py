"""The content of a folder of images, as data: its files, those in its tars included."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# Files that hold the label of the image beside them, in shards of a WebDataset.
LABEL_EXTENSIONS = ("cls", "json", "txt", "cls.txt", "label", "label.txt")


class StoredFile(NamedTuple):
    """A file: `path` is where it stands in the tree, with slashes; `stored` its path from the root, or its name in its
    tar, which is the one of number `tar` (-1: none), at `offset`, of `size` bytes.
    """

    path: str
    stored: str
    tar: int = -1
    offset: int = 0
    size: int = 0


class TarMember(NamedTuple):
    """A file or folder in a tar. path: with slashes, normalised. offset, size: of a file's data, in bytes; text: that
    of a small file beside images, which may be a label.
    """

    path: str
    is_folder: bool
    offset: int
    size: int
    text: str | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a root, as if its tars had been unpacked where they lie.

    Attributes:
      files: the images, known by EXTENSIONS in any case.
      others: all other files.
      folders: paths of all folders. Hidden ones are in none of these.
      real_paths: where the folders on the disk lie, links followed.
      tars: paths of the tars, from the root; "" where the root is one.
      shards: what is in the tars that hold labels beside their images (WebDataset), by the numbers of `tars`.
    """

    root: Path
    files: list[StoredFile] = field(default_factory=list)
    others: list[StoredFile] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    real_paths: dict[str, str] = field(default_factory=dict)
    tars: list[str] = field(default_factory=list)
    shards: dict[int, list[TarMember]] = field(default_factory=dict)


def sample_key(path: str) -> tuple[str, str]:
    """Returns (key, extension) as WebDataset has them: the extension begins at the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    stem, _, extension = name.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()
