"""Finds the tables that say the labels of a folder's images, and why others are none."""

from pathlib import Path

from resnet_jax.data.file_finder import FileFinder, FileIndex
from resnet_jax.data.listing import Listing
from resnet_jax.data.split_names import SPLIT_FOLDERS, UNDIVIDED, split_in
from resnet_jax.data.table_columns import TableColumns
from resnet_jax.data.table_file import SUFFIXES, read_head, read_table
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_reader import TableReader, common_folder
from resnet_jax.errors import UserError, abridge, check_choice, truncate
from resnet_jax.formatting import format_count

_MOST_BYTES = 2**28  # of a table that nobody named
# Files that hold labels in forms that are not read. Some forms may hold anything: there the name decides.
_OTHER_TABLES = (".xlsx", ".xls", ".ods", ".mat", ".pkl", ".feather", ".arrow", ".db", ".sqlite", ".json", ".csv.gz")


def check_named_table(listing: Listing, options: TableOptions) -> None:
    """Raises UserError if the table that `options` name is not there, or no table."""
    path = listing.root / options.file
    if not path.is_file():
        raise UserError(f"config.table.file={options.file!r} is no file in {listing.root}")
    check_choice("the end of config.table.file", path.suffix.lower(), SUFFIXES)


def open_named_table(listing: Listing, options: TableOptions) -> dict[str, TableReader]:
    """Returns the table that `options` name, as `find_tables` does one.

    Raises:
      UserError: if it cannot be read.
    """
    path = listing.root / options.file
    index, around = _index_files(listing, options), common_folder(listing.files)
    return {UNDIVIDED: _make_reader(listing, options, path, index, around, None)}


def find_tables(listing: Listing, options: TableOptions) -> dict[str, TableReader]:
    """Returns the tables among the listing's files that name its images and their labels, by split.

    One alone is of the split UNDIVIDED; none is {}.

    Raises:
      UserError: if there are several that are not each of another split by their names or folders.
    """
    found = {path: one for path, one in table_readers(listing, options).items() if isinstance(one, TableReader)}
    if len(found) < 2:
        return {UNDIVIDED: next(iter(found.values()))} if found else {}
    splits = {split_of_table(path): path for path in found}
    if len(splits) < len(found) or None in splits or "train" not in splits:
        paths = [*found]
        raise UserError(
            f"{listing.root} holds several tables of labels, {abridge(paths)}: choose by config.table.file={paths[0]}"
        )
    return {split: found[splits[split]] for split in SPLIT_FOLDERS if split in splits}


def find_whole_tables(listing: Listing, options: TableOptions) -> dict[str, TableReader]:
    """Does as `find_tables`, for tables that say the whole set.

    Raises:
      UserError: also for one of test or validation images by its name, if it leaves images without a label.
    """
    found = find_tables(listing, options)
    reader = found.get(UNDIVIDED)
    split = split_in(Path(reader.path).stem) if reader else None
    if reader and split not in (None, "train") and len(reader.rows.files) < len(listing.files):
        raise UserError(
            f"{listing.root / reader.path} alone names images, and only {split} images by its name: add a table of the "
            f"training images, or choose it by config.table.file={reader.path}"
        )
    return found


def split_of_table(path: str) -> str | None:
    """Returns the split that a table is of: by its name, or else by the name of a folder that it lies in."""
    names = [Path(path).stem, *reversed(path.split("/")[:-1])]
    return next((split for name in names if (split := split_in(name)) is not None), None)


def _candidates(listing: Listing, around: str) -> list[str]:
    """Returns the tables that lie above the images, whose folder is `around`, or no deeper than one folder, but those
    to be sent somewhere.
    """
    return [
        file.path
        for file in listing.others
        if file.tar < 0
        and file.path.lower().endswith(SUFFIXES)
        and _is_near(file.path, around)
        and "submission" not in file.path.lower()
        and (listing.root / file.path).stat().st_size <= _MOST_BYTES
    ]


def _is_near(table: str, around: str) -> bool:
    """Returns whether a table lies above the images, whose folder is `around`, or no deeper than one folder in it."""
    folder = table.rpartition("/")[0]
    below = table.removeprefix(f"{around}/") if around else table
    return min(table.count("/"), below.count("/")) < 2 or f"{around}/".startswith(f"{folder}/")


def _index_files(listing: Listing, options: TableOptions) -> FileIndex:
    """Returns the images that a table may name: those in the folder that `options` name, or all.

    Raises:
      UserError: if there are none in it.
    """
    folder = options.image_dir.strip("/")
    files = [file for file in listing.files if file.path.startswith(f"{folder}/")] if folder else listing.files
    if folder and not files:
        raise UserError(f"config.table.image_dir={options.image_dir!r} holds no images in {listing.root}")
    return FileIndex(files)


def _make_reader(
    listing: Listing, options: TableOptions, path: Path, index: FileIndex, around: str, split: str | None
) -> TableReader:
    """Returns the reader of the table at `path`.

    Args:
      around: the folder of all images.
      split: that it is of by its name.
    """
    table = read_table(path)
    own = str(path.parent.relative_to(listing.root)) if path.is_relative_to(listing.root) else ""
    # Also the folder around all images, which a table that came with them may not know of.
    folders = dict.fromkeys(["" if own == "." else own, "", around])
    finder = FileFinder(index, [options.image_dir] if options.image_dir else folders, split)
    columns = TableColumns(table, options, finder.count)
    return TableReader(listing, options, table, finder, columns)


def table_readers(listing: Listing, options: TableOptions) -> dict[str, TableReader | str]:
    """Returns the candidates' readers by path; of those that are no table of these images, the reason."""
    found: dict[str, TableReader | str] = {}
    index: FileIndex | None = None
    around = common_folder(listing.files)
    for path in _candidates(listing, around):
        try:
            if (head := read_head(listing.root / path)) is not None:
                _ = TableColumns(head, options, len).image  # its error, before a table of pixels is read whole
            index = index or _index_files(listing, options)
            reader = _make_reader(listing, options, listing.root / path, index, around, split_of_table(path))
            if reader.columns.labels and reader.columns.name_images:
                found[path] = reader
            else:
                value = next(iter(reader.table.columns[reader.columns.image]), "")
                found[path] = (
                    f"{listing.root / path}: most images that its column {reader.columns.image} names, such as "
                    f"{truncate(value)!r}, are not there (config.table.image_column names another)"
                )
        except UserError as error:
            found[path] = str(error)
    return found


def describe_candidates(listing: Listing, options: TableOptions) -> str:
    """Returns, for a message, which tables are there and why they are not read; empty if there are none."""
    reasons = [str(one) for one in table_readers(listing, options).values() if not isinstance(one, TableReader)]
    if reasons:
        more = f" (and {format_count(len(reasons) - 1, 'more table')})" if len(reasons) > 1 else ""
        return f"; a table is there, but {reasons[0]}{more}"
    packed = [file.path for file in listing.others if file.tar >= 0 and file.path.lower().endswith(SUFFIXES)]
    if packed:
        return f"; {packed[0]} lies in a tar, where tables are not read: unpack it beside"
    others = [file.path for file in listing.others if file.path.lower().endswith(_OTHER_TABLES)]
    return f"; {others[0]} may be a table, but is not read: save it as CSV" if others else ""
