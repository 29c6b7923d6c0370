"""Which columns of a table are the images, the labels and the splits: as the config says, or by their usual names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resnet_jax.data.cells import MOST_ROWS_LOOKED_AT, cell_text, is_indicator
from resnet_jax.data.image_formats import is_image
from resnet_jax.data.split_names import BELONGINGS, SPLIT_WORDS, plain_split, split_in
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError, abridge, check_choice

if TYPE_CHECKING:
    from resnet_jax.data.table_file import Table

IMAGE_COLUMNS = (
    "image", "img", "image_path", "img_path", "path", "filepath", "filepaths", "file_path", "file", "filename",
    "filenames", "file_name", "image_file", "image_name", "img_name", "imagename", "image_id", "imageid", "img_id",
    "id_code", "image_index", "images", "id", "name", "photo", "picture",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classes", "class_name", "classname", "category", "target", "species", "breed",
    "diagnosis", "dx", "label_name", "class_label", "class_id", "classid", "label_id", "finding_labels", "tags", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
# LOC_val_solution.csv: "n01751748 111 108 230 366", the box behind it.
_KAGGLE_IMAGENET = ("imageid", "predictionstring")
_IS_SPLIT = re.compile(r"is_?(.+)")  # is_valid, of true and false
_ROW_NUMBERS = ("", "unnamed_0", "index")


class TableColumns:
    """The columns of a table, found once each.

    Errors are UserError: if a column is not there, or more than one could be it.
    """

    def __init__(self, table: "Table", options: TableOptions, count_files: Callable[[Sequence[Any]], int]) -> None:
        """Keeps `count_files`, which says how many of the first values of a column name an image that is there."""
        self._table, self._options, self._count_files = table, options, count_files
        self._by_word: dict[str, list[str]] = {}
        for name in table.columns:
            self._by_word.setdefault(re.sub(r"\W+", "_", name.strip().lower()).strip("_"), []).append(name)

    @cached_property
    def image(self) -> str:
        """The column that names the images: of several that may, the one of which most images are there."""
        if self._options.image_column:
            return check_choice("config.table.image_column", self._options.image_column, self._table.columns)
        columns = self._table.columns
        found = self._called(IMAGE_COLUMNS, "image_column")
        if all(self._is_number(name) for name in found):  # an id may number the rows, beside the files' names
            named = [name for name, values in columns.items() if _name_files(values) and not _is_of_masks(name)]
            found = [*named, *found]
        if not found:
            raise UserError(
                f"{self._table.path} has no column that is called like images (image, file_name, path …): name it by "
                f"config.table.image_column, one of {abridge([*self._table.columns])}"
            )
        return max(found, key=lambda name: self._count_files(columns[name]))

    def _is_number(self, name: str) -> bool:
        """Returns whether a column's first values are whole numbers."""
        return all(cell_text(value).isdecimal() for value in self._table.columns[name][:MOST_ROWS_LOOKED_AT])

    @property
    def name_images(self) -> bool:
        """True if most first rows name an image that is there."""
        values = self._table.columns[self.image][:MOST_ROWS_LOOKED_AT]
        return 2 * self._count_files(values) > len(values)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels: one, or several of zeros and ones."""
        columns, given = self._table.columns, self._options.label_column
        if given:
            names = [given] if given in columns else [name.strip() for name in given.split(",")]
            return tuple(check_choice("config.table.label_column", name, columns) for name in names)
        if self.is_kaggle_imagenet:
            return (self._by_word[_KAGGLE_IMAGENET[1]][0],)
        found = [name for name in self._called(LABEL_COLUMNS, "label_column") if name != self.image]
        if found:
            return (self._same_classes(found),)
        splits = {self.split, *self.split_indicators.values()}
        others = [
            name for word, names in self._by_word.items() for name in names
            if word not in _ROW_NUMBERS and name != self.image and name not in splits
        ]  # fmt: skip
        if len(others) > 1 and all(is_indicator(columns[name]) for name in others):
            return tuple(others)
        raise UserError(
            f"{self._table.path} has no column that is called like labels (label, class …): name it by "
            f"config.table.label_column, one of {abridge([*self._table.columns])}"
        )

    @cached_property
    def is_kaggle_imagenet(self) -> bool:
        """True if it is ImageNet's validation table of Kaggle, whose labels have boxes behind them."""
        return {*_KAGGLE_IMAGENET} == {*self._by_word}

    @cached_property
    def split(self) -> str:
        """The column that says the split, by its name or as it holds words of splits alone; "" if there is none."""
        if self._options.split_column:
            return check_choice("config.table.split_column", self._options.split_column, self._table.columns)
        by_name = self._called(SPLIT_COLUMNS, "split_column")
        if by_name and by_name[0] != self.no_split:
            return by_name[0]
        known = {*self._called(LABEL_COLUMNS, "label_column"), self._options.label_column, self.image}
        found = [name for name in self._table.columns if name not in known and _hold_splits(self._table.columns[name])]
        if len(found) > 1:
            raise UserError(
                f"{self._table.path} has several columns of splits, {abridge(found)}: choose by "
                "config.table.split_column"
            )
        return found[0] if found else ""

    @cached_property
    def no_split(self) -> str:
        """The column `set` if it holds texts that name no splits, as the set of a card; "" otherwise.

        Numbers may stand for splits.
        """
        called = [] if self._options.split_column else self._called(SPLIT_COLUMNS, "split_column")
        if not called or called[0] not in self._by_word.get("set", []):
            return ""
        texts = {*map(cell_text, self._table.columns[called[0]])}
        return "" if any(split_in(text) or text.lstrip("-").isdecimal() for text in texts) else called[0]

    @cached_property
    def split_indicators(self) -> dict[str, str]:
        """The columns by split that say of each image whether it is of this: is_valid, of true and false."""
        found = {}
        has_labels = bool(self._options.label_column or self._called(LABEL_COLUMNS, "label_column"))
        for word, names in self._by_word.items():
            match = _IS_SPLIT.fullmatch(word)
            split = split_in(match[1].replace("_", " ")) if match else None
            if has_labels and word in (*SPLIT_WORDS, "val") and names[0] not in self._options.label_column.split(","):
                split = split_in(word)  # train, of zeros and ones; without a column of labels it may be a class
            if split and is_indicator(self._table.columns[names[0]]):
                found[split] = names[0]
        return found

    @property
    def dividing(self) -> list[str]:
        """The columns that divide the images; none where that is not clear."""
        try:
            return [self.split] if self.split else [*self.split_indicators.values()]
        except UserError:
            return []

    def _called(self, words: Sequence[str], field: str) -> list[str]:
        """Returns the columns that are called by one of `words`, in their order."""
        found = [self._by_word[word] for word in words if word in self._by_word]
        for names in found:
            if len(names) > 1:
                raise UserError(
                    f"{self._table.path} has the columns {abridge([*map(repr, names)])}, whose names hardly differ: "
                    f"choose by config.table.{field}, or rename one"
                )
        return [names[0] for names in found]

    def _same_classes(self, columns: list[str]) -> str:
        """Returns the one column of `columns` that holds names, where all of them name the same classes."""
        values = {name: [*map(cell_text, self._table.columns[name])] for name in columns}
        first = values[columns[0]]
        for name in columns[1:]:
            pairs = {*zip(first, values[name], strict=True)}
            if not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                raise UserError(
                    f"{self._table.path} has several columns of labels, {abridge(columns)}, which differ: choose by "
                    "config.table.label_column"
                )
        named = [name for name in columns if not all(text.lstrip("-").isdecimal() for text in values[name])]
        return (named or columns)[0]


def _name_files(values: Sequence[Any]) -> bool:
    """Returns whether most of a column's first values are called like image files."""
    first = [cell_text(value) for value in values[:MOST_ROWS_LOOKED_AT]]
    return 2 * sum(map(is_image, first)) > len(first)


def _is_of_masks(name: str) -> bool:
    return not {*re.findall("[a-z]+", name.lower())}.isdisjoint(BELONGINGS)


def _hold_splits(values: Sequence[Any]) -> bool:
    """Returns whether a column holds words of splits alone, training and another."""
    if not isinstance(next((value for value in values if value is not None), None), str):
        return False
    counts = Counter(map(cell_text, values))
    splits = {plain_split(text) for text in counts} if len(counts) <= MOST_ROWS_LOOKED_AT else {None}
    return None not in splits and "train" in splits and len(splits) > 1
