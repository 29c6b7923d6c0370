"""Reads the rows of a table: the images that they name, their labels, and their splits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resnet_jax.data.cells import cell_text, is_indicator, is_yes
from resnet_jax.data.class_labels import NO_VALUE, Label, find_class_names, indexed_text, label_texts, separated
from resnet_jax.data.file_finder import FileFinder
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_names import UNDIVIDED, are_splits, split_in
from resnet_jax.data.table_file import Table
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

if TYPE_CHECKING:
    from resnet_jax.data.table_columns import TableColumns


@dataclass(frozen=True)
class LabelledRows:
    """The images that a table names, each once, with their labels.

    Attributes:
      path: the table, as messages call it.
      class_names: of all classes, where the table says them.
    """

    path: str
    files: list[StoredFile]
    labels: list[Label]
    class_names: tuple[str, ...] | None = None

    def of(self, chosen: Sequence[int]) -> "LabelledRows":
        """Returns the rows at these places."""
        files, labels = [self.files[i] for i in chosen], [self.labels[i] for i in chosen]
        return LabelledRows(self.path, files, labels, self.class_names)


class TableReader:
    """Reads one table of a folder's images."""

    def __init__(
        self,
        listing: Listing,
        options: TableOptions,
        table: Table,
        finder: FileFinder,
        columns: "TableColumns",
    ) -> None:
        """Keeps the table, its columns, and how files are found."""
        self.listing, self.options, self.table, self.finder, self.columns = listing, options, table, finder, columns
        self.notes: list[str] = []

    @property
    def path(self) -> str:
        """The table's path from the root, as messages call it."""
        path, root = self.table.path, self.listing.root
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    @cached_property
    def rows(self) -> LabelledRows:
        """The rows that have a label; the same image named again is taken once.

        Errors are UserError: for a row whose image is not there, a label that is none, and an image that is named with
        two labels.
        """
        images = self.table.columns[self.columns.image]
        self.finder.learn(images)
        if self.finder.by_name_alone:
            self.notes.append(f"the folders that {self.path} names are not there: images found by their names alone")
        labels = self.labels()
        self._kept: list[int] = []
        seen: dict[str, int] = {}
        files: list[StoredFile] = []
        num_again = 0
        for i, value in enumerate(images):
            if labels[i] == "":
                continue
            found = self.finder.candidates(value)
            if len(found) != 1:
                raise UserError(self._not_one(i, value, found))
            first = seen.setdefault(found[0].path, i)
            if first == i:
                self._kept.append(i)
                files.append(found[0])
            elif labels[first] != labels[i]:
                raise UserError(
                    f"{self.table.row(i)} gives {found[0].path} another label than an earlier row: each image has one "
                    "row; several labels are written in one, with config.table.label_separator between"
                )
            elif self._stated_split(first) != self._stated_split(i):
                raise UserError(
                    f"{self.table.row(i)} gives {found[0].path} another split than an earlier row: an image is of one "
                    "split"
                )
            else:
                num_again += 1
        num_without = labels.count("")
        if num_without:
            self.notes.append(
                f"left aside: {format_count(num_without, 'row')} of {self.path} without a label{self._empty_words()}"
            )
        if num_again:
            again = format_count(num_again, "row")
            self.notes.append(f"left aside: {again} of {self.path} with an image and label of an earlier row")
        self.notes.insert(
            0,
            f"labels by {self.path}: images by its column {self.columns.image}, labels by "
            f"{abridge(self.columns.labels, 4)}",
        )
        return LabelledRows(self.path, files, [labels[i] for i in self._kept], self._class_names())

    def _empty_words(self) -> str:
        """Returns what is written instead of a label, as a class may be called so; empty if nothing is."""
        if len(self.columns.labels) > 1:
            return ""
        words = {cell_text(value) for value in self.table.columns[self.columns.labels[0]]} & (NO_VALUE - {""})
        way = ": a class of that name must be in config.table.class_names"
        return f" ({abridge(sorted(words))}{way})" if words else ""

    def labels(self) -> list[Label]:
        """Returns each row's label; "" for none."""
        columns = self.columns.labels
        values = [self.table.columns[name] for name in columns]
        if len(columns) > 1:
            return self._of_indicators(columns, values)
        several = any(isinstance(value, list) for value in values[0])
        return [self._label(i, value, several) for i, value in enumerate(values[0])]

    def _stated_split(self, i: int) -> Any:
        """Returns what a row says of its split, if the table does."""
        if self.columns.split:
            return cell_text(self.table.columns[self.columns.split][i])
        return [cell_text(self.table.columns[name][i]) for name in (self.columns.split_indicators or {}).values()]

    def splits(self) -> list[str]:
        """Returns the split of each of `rows`: by a column, or by the folders that the images lie in.

        Raises:
          UserError: for a split that is none, and images beside the splits' folders.
        """
        files = self.rows.files
        if self.columns.no_split:
            self.notes.append(f"its column {self.columns.no_split} names no splits")
        if self.columns.split:
            self.notes.append(f"splits by its column {self.columns.split}")
            values = self.table.columns[self.columns.split]
            return [self._split_of(i, cell_text(values[i])) for i in self._kept]
        indicators = self.columns.split_indicators
        if indicators:
            self.notes.append(f"splits by its columns {abridge([*indicators.values()])}")
            return [self._split_indicated(i, indicators) for i in self._kept]
        around = common_folder(files)
        depth = around.count("/") + 1 if around else 0
        inner = [file.path.split("/")[depth:-1] for file in files]
        for level in range(max(map(len, inner), default=0)):
            names = [folders[level] if level < len(folders) else "" for folders in inner]
            if not are_splits([*dict.fromkeys(names)], ()):
                continue
            beside = next((file for file, name in zip(files, names, strict=True) if split_in(name) is None), None)
            if beside is not None:
                raise UserError(
                    f"{self.table.path} names {beside.path} beside images in folders of splits, "
                    f"{abridge(sorted({*names} - {''}))}: say the splits in a column (config.table.split_column), or "
                    "take these rows out"
                )
            self.notes.append("the splits are the folders that the images lie in")
            return [str(split_in(name)) for name in names]
        return [UNDIVIDED] * len(files)

    @cached_property
    def _listed_classes(self) -> tuple[str, ...] | None:
        """The names in the file of class names; None if there is none."""
        return find_class_names(self.listing.root, self.options.class_names)

    def _class_names(self) -> tuple[str, ...] | None:
        given = self._listed_classes
        if given is None and len(self.columns.labels) > 1:
            return self.columns.labels
        return given or self.table.class_names.get(self.columns.labels[0])

    def _not_one(self, i: int, value: Any, found: list[StoredFile]) -> str:
        row, name = self.table.row(i), cell_text(value)
        if found:
            return (
                f"{row} names the image {name!r}, as which several are called, {abridge([f.path for f in found], 3)}: "
                "give whole paths, or name their folder (config.table.image_dir)"
            )
        lost = sum(not self.finder.candidates(value) for value in self.table.columns[self.columns.image])
        more = f", as are {lost - 1:,} others" if lost > 1 else ""
        return (
            f"{row} names the image {name!r}, which is not in {self.listing.root / self.options.image_dir}{more}: "
            "mend the table (config.table.image_dir says where paths start)"
        )

    def _label(self, i: int, value: Any, several: bool) -> Label:
        separator, names = self.options.label_separator, self.table.class_names.get(self.columns.labels[0])
        try:
            if isinstance(value, list):
                return label_texts(indexed_text(item, names) for item in value)
            if separator:
                return separated(cell_text(value), separator)
            if self.columns.is_kaggle_imagenet:
                value = cell_text(value).partition(" ")[0]
            text = indexed_text(value, names)
            if not text and cell_text(value) in (self._listed_classes or ()):  # a class may be called None
                text = cell_text(value)
            return (text,) if several and text else text
        except ValueError as error:
            raise UserError(f"{self.table.row(i)}: {error}") from None

    def _of_indicators(self, columns: Sequence[str], values: list[Sequence[Any]]) -> list[Label]:
        """Returns the labels of columns of zeros and ones: of one label an image where each row has a single one."""
        for name, column in zip(columns, values, strict=True):
            if not is_indicator(column):
                raise UserError(
                    f"{self.table.path}: the column {name!r} must hold zeros and ones alone, as one of several"
                )
        rows = zip(*(map(is_yes, column) for column in values), strict=True)
        labels = [tuple(name for name, yes in zip(columns, row, strict=True) if yes) for row in rows]
        if all(len(label) == 1 for label in labels):
            self.notes.append("each image has one label of these columns")
            return [label[0] for label in labels]
        self.notes.append(f"images have several labels of {len(columns)}, or none")
        return list(labels)

    def _split_of(self, i: int, text: str) -> str:
        split = split_in(text)
        if split is None:
            raise UserError(f"{self.table.row(i)}: the split {text!r} must be one of train, validation and test")
        return split

    def _split_indicated(self, i: int, indicators: dict[str, str]) -> str:
        """Returns the split of row `i` by columns of true and false; is_train alone leaves the rest to be tests."""
        yes = [split for split, name in indicators.items() if is_yes(self.table.columns[name][i])]
        if len(yes) > 1:
            raise UserError(f"{self.table.row(i)} is of several splits, {abridge(yes)}: an image is of one")
        return yes[0] if yes else ("test" if "train" in indicators else "train")


def common_folder(files: Sequence[StoredFile]) -> str:
    """Returns the folder that all files lie in, below any others; "" for the root."""
    return os.path.commonpath([file.path.rpartition("/")[0] for file in files]) if files else ""
