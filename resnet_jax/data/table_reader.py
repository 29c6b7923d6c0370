"""Reads a table's columns as images, labels and splits, and finds the files that its rows name."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.class_labels import label_text, many_labels, number_labels, read_class_names
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_names import UNDIVIDED, split_in
from resnet_jax.data.table_file import Table, describe_columns
from resnet_jax.errors import UserError, abridge, check_choice
from resnet_jax.formatting import format_count

IMAGE_COLUMNS = (
    "image", "img", "image_path", "img_path", "path", "filepath", "file_path", "file", "filename", "file_name",
    "image_file", "image_name", "image_id", "imageid", "img_id", "id", "name", "photo", "picture",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classes", "class_name", "classname", "category", "target", "species", "breed",
    "diagnosis", "dx", "label_name", "class_label", "class_id", "classid", "label_id", "tags", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
# LOC_val_solution.csv: "n01751748 111 108 230 366", the box behind it.
_KAGGLE_IMAGENET = ("imageid", "predictionstring")


@dataclass(frozen=True)
class TableOptions:
    """Which table says the labels, and how it is read; "" leaves it to be found.

    Attributes:
      file: the table, from the folder of the images.
      image_column, label_column, split_column: names of columns; label_column may be several, with commas between:
        columns of zeros and ones.
      image_dir: the folder that paths in the table start from, from that of the images.
      label_separator: stands between the labels of an image that has several.
      class_names: a text file of class names, one a line, which numbers count from 0.
    """

    file: str = ""
    image_column: str = ""
    label_column: str = ""
    split_column: str = ""
    image_dir: str = ""
    label_separator: str = ""
    class_names: str = ""

    def names(self, root: Path) -> tuple[str, ...] | None:
        """Returns the class names in the file, which may be a path from the root; None if none is named."""
        if not self.class_names:
            return None
        inside = root / self.class_names
        return read_class_names(inside if inside.is_file() else Path(self.class_names).expanduser())


class FileFinder:
    """Finds the file that a row of a table names: by its path, or by its name alone, with its ending or without."""

    def __init__(self, listing: Listing, folders: Sequence[str]) -> None:
        self._folders = [folder.strip("/") for folder in folders]
        self._files = {file.path: file for file in listing.files}
        self._by_name: dict[str, StoredFile | None] = {}  # None: several are called so
        for file in listing.files:
            name = file.path.rpartition("/")[2]
            for key in {file.path.rpartition(".")[0], name, name.rpartition(".")[0]}:
                self._by_name[key] = file if self._by_name.get(key, file) is file else None

    def knows(self, value: Any) -> bool:
        """Returns whether files are called so, one or several."""
        text = label_text(value).replace("\\", "/")
        return self.find(value) is not None or text.rpartition("/")[2] in self._by_name

    def find(self, value: Any) -> StoredFile | None:
        """Returns the file; None if there is none, or several."""
        text = label_text(value).replace("\\", "/").removeprefix("./")
        if not text:
            return None
        for folder in self._folders:
            path = f"{folder}/{text}" if folder else text
            if (file := self._files.get(path) or self._by_name.get(path)) is not None:
                return file
        return self._by_name.get(text.rpartition("/")[2])


class TableReader:
    """Reads a table's columns as images, labels and splits."""

    def __init__(self, listing: Listing, options: TableOptions, table: Table) -> None:
        self.listing, self.options, self.table = listing, options, table
        self.notes: list[str] = []
        own = str(table.path.parent.relative_to(listing.root)) if table.path.is_relative_to(listing.root) else ""
        # Also the folder around all images, which a table that came with them may not know of.
        common = os.path.commonpath([file.path.rpartition("/")[0] for file in listing.files]) if listing.files else ""
        folders = dict.fromkeys([options.image_dir, "" if own == "." else own, "", common])
        self.finder = FileFinder(listing, [*folders] if not options.image_dir else [options.image_dir])
        self._by_word = {re.sub(r"\W+", "_", name.strip().lower()): name for name in table.columns}

    def parts(self) -> dict[str, LabelledFiles]:
        """Returns the labelled files by split."""
        given = self.options.names(self.listing.root)
        files, texts = self.files_and_texts()
        columns = self.label_columns()
        names = given or self.table.class_names.get(columns[0])
        where = str(self.table.path)
        if len(columns) > 1:
            class_names, labels, notes = self._indicators(columns)
        elif self._has_several(columns):
            rows = [self._several(value) for value in self._kept_values(columns[0])]
            class_names, labels, notes = many_labels(where, rows, names)
        else:
            class_names, labels, notes = number_labels(where, texts, names)
        self.notes += notes
        self.leave_rest(files)
        splits = self._splits(files)
        relative = str(self.table.path.relative_to(self.listing.root))
        chosen = {split: [i for i, of in enumerate(splits) if of == split] for split in dict.fromkeys(splits)}
        self.notes.insert(
            0, f"labels by {relative}: images by its column {self.image_column()}, labels by {abridge(columns, 4)}"
        )
        return {
            split: LabelledFiles(relative, class_names, [files[i] for i in kept], labels[kept], self.listing.tars)
            for split, kept in chosen.items()
        }

    def image_column(self) -> str:
        """Returns the column that names the images.

        Raises:
          UserError: if there is none.
        """
        given = self.options.image_column
        if given:
            return check_choice("config.table.image_column", given, self.table.columns)
        for word in IMAGE_COLUMNS:
            if word in self._by_word:
                return self._by_word[word]
        raise UserError(
            f"{self.table.path} has no column that is called like images (image, file_name, path …): name it by "
            f"config.table.image_column, one of {describe_columns(self.table)}"
        )

    def label_columns(self) -> list[str]:
        """Returns the columns of labels: one, or several of zeros and ones.

        Raises:
          UserError: if that is not clear.
        """
        if self.options.label_column:
            columns = [name.strip() for name in self.options.label_column.split(",")]
            if self.options.label_column in self.table.columns:
                return [self.options.label_column]
            return [check_choice("config.table.label_column", name, self.table.columns) for name in columns]
        if {*_KAGGLE_IMAGENET} == {*self._by_word}:
            return [self._by_word[_KAGGLE_IMAGENET[1]]]
        found = [self._by_word[word] for word in LABEL_COLUMNS if word in self._by_word]
        if len(found) > 1:
            found = self._same_classes(found)
        if found:
            return found
        others = [name for name in self.table.columns if name not in (self.image_column(), self.split_column())]
        if len(others) > 1 and all(_is_indicator(self.table.columns[name]) for name in others):
            return others
        raise UserError(
            f"{self.table.path} has no column that is called like labels (label, class …): name it by "
            f"config.table.label_column, one of {describe_columns(self.table)}"
        )

    def split_column(self) -> str:
        """Returns the column that says the split; empty if there is none."""
        if self.options.split_column:
            return check_choice("config.table.split_column", self.options.split_column, self.table.columns)
        return next((self._by_word[word] for word in SPLIT_COLUMNS if word in self._by_word), "")

    def files_and_texts(self) -> tuple[list[StoredFile], list[str]]:
        """Returns the file and the label of each row that has one; the same image named again is taken once.

        Raises:
          UserError: for a row whose image is not there, and an image that is named with two labels.
        """
        column, labels = self.image_column(), self.label_columns()
        texts = self._texts(labels)
        self._kept: list[int] = []
        seen: dict[str, int] = {}
        files, kept_texts, num_without = [], [], 0
        for i, value in enumerate(self.table.columns[column]):
            if not texts[i] and not self._has_several(labels):
                num_without += 1
                continue
            file = self.finder.find(value)
            if file is None:
                raise UserError(
                    f"{self.table.row(i)} names the image {label_text(value)!r}, which is not there, or more than "
                    f"once, in {self.listing.root / self.options.image_dir}: mend the table "
                    "(config.table.image_dir says where paths start)"
                )
            first = seen.setdefault(file.path, i)
            if first != i:
                if texts[first] != texts[i]:
                    raise UserError(
                        f"{self.table.row(i)} gives {file.path} another label than an earlier row: each image has one "
                        "row; several labels are written in one, with config.table.label_separator between"
                    )
                continue
            self._kept.append(i)
            files.append(file)
            kept_texts.append(texts[i])
        if num_without:
            self.notes.append(f"left aside: {format_count(num_without, 'row')} without a label")
        if not files:
            raise UserError(f"{self.table.path} names no image with a label")
        return files, kept_texts

    def known_files(self, known: set[str]) -> Iterator[tuple[StoredFile, str]]:
        """Yields the file and the label of each row whose image is there, and among the paths `known`.

        Raises:
          UserError: for a row that may name several.
        """
        texts = self._texts(self.label_columns())
        for i, value in enumerate(self.table.columns[self.image_column()]):
            file = self.finder.find(value)
            if file is not None:
                if texts[i] and file.path in known:
                    yield file, texts[i]
            elif self.finder.knows(value):
                raise UserError(
                    f"{self.table.row(i)} names the image {label_text(value)!r}, as which several are called: remove "
                    "the table, if the folders are the classes, or give whole paths"
                )

    def leave_rest(self, files: list[StoredFile]) -> None:
        """Notes the images that no row names."""
        rest = len(self.listing.files) - len(files)
        if rest:
            self.notes.append(f"left aside: {format_count(rest, 'image')} that {self.table.path.name} does not name")

    def _texts(self, columns: list[str]) -> list[str]:
        """Returns each row's label as text; of several columns or several labels, what tells them from others'."""
        if len(columns) > 1:
            return [
                " ".join(map(label_text, row)) for row in zip(*(self.table.columns[c] for c in columns), strict=True)
            ]
        values = self.table.columns[columns[0]]
        texts = [",".join(map(label_text, value)) if isinstance(value, list) else label_text(value) for value in values]
        if {*_KAGGLE_IMAGENET} == {*self._by_word}:
            return [text.partition(" ")[0] for text in texts]
        names = self.table.class_names.get(columns[0])
        if names and all(text.isdecimal() and int(text) < len(names) for text in texts if text):
            return [names[int(text)] if text else "" for text in texts]
        return texts

    def _has_several(self, columns: list[str]) -> bool:
        """Returns whether an image may have several labels, or none."""
        lists = any(isinstance(value, list) for value in self.table.columns[columns[0]])
        return len(columns) > 1 or bool(self.options.label_separator) or lists

    def _kept_values(self, column: str) -> list[Any]:
        values = self.table.columns[column]
        return [values[i] for i in self._kept]

    def _several(self, value: Any) -> list[str]:
        if isinstance(value, list):
            return [label_text(item) for item in value]
        parts = label_text(value).split(self.options.label_separator) if self.options.label_separator else [value]
        return [text for text in map(label_text, parts) if text]

    def _indicators(self, columns: list[str]) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
        """Returns the labels of columns of zeros and ones: of one label an image where each row has a single one."""
        for name in columns:
            if not _is_indicator(self.table.columns[name]):
                raise UserError(
                    f"{self.table.path}: the column {name!r} must hold zeros and ones alone, as one of several"
                )
        labels = np.array([[_is_one(value) for value in self._kept_values(name)] for name in columns], np.uint8).T
        if (labels.sum(axis=1) == 1).all():
            return tuple(columns), labels.argmax(axis=1).astype(np.int32), ["each image has one label of these columns"]
        return tuple(columns), labels, [f"images have several labels of {len(columns)}, or none"]

    def _same_classes(self, columns: list[str]) -> list[str]:
        """Returns the one column of `columns` that holds names, where all of them name the same classes."""
        values = {name: [*map(label_text, self.table.columns[name])] for name in columns}
        first = values[columns[0]]
        for name in columns[1:]:
            pairs = {*zip(first, values[name], strict=True)}
            if not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                raise UserError(
                    f"{self.table.path} has several columns of labels, {abridge(columns)}, which differ: choose by "
                    "config.table.label_column"
                )
        named = [name for name in columns if not all(text.lstrip("-").isdecimal() for text in values[name])]
        return [(named or columns)[0]]

    def _splits(self, files: list[StoredFile]) -> list[str]:
        """Returns the split of each file: by its column, or by the folder that it lies in."""
        column = self.split_column()
        if column:
            return [self._split_of(label_text(value), self.table.row(i)) for i, value in self._rows(column)]
        tops = [split_in(file.path.partition("/")[0]) if "/" in file.path else None for file in files]
        if "train" in tops and len({*tops}) > 1 and None not in tops:
            self.notes.append("the splits are the folders that the images lie in")
            return [str(top) for top in tops]
        return [UNDIVIDED] * len(files)

    def _rows(self, column: str) -> list[tuple[int, Any]]:
        values = self.table.columns[column]
        return [(i, values[i]) for i in self._kept]

    def _split_of(self, text: str, row: str) -> str:
        split = split_in(text)
        if split is None:
            raise UserError(f"{row}: the split {text!r} must be one of train, validation and test")
        return split


def _is_indicator(values: Sequence[Any]) -> bool:
    return bool(values) and {*map(label_text, values)} <= {"0", "1", "True", "False"}


def _is_one(value: Any) -> bool:
    return label_text(value) in ("1", "True")
