"""Tables that say the labels of images: which, by which columns, and the files that their rows name."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_jax.data.class_labels import number_labels
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing
from resnet_jax.data.split_names import SPLIT_FOLDERS, split_in
from resnet_jax.data.table_file import SUFFIXES, describe_columns, read_table
from resnet_jax.data.table_reader import UNDIVIDED, TableOptions, TableReader
from resnet_jax.errors import UserError, abridge, check_choice

_MOST_BYTES_LOOKED_INTO = 2**28  # of a table that nobody named


def choose_tables(listing: Listing, options: TableOptions) -> dict[str, str]:
    """Returns the table that `options` name, or those that are found, from the listing's root, as `find_tables` does.

    Raises:
      UserError: if it is not there, or no table; and as `find_tables`.
    """
    if options.file:
        if not (listing.root / options.file).is_file():
            raise UserError(f"config.table.file={options.file!r} is no file in {listing.root}")
        check_choice("the end of config.table.file", Path(options.file).suffix.lower(), SUFFIXES)
        return {UNDIVIDED: options.file}
    found = find_tables(listing, options)
    return found or {UNDIVIDED: next(file.path for file in listing.others if file.path.endswith(".parquet"))}


def open_table(listing: Listing, options: TableOptions, path: Path) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of the table at `path`.

    Raises:
      UserError: for a table that cannot be read, columns that are not there or not clear, rows whose image is not
        there, and labels that contradict each other.
    """
    reader = TableReader(listing, options, read_table(path))
    return reader.parts(), reader.notes


def open_split_tables(
    listing: Listing, options: TableOptions, paths: dict[str, str]
) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of tables of which each says the labels of one split.

    Args:
      paths: the tables, from the listing's root, by split.

    Errors are those of `open_table`.
    """
    parts: dict[str, LabelledFiles] = {}
    notes: list[str] = []
    for split, path in paths.items():
        own = [file for file in listing.files if split_in(file.path.partition("/")[0]) == split]
        part = Listing(listing.root, own or listing.files, listing.others, listing.folders, listing.tars)
        reader = TableReader(part, options, read_table(listing.root / path))
        found = reader.parts()
        if [*found] != [UNDIVIDED]:
            raise UserError(
                f"{listing.root / path} divides its images itself, and other tables are there for that: choose by "
                f"config.table.file={path}"
            )
        parts[split] = found[UNDIVIDED]
        notes += reader.notes
    flat = [name for part in parts.values() for name in part.class_names]
    names = number_labels(str(listing.root), flat)[0]
    return {split: with_classes(part, str(listing.root), names) for split, part in parts.items()}, notes


def with_classes(part: LabelledFiles, where: str, names: tuple[str, ...]) -> LabelledFiles:
    """Returns the same files, labelled by positions in `names`: of the classes' own, or which their numbers count.

    Raises:
      UserError: for a class that is not among them.
    """
    names, positions, _ = number_labels(where, part.class_names, names)
    labels = np.zeros((len(part.files), len(names)), np.uint8) if part.labels.ndim == 2 else positions[part.labels]
    if labels.ndim == 2:
        labels[:, positions] = part.labels
    return replace(part, class_names=names, labels=labels)


def find_tables(listing: Listing, options: TableOptions) -> dict[str, str]:
    """Returns the tables among the listing's files that name its images and their labels, by split.

    One alone is of the split UNDIVIDED; none is {}.

    Raises:
      UserError: if there are several that are not each of another split by their names or folders.
    """
    found = [path for path in _candidates(listing) if _names_images(listing, options, path)]
    if len(found) < 2:
        return {UNDIVIDED: found[0]} if found else {}
    splits = {split_in(Path(path).stem) or split_in(path.partition("/")[0]): path for path in found}
    if len(splits) < len(found) or None in splits or "train" not in splits:
        raise UserError(
            f"{listing.root} holds several tables of labels, {abridge(found)}: choose by config.table.file={found[0]}"
        )
    return {split: splits[split] for split in SPLIT_FOLDERS if split in splits}


def _candidates(listing: Listing) -> list[str]:
    """Returns the tables that lie no deeper than one folder, but those that a competition wants to be sent."""
    return [
        file.path
        for file in listing.others
        if file.tar < 0
        and file.path.lower().endswith(SUFFIXES)
        and file.path.count("/") < 2
        and "submission" not in file.path.lower()
        and (listing.root / file.path).stat().st_size <= _MOST_BYTES_LOOKED_INTO
    ]


def _names_images(listing: Listing, options: TableOptions, path: str) -> bool:
    """Returns whether the table has columns of images and labels, and most of its first rows name images there."""
    try:
        table = read_table(listing.root / path)
        reader = TableReader(listing, options, table)
        reader.label_columns()
        column = reader.image_column()
        values = table.columns[column][:100]
        return 2 * sum(reader.finder.knows(value) for value in values) > len(values)
    except UserError:
        return False


def describe_candidates(listing: Listing) -> str:
    """Returns, for a message, which tables are there and the columns of the first; empty if there are none."""
    paths = _candidates(listing)
    if not paths:
        return ""
    try:
        columns = f" with the columns {describe_columns(read_table(listing.root / paths[0]))}"
    except UserError as error:
        columns = f", which is not read: {error}"
    more = f"; also {abridge(paths[1:], 3)}" if len(paths) > 1 else ""
    return f"; there is {paths[0]}{columns}{more}"


def compare_with_folders(listing: Listing, options: TableOptions, known: set[str]) -> str:
    """Returns a line on tables that were not read, as the folders say the classes; empty if there are none.

    Args:
      known: paths of the images whose folders say their classes.

    Raises:
      UserError: if such a table names other labels than the folders do.
    """
    paths = _candidates(listing)
    for path in paths:
        if not _names_images(listing, options, path):
            continue
        reader = TableReader(listing, options, read_table(listing.root / path))
        folder_of: dict[str, tuple[str, str]] = {}
        label_of: dict[str, tuple[str, str]] = {}
        for file, label in reader.known_files(known):
            folder = file.path.rpartition("/")[0].rpartition("/")[2]
            first = label_of.setdefault(folder, (label, file.path))
            back = folder_of.setdefault(label, (folder, file.path))
            if first[0] != label or back[0] != folder:
                other = first[1] if first[0] != label else back[1]
                raise UserError(
                    f"{listing.root / path} names other labels than the folders do ({other} and {file.path}): read it "
                    f"by config.table.file={path}, or remove it"
                )
    return f"{abridge(paths)} not read, as the folders are the classes (config.table.file reads it)" if paths else ""


def label_split(
    listing: Listing, options: TableOptions, split: str, folder: str, class_names: tuple[str, ...] | None
) -> tuple[LabelledFiles, str, str] | None:
    """Returns (the labelled files, a note, the table) of a split whose images lie in no class folders; None if no table
    is of this split, by the folder that it lies in or by its name: other splits may have images of the same names.
    """
    inside = [file for file in listing.files if file.path.startswith(f"{folder}/")]
    others = [
        file for file in listing.others if file.path.startswith(f"{folder}/") or split_in(Path(file.path).stem) == split
    ]
    part = Listing(listing.root, inside, others, listing.folders, listing.tars)
    paths = find_tables(part, options)
    if not paths:
        return None
    if [*paths] != [UNDIVIDED]:
        raise UserError(f"{listing.root / folder}: {abridge([*paths.values()])} all name its images: keep one")
    path = paths[UNDIVIDED]
    reader = TableReader(part, options, read_table(listing.root / path))
    files, texts = reader.files_and_texts()
    reader.leave_rest(files)
    names, labels, notes = number_labels(str(reader.table.path), texts, class_names)
    note = "; ".join([f"the {split} images in {folder} have the labels that {path} says", *reader.notes, *notes])
    return LabelledFiles(folder, names, files, labels, listing.tars), note, path
