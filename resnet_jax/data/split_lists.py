"""Divides images in class folders by the lists that a config names: a text file or a table for each split."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_jax.data.class_counts import check_counts
from resnet_jax.data.file_finder import FileFinder, FileIndex
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.table_columns import TableColumns
from resnet_jax.data.table_file import SUFFIXES, read_table, read_text
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.formatting import format_count

TEXT_SUFFIXES = (".txt", ".lst")


def is_list(path: str) -> bool:
    """Returns whether a file may be such a list, by the end of its name."""
    return path.lower().endswith((*TEXT_SUFFIXES, *SUFFIXES))


def find_lists(listing: Listing, named: Mapping[str, str]) -> dict[str, str]:
    """Returns the paths of the lists, from the root, by split; empty if folders are named.

    Args:
      named: what config.split_folders names, by split.

    Raises:
      UserError: for a list that is not there or has none of the endings of lists, and for lists beside folders.
    """
    paths = {split: posixpath.normpath(name) for split, name in named.items()}
    files = {file.path for file in listing.others if file.tar < 0}
    for split, path in paths.items():
        if is_list(path) and path not in {*files, *listing.folders}:
            raise UserError(f"config.split_folders.{split}={named[split]!r} is no file in {listing.root}")
    lists = {split: path for split, path in paths.items() if path in files}
    if not lists:
        return {}
    for split, path in paths.items():
        if split not in lists:
            raise UserError(
                f"config.split_folders.{split}={named[split]!r} is no list, and {abridge([*lists.values()])} is: name "
                "lists alone, or folders alone"
            )
        if not is_list(path):
            raise UserError(
                f"config.split_folders.{split}={named[split]!r} must end in one of "
                f"{', '.join((*TEXT_SUFFIXES, *SUFFIXES))}"
            )
    for split, path in lists.items():
        other = next(one for one, same in lists.items() if same == path)
        if other != split:
            raise UserError(f"config.split_folders.{split} and .{other} name one list, {path}: name a list for each")
    if "train" not in lists:
        raise UserError(f"config.split_folders.train is not set, but that of {next(iter(lists))} is: name it too")
    return lists


def divide_by_lists(
    listing: Listing, part: LabelledFiles, lists: Mapping[str, str], image_column: str = ""
) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the files of each split with the labels of their folders, notes).

    A line of a text file is the path of an image, with its ending or without; a label may follow. A row of a table
    names an image by `image_column`, or by the column that is called so.

    Args:
      part: the images of all splits.
      lists: paths from the root, by split.

    Raises:
      UserError: for a list that cannot be read or names no image, a line that names none or several, and an image in
        two lists.
    """
    index = FileIndex(part.files)
    position = {file.path: i for i, file in enumerate(part.files)}
    list_of: dict[str, str] = {}
    parts = {}
    for split, path in lists.items():
        files = _named_files(listing.root / path, FileFinder(index, dict.fromkeys(_starts(path, part))), image_column)
        chosen = set()
        for row, file in files:
            other = list_of.setdefault(file.path, path)
            if other != path:
                raise UserError(f"{row} names {file.path}, which {other} names too: an image is of one split")
            chosen.add(position[file.path])
        if not chosen:
            raise UserError(f"{listing.root / path} names no image")
        order = sorted(chosen)  # as the folders have them, whatever the list's order
        parts[split] = replace(part, where=path, files=[part.files[i] for i in order], labels=part.labels[order])
    notes = [f"{split} images by the list {path}" for split, path in lists.items()]
    notes += check_counts(str(listing.root), parts)
    rest = len(part.files) - len(list_of)
    if rest:
        notes.append(f"left aside: {format_count(rest, 'image')} that no list names")
    return parts, notes


def _starts(path: str, part: LabelledFiles) -> list[str]:
    """Returns the folders that paths in a list may start from: its own, the class folders', the root."""
    return [path.rpartition("/")[0], part.where, ""]


def _named_files(path: Path, finder: FileFinder, image_column: str) -> Iterator[tuple[str, StoredFile]]:
    """Yields (the line or row for messages, the image that it names)."""
    values: Sequence[Any]
    if path.suffix.lower() in SUFFIXES:
        rows, values = _read_table(path, finder, image_column)
    else:
        numbered = [(i, line.strip()) for i, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
        rows = [f"{path} line {i}" for i, _ in numbered]
        values = _without_labels([line for _, line in numbered], finder)
    finder.learn(values)
    for row, value in zip(rows, values, strict=True):
        found = finder.candidates(value)
        if not found:
            raise UserError(f"{row} names {truncate(value)!r}, which is no image in the class folders")
        if len(found) > 1:
            raise UserError(f"{row} names {truncate(value)!r}, as which several images are called: give whole paths")
        yield row, found[0]


def _read_table(path: Path, finder: FileFinder, image_column: str) -> tuple[list[str], Sequence[Any]]:
    table = read_table(path)
    columns = TableColumns(table, TableOptions(image_column=image_column), finder.count)
    column = columns.image
    if any(len({*table.columns[name]}) > 1 for name in columns.dividing):
        raise UserError(
            f"{path} divides its images itself, by its column {abridge(columns.dividing)}: read it by "
            f"config.table.file={path.name}, or give a list for each split"
        )
    return [table.row(i) for i in range(table.num_rows)], table.columns[column]


def _without_labels(lines: list[str], finder: FileFinder) -> list[str]:
    """Returns the paths in lines: the whole, or what stands before a tab, a comma, the first or the last space.

    The form counts of which most name images, and the longest of these.
    """
    before = [[line.split(separator, 1)[0] for line in lines] for separator in ("\t", ",", None)]
    return max([lines, *before, [line.rsplit(None, 1)[0] for line in lines]], key=finder.count)
