"""Tables that say the labels of images: which, by which columns, and the files that their rows name."""

from dataclasses import replace
from pathlib import Path

from resnet_jax.data.class_labels import number_labels
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.labels import relabelled
from resnet_jax.data.listing import Listing
from resnet_jax.data.split_names import SPLIT_FOLDERS, UNDIVIDED, split_in
from resnet_jax.data.table_file import SUFFIXES, describe_columns, read_table
from resnet_jax.data.table_reader import TableOptions, TableReader
from resnet_jax.errors import UserError, abridge, check_choice

_MOST_BYTES_LOOKED_INTO = 2**28  # of a table that nobody named
_MOST_ROWS_LOOKED_AT = 100


def named_table(listing: Listing, options: TableOptions) -> Path:
    """Returns the table that `options` name, or else the first Parquet file.

    Raises:
      UserError: if it is not there, or no table.
    """
    if not options.file:
        return listing.root / next(file.path for file in listing.others if file.path.endswith(".parquet"))
    if not (listing.root / options.file).is_file():
        raise UserError(f"config.table.file={options.file!r} is no file in {listing.root}")
    check_choice("the end of config.table.file", Path(options.file).suffix.lower(), SUFFIXES)
    return listing.root / options.file


def open_table(listing: Listing, options: TableOptions, path: Path) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of the table at `path`.

    Raises:
      UserError: for a table that cannot be read, columns that are not there or not clear, rows whose image is not
        there, and labels that contradict each other.
    """
    reader = TableReader(listing, options, read_table(path))
    return reader.parts(), reader.notes


def open_found_tables(readers: dict[str, TableReader]) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of what `find_tables` gave: one table, or one a split.

    Errors are those of `open_table`.
    """
    if UNDIVIDED in readers:
        reader = readers[UNDIVIDED]
        return reader.parts(), reader.notes
    parts: dict[str, LabelledFiles] = {}
    notes: list[str] = []
    for split, everywhere in readers.items():
        listing, table = everywhere.listing, everywhere.table
        own = [file for file in listing.files if split_in(file.path.partition("/")[0]) == split]
        reader = TableReader(replace(listing, files=own or listing.files), everywhere.options, table)
        found = reader.parts()
        if [*found] != [UNDIVIDED]:
            raise UserError(
                f"{table.path} divides its images itself, and other tables are there for that: choose by "
                f"config.table.file={table.path.relative_to(listing.root)}"
            )
        parts[split] = found[UNDIVIDED]
        notes += reader.notes
    root = str(next(iter(readers.values())).listing.root)
    names = number_labels(root, [name for part in parts.values() for name in part.class_names])[0]
    return {split: with_classes(part, root, names) for split, part in parts.items()}, notes


def with_classes(part: LabelledFiles, where: str, names: tuple[str, ...]) -> LabelledFiles:
    """Returns the same files, labelled by positions in `names`: of the classes' own, or which their numbers count.

    Raises:
      UserError: for a class that is not among them.
    """
    names, positions, _ = number_labels(where, part.class_names, names)
    return replace(part, class_names=names, labels=relabelled(part.labels, positions, len(names)))


def find_tables(listing: Listing, options: TableOptions) -> dict[str, TableReader]:
    """Returns the tables among the listing's files that name its images and their labels, by split.

    One alone is of the split UNDIVIDED; none is {}.

    Raises:
      UserError: if there are several that are not each of another split by their names or folders.
    """
    found = {path: reader for path in _candidates(listing) if (reader := _reader(listing, options, path)) is not None}
    if len(found) < 2:
        return {UNDIVIDED: next(iter(found.values()))} if found else {}
    splits = {split_in(Path(path).stem) or split_in(path.partition("/")[0]): path for path in found}
    if len(splits) < len(found) or None in splits or "train" not in splits:
        paths = [*found]
        raise UserError(
            f"{listing.root} holds several tables of labels, {abridge(paths)}: choose by config.table.file={paths[0]}"
        )
    return {split: found[splits[split]] for split in SPLIT_FOLDERS if split in splits}


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


def _reader(listing: Listing, options: TableOptions, path: str) -> TableReader | None:
    """Returns the table's reader; None if it lacks columns of images and labels, or names few images that are there."""
    try:
        reader = TableReader(listing, options, read_table(listing.root / path))
        reader.label_columns()
        values = reader.table.columns[reader.image_column()][:_MOST_ROWS_LOOKED_AT]
    except UserError:
        return None
    return reader if 2 * sum(reader.finder.knows(value) for value in values) > len(values) else None


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
        reader = _reader(listing, options, path)
        if reader is None:
            continue
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
    readers = find_tables(replace(listing, files=inside, others=others), options)
    if not readers:
        return None
    if UNDIVIDED not in readers:
        paths = [str(reader.table.path.relative_to(listing.root)) for reader in readers.values()]
        raise UserError(f"{listing.root / folder}: {abridge(paths)} all name its images: keep one")
    reader = readers[UNDIVIDED]
    path = str(reader.table.path.relative_to(listing.root))
    files, texts = reader.files_and_texts()
    reader.leave_rest(files)
    names, labels, notes = number_labels(str(reader.table.path), texts, class_names)
    note = "; ".join([f"the {split} images in {folder} have the labels that {path} says", *reader.notes, *notes])
    return LabelledFiles(folder, names, files, labels, listing.tars), note, path
