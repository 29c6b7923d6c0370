"""Finds the files that a table's rows name, by paths as people write them."""

import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from resnet_jax.data.cells import MOST_ROWS_LOOKED_AT, cell_text
from resnet_jax.data.listing import StoredFile
from resnet_jax.data.split_names import split_in

# How many files of one name, in as many folders, are looked up by an index: view1_frontal.jpg of 60,000 patients.
KEPT_FROM = 16


class FileIndex:
    """Files by their paths, and by their names with the ending and without."""

    def __init__(self, files: Sequence[StoredFile]) -> None:
        self.by_path = {file.path: file for file in files}
        self._by_name: dict[str, list[StoredFile]] = {}
        for file in files:
            name = file.path.rpartition("/")[2]
            for key in {name, name.rpartition(".")[0]}:
                self._by_name.setdefault(key, []).append(file)
        self._by_folded: dict[str, list[StoredFile]] | None = None  # made when a name is not found as it stands
        self._by_end: dict[str, dict[str, list[StoredFile]]] = {}

    def named(self, name: str) -> list[StoredFile]:
        """Returns the files of that name; if there are none, those whose names differ in case or Unicode form."""
        if name in self._by_name:
            return self._by_name[name]
        if self._by_folded is None:
            self._by_folded = {}
            for key, files in self._by_name.items():
                self._by_folded.setdefault(_folded(key), []).extend(files)
        return self._by_folded.get(_folded(name), [])

    def ending_like(self, path: str) -> list[StoredFile]:
        """Returns the files whose paths end like `path`, with the longest end that is found, and a folder at least."""
        *folders, name = path.split("/")
        by_end = self._by_ends_of_folders(name)
        ends = ("/".join(folders[start:]) for start in range(len(folders)))
        return next((by_end[end] for end in ends if end in by_end), [])

    def _by_ends_of_folders(self, name: str) -> dict[str, list[StoredFile]]:
        """Returns the files of that name by each end of their folders' path: of a/b by b and by a/b."""
        if name in self._by_end:
            return self._by_end[name]
        by_end: dict[str, list[StoredFile]] = {}
        files = self.named(name)
        for file in files:
            folders = file.path.split("/")[:-1]
            for start in range(len(folders)):
                by_end.setdefault("/".join(folders[start:]), []).append(file)
        if len(files) >= KEPT_FROM:
            self._by_end[name] = by_end
        return by_end


class FileFinder:
    """Finds the file that a row names: by its path, by the end of its path, or by its name; with its ending or without.

    A row that names a folder means a file in a folder of that name. Only where none of a table's folders is there, as
    it was written for another disk, names alone are enough.
    """

    def __init__(self, index: FileIndex, folders: Iterable[str], split: str | None = None) -> None:
        """Keeps folders, that paths may start from, the likeliest first, and the split that the table is of, if any."""
        self._index, self._split = index, split
        self._folders = [folder.strip("/") for folder in folders]
        self.by_name_alone = False

    def learn(self, values: Sequence[Any]) -> None:
        """Sets `by_name_alone`, of all that the rows name: if no folder of theirs is there, and they are no splits."""
        self.by_name_alone = False
        paths = [path for path in map(_path, values) if "/" in path]
        if not paths or any(self._at(path) or self._ending_like(path) for path in paths):
            return
        splits = {split_in(folder) for path in paths for folder in path.split("/")[:-1]} - {None}
        self.by_name_alone = len(splits) < 2

    def count(self, values: Sequence[Any]) -> int:
        """Returns how many of the first of a column's values name files that are there."""
        self.learn(values)
        return sum(bool(self.candidates(value)) for value in values[:MOST_ROWS_LOOKED_AT])

    def candidates(self, value: Any) -> list[StoredFile]:
        """Returns the files that may be meant: one if it is clear."""
        path = _path(value)
        if not path:
            return []
        if (file := self._at(path)) is not None:
            return [file]
        found = self._ending_like(path) if "/" in path else self._index.named(path)
        if not found and self.by_name_alone:
            found = self._index.named(path.rpartition("/")[2])
        if len(found) > 1:
            starts = {*self._places(path)}
            found = [file for file in found if file.path.rpartition(".")[0] in starts] or found
        if len(found) > 1 and self._split:
            found = [file for file in found if _has_split(file.path, self._split)] or found
        return found

    def _ending_like(self, path: str) -> list[StoredFile]:
        """Does as `FileIndex.ending_like`; a path that names a split means no file of another."""
        splits, found = _splits(path), self._index.ending_like(path)
        return [file for file in found if not splits or not (own := _splits(file.path)) or own & splits]

    def _at(self, path: str) -> StoredFile | None:
        files = self._index.by_path
        return next((files[place] for place in self._places(path) if place in files), None)

    def _places(self, path: str) -> list[str]:
        return [posixpath.normpath(f"{folder}/{path}" if folder else path) for folder in self._folders]


def _path(value: Any) -> str:
    text = cell_text(value).replace("\\", "/")
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def _splits(path: str) -> set[str]:
    """Returns the splits that the folders of a path are called after."""
    return {split for folder in path.split("/")[:-1] if (split := split_in(folder))}


def _has_split(path: str, split: str) -> bool:
    return split in _splits(path)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
