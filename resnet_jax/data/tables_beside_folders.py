"""Tables beside class folders: they say the labels of a split that has none, or the same labels again."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from resnet_jax.data.class_labels import find_class_names
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_names import UNDIVIDED
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_reader import TableReader
from resnet_jax.data.table_search import find_tables, split_of_table, table_readers
from resnet_jax.data.tables import number_groups, without_unlabelled
from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.formatting import format_count


def compare_with_folders(
    listing: Listing,
    options: TableOptions,
    class_of: Mapping[str, str],
    splits: Collection[str],
    read: Collection[str] = (),
) -> str:
    """Returns a line on tables that were not read, as the folders say the classes; empty if there are none.

    Args:
      class_of: the class of each image, by its path, as the folders say.
      splits: those that the folders say.
      read: paths of tables that were read, as they divide the images, and are compared only.

    Raises:
      UserError: if a table names other labels than the folders do.
    """
    readers = table_readers(listing, options)
    for path, reader in readers.items():
        if isinstance(reader, TableReader):
            _compare(listing, path, reader, class_of)
    readers = {path: reader for path, reader in readers.items() if path not in read}
    broken = [one for one in readers.values() if isinstance(one, str) and "cannot be read" in one]
    lines = [f"{abridge([*readers])} not read, as the folders are the classes (config.table.file reads it)"]
    if UNDIVIDED in splits:
        lines += [
            f"{path} divides the images by its column {abridge(reader.columns.dividing)}, which is not read"
            for path, reader in readers.items()
            if isinstance(reader, TableReader) and reader.columns.dividing
        ]
    return "; ".join(lines + broken[:1]) if readers else ""


def _compare(listing: Listing, path: str, reader: TableReader, class_of: Mapping[str, str]) -> None:
    folder_of: dict[object, tuple[str, StoredFile]] = {}
    label_of: dict[str, tuple[object, StoredFile]] = {}
    images = reader.table.columns[reader.columns.image]
    try:
        labels = reader.labels()
    except UserError:  # of something else than classes
        return
    for i, (value, label) in enumerate(zip(images, labels, strict=True)):
        found = reader.finder.candidates(value)
        if len(found) > 1:
            raise UserError(
                f"{reader.table.row(i)} names the image {truncate(value)!r}, as which several are called: remove the "
                "table, if the folders are the classes, or give whole paths"
            )
        if not found or not label or found[0].path not in class_of:
            continue
        folder = class_of[found[0].path]
        first = label_of.setdefault(folder, (label, found[0]))
        back = folder_of.setdefault(label, (folder, found[0]))
        if first[0] != label or back[0] != folder:
            other = first[1] if first[0] != label else back[1]
            raise UserError(
                f"{listing.root / path} names other labels than the folders do ({other.path} and {found[0].path}): "
                f"read it by config.table.file={path}, or remove it"
            )


def label_split(
    listing: Listing, options: TableOptions, split: str, folder: str, class_names: tuple[str, ...] | None
) -> tuple[LabelledFiles | None, str, str] | None:
    """Returns (the labelled files, a note, the table) of a split whose images lie in no class folders.

    None if no table is of this split: by the folder that it lies in, by its name, or as it names these images alone;
    other splits may have images of the same names. The files are None if the table leaves all without labels.
    """
    inside = [file for file in listing.files if file.path.startswith(f"{folder}/")]
    own = [file for file in listing.others if file.path.startswith(f"{folder}/") or split_of_table(file.path) == split]
    readers = find_tables(replace(listing, files=inside, others=own), options)
    if not readers:
        others = [file for file in listing.others if split_of_table(file.path) is None]
        found = table_readers(replace(listing, others=others), options)
        readers = {
            path: one for path, one in found.items() if isinstance(one, TableReader) and _names_only(one, folder)
        }
    if not readers:
        return None
    if len(readers) > 1:
        paths = [reader.path for reader in readers.values()]
        raise UserError(f"{listing.root / folder}: {abridge(paths)} all name its images: keep one")
    (reader,) = readers.values()
    groups, left = without_unlabelled({split: reader.rows})
    if not groups or not reader.rows.files:
        return None, "; ".join(left), reader.path
    # Numbers count the file of class names, where there is one, and else the training images' folders.
    class_names = find_class_names(listing.root, options.class_names) or class_names
    parts, notes = number_groups(listing, options, groups, class_names)
    rest = len(inside) - len(reader.rows.files)
    aside = [f"left aside: {format_count(rest, 'image')} of {folder} that it does not name"] if rest else []
    said = f"the {split} images in {folder} have the labels that {reader.path} says"
    return replace(parts[split], where=folder), "; ".join([said, *reader.notes[1:], *notes, *aside]), reader.path


def _names_only(reader: TableReader, folder: str) -> bool:
    """Returns whether all images that are there, of those that a table names, lie in `folder`."""
    found = [file for value in reader.table.columns[reader.columns.image] for file in reader.finder.candidates(value)]
    return bool(found) and all(file.path.startswith(f"{folder}/") for file in found)
