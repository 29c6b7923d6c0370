"""Parquet files that hold the images themselves, as Hugging Face's data sets do."""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.class_folders import is_part
from resnet_jax.data.class_labels import Label, find_class_names, indexed_text, label_texts, separated
from resnet_jax.data.kept_files import kept_file
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_names import SPLIT_WORDS, UNDIVIDED, split_in, split_of
from resnet_jax.data.table_columns import LABEL_COLUMNS, SPLIT_COLUMNS
from resnet_jax.data.table_file import holds_bytes, open_parquet, parquet_class_names
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_reader import LabelledRows
from resnet_jax.data.tables import number_groups
from resnet_jax.errors import UserError, abridge, check_choice
from resnet_jax.formatting import format_count
from resnet_jax.storage.ranged_files import read_at, why_not_kept

_SHARD = re.compile(r".*-\d+-of-(\d+)(-[0-9a-f]+)?")  # train-00000-of-00002: of how many files it is one
_ROWS_AT_ONCE = 256
_INT64 = 8  # bytes


def find_embedded(listing: Listing, options: TableOptions) -> list[Path]:
    """Returns the Parquet files that hold images: that which `options` name, or all that are there; none may.

    Raises:
      UserError: for one that cannot be read.
    """
    paths = [file.path for file in listing.others if file.tar < 0 and file.path.lower().endswith(".parquet")]
    found = []
    for path in [options.file] if options.file else sorted(paths):
        with open_parquet(listing.root / path) as file:
            if any(holds_bytes(field.type) for field in file.schema_arrow):
                found.append(listing.root / path)
    return found


def open_embedded(
    listing: Listing, files: list[Path], options: TableOptions
) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled images by split, notes) of Parquet files that hold images.

    The images are copied once, as they are, into one file a Parquet file, so that each can be read alone.

    Raises:
      UserError: for files whose columns or class names differ, images that are not in the file, and columns that are
        not clear.
    """
    read = ("file", "image_column", "label_column", "label_separator", "class_names")
    options.check_read(read, "Parquet files that hold the images, each of one split by its name")
    found: dict[str, list[Path]] = {}
    for one in files:
        found.setdefault(_split(_inside(listing.root, one)), []).append(one)
    _check_one_set(listing.root, found)
    image, label = _columns(found.get("train", files)[0], options)
    notes = _leave_tests(found, label)
    names = _class_names([one for of_split in found.values() for one in of_split], image, label)
    undivided = found.get(UNDIVIDED, [])
    if undivided and len(found) > 1:
        other = next(of_split[0] for split, of_split in found.items() if split)
        raise UserError(
            f"{undivided[0]} is of no split by its name, and {other} is: give all names like train-00000.parquet"
        )
    groups: dict[str, LabelledRows] = {}
    tars: list[str] = []
    for split, shards in found.items():
        stored: list[StoredFile] = []
        labels: list[Label] = []
        for shard in shards:
            own = _labels(shard, label, names, options.label_separator)
            kept, offsets = _extract(shard, image)
            name = str(_inside(listing.root, shard))
            stored += [
                StoredFile(f"{name}[{row}]", f"{name}[{row}]", len(tars), int(start), int(end - start))
                for row, (start, end) in enumerate(itertools.pairwise(offsets))
                if own[row] != ""
            ]
            tars.append(str(kept))
            labels += [label for label in own if label != ""]
            if "" in own:
                notes.append(f"left aside: {format_count(own.count(''), 'row')} of {name} without a label")
        if stored:
            groups[split] = LabelledRows(str(_inside(listing.root, shards[0])), stored, labels, names)
        else:
            notes.append(f"left aside: {split or shards[0].name}, which has no row with a label")
    if not groups:
        raise UserError(f"{listing.root}: no row of its Parquet files has a label in their column {label}")
    notes += _doubtful_notes(found)
    given = find_class_names(listing.root, options.class_names)
    parts, more = number_groups(replace(listing, tars=tars), options, groups, given)
    said = f"images and labels by the columns {image} and {label} of {format_count(len(files), 'Parquet file')}"
    return parts, [said, *more, *notes]


def _check_one_set(root: Path, found: dict[str, list[Path]]) -> None:
    """Raises UserError if files lie in several folders that are no splits, as configs of a set do, or have two names
    of one split.
    """
    configs: dict[tuple[str, ...], Path] = {}
    for split, files in found.items():
        words: dict[str, Path] = {}
        for path in files:
            inside = _inside(root, path)
            above = [name for name in inside.parts[:-1] if name != "data" and not split_in(name) and not is_part(name)]
            configs.setdefault((*above,), path)
            known = [word for word in re.findall("[a-z]+", str(inside).lower()) if word in SPLIT_WORDS.get(split, ())]
            words.setdefault(known[-1] if known else "", path)
        if len(words) > 1:
            first, second = [*words.values()][:2]
            raise UserError(f"{first} and {second} are of one split by their names: keep one of them")
    if len(configs) > 1:
        first, second = [*configs.values()][:2]
        raise UserError(
            f"{root} holds Parquet files in several folders, such as {_inside(root, first)} and "
            f"{_inside(root, second)}, which may be the same images in several forms: open one of the folders"
        )


def _leave_tests(found: dict[str, list[Path]], label: str) -> list[str]:
    """Takes the test files out that have no column of labels, and returns a note on them."""
    if not {*found} - {"test"} or any(label in _column_names(path) for path in found.get("test", [])):
        return []
    return [f"left aside: test, whose files have no column {label}"] if found.pop("test", []) else []


def _doubtful_notes(found: dict[str, list[Path]]) -> list[str]:
    """Returns notes on columns that may divide the images, and on files that are missing by the names of others."""
    notes = []
    if UNDIVIDED in found:
        columns = [name for name in _column_names(found[UNDIVIDED][0]) if name.lower() in SPLIT_COLUMNS]
        notes += [f"left unread: the column {columns[0]}, which may divide the images"] if columns else []
    for files in found.values():
        numbered = [(path.name, int(match[1])) for path in files if (match := _SHARD.fullmatch(path.stem))]
        if numbered and len(numbered) < numbered[0][1]:
            name, total = numbered[0]
            notes.append(f"{len(numbered)} of {format_count(total, 'file')} are there, by the name of {name}")
    return notes


def _column_names(path: Path) -> list[str]:
    with open_parquet(path) as file:
        return list(file.schema_arrow.names)


def _columns(path: Path, options: TableOptions) -> tuple[str, str]:
    with open_parquet(path) as file:
        schema = file.schema_arrow
    images = [field.name for field in schema if holds_bytes(field.type)]
    others = [name for name in schema.names if name not in images]
    image = options.image_column or images[0]
    if options.image_column:
        check_choice("config.table.image_column", image, images)
    elif len(images) > 1:
        raise UserError(f"{path} has several columns of images, {abridge(images)}: choose by config.table.image_column")
    if options.label_column:
        return image, check_choice("config.table.label_column", options.label_column, others)
    labels = [name for name in others if name.lower() in LABEL_COLUMNS] or [*parquet_class_names(path, schema)]
    if len(labels) != 1:
        what = "several columns" if labels else "no column"
        raise UserError(
            f"{path} has {what} called like labels: choose by config.table.label_column, one of "
            f"{abridge(labels or others)}"
        )
    return image, labels[0]


def _class_names(files: list[Path], image: str, label: str) -> tuple[str, ...] | None:
    """Returns the class names in the files' metadata, which must be the same in all; None if none has any."""
    found: dict[Path, tuple[str, ...] | None] = {}
    for one in files:
        with open_parquet(one) as file:
            schema = file.schema_arrow
        lacking = next((name for name in (image, label) if name not in schema.names), None)
        if lacking is not None:
            raise UserError(
                f"{one} has no column {lacking!r}, as {files[0]} has, but {abridge(schema.names)}: all Parquet files "
                "of a set have the same columns"
            )
        found[one] = parquet_class_names(one, schema).get(label)
    first = found[files[0]]
    for one, names in found.items():
        if names != first:
            raise UserError(
                f"{one} says that its classes are {_shown(names)}, and {files[0]} {_shown(first)}: labels are numbers "
                "in these lists, which must be the same"
            )
    return first


def _shown(names: tuple[str, ...] | None) -> str:
    return "not known" if names is None else abridge(names, 5)


def _split(path: Path) -> str:
    """Returns the split that a file is of, by its name (train-00000-of-00002.parquet) or its folder; "" if none."""
    for part in reversed((*path.parts[:-1], path.stem)):
        if split_of(part) or split_in(part):
            return split_in(split_of(part) or part) or ""
    return ""


def _labels(path: Path, label: str, names: tuple[str, ...] | None, separator: str) -> list[Label]:
    """Returns each row's label, "" for none; of numbers the class name, where the file says these."""
    with open_parquet(path) as file:
        column = file.read(columns=[label]).column(label).to_pylist()
    labels: list[Label] = []
    for row, value in enumerate(column):
        try:
            if isinstance(value, list):
                labels.append(label_texts(indexed_text(one, names) for one in value))
            elif separator and isinstance(value, str):
                labels.append(separated(value, separator))
            else:
                labels.append(indexed_text(value, names))
        except ValueError as error:
            raise UserError(f"{path} row {row}, column {label!r}: {error}") from None
    return labels


def _extract(path: Path, image: str) -> tuple[Path, np.ndarray]:
    """Returns the file of a Parquet file's images, one behind the other, and where each begins, (N + 1,).

    Behind the images the file holds these places, and behind them their number.
    """
    if (why := why_not_kept(path)) is not None:
        raise UserError(f"{path}: images are copied out of Parquet files, and {why}; or make tars of them")
    kept = kept_file("parquet", [path], partial(_write_images, path, image), ".rows", image)
    with kept.open("rb") as file:
        file.seek(-_INT64, os.SEEK_END)
        count = int.from_bytes(file.read(_INT64), "little")
        file.seek(-_INT64 * (count + 1), os.SEEK_END)
        return kept, np.frombuffer(file.read(_INT64 * count), "<i8")


def _write_images(path: Path, image: str, target: Path) -> None:
    places = [0]
    with target.open("wb") as file:
        for data in _images(path, image):
            file.write(data)
            places.append(places[-1] + len(data))
        file.write(np.array([*places, len(places)], "<i8").tobytes())


def _images(path: Path, image: str) -> Iterator[bytes]:
    row = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[image]):
            for value in batch.column(0).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                yield data or _from_path(path, row, value)
                row += 1


def _from_path(path: Path, row: int, value: Any) -> bytes:
    """Returns the bytes of an image that the file only names, beside it.

    Raises:
      UserError: if it is named by an absolute path, as the file was made from a folder elsewhere, or is not there.
    """
    name = value.get("path") if isinstance(value, dict) else None
    if not name:
        raise UserError(f"{path} row {row} holds no image: remove the row")
    if os.path.isabs(name) or not (path.parent / name).is_file():
        raise UserError(
            f"{path} row {row} holds no image, only the path {name} of one: write the images themselves into the file "
            "(datasets' to_parquet does so after cast_column to Image and a map that reads them), or give their folder"
        )
    return read_at(path.parent / name)


def _inside(root: Path, path: Path) -> Path:
    """Returns a file's path from the folder of the images; of one elsewhere, which a table's name may be, its name."""
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
