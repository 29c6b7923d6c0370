"""Finds the labelled images under a path: in class folders, by a table, in WebDataset's shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from resnet_jax.data.class_files import files_of_classes
from resnet_jax.data.class_folders import NUMBERED
from resnet_jax.data.class_labels import find_class_names
from resnet_jax.data.folder_tree import make_tree
from resnet_jax.data.image_set import ImageSet
from resnet_jax.data.imagenet import label_flat_validation, wordnet_ids
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.layout import Layout, SplitFolders, plan_layout
from resnet_jax.data.listing import Listing
from resnet_jax.data.mask_files import describe_masks, describe_twins, find_masks
from resnet_jax.data.scan import list_folder
from resnet_jax.data.split_lists import divide_by_lists, find_lists
from resnet_jax.data.split_names import UNDIVIDED
from resnet_jax.data.table_file import SUFFIXES
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_search import check_named_table, describe_candidates, find_whole_tables, open_named_table
from resnet_jax.data.tables import open_found_tables, with_classes
from resnet_jax.data.tables_beside_folders import compare_with_folders, label_split
from resnet_jax.data.unread_files import (
    describe_archives,
    describe_fault,
    describe_lists,
    describe_nothing,
    describe_others,
    describe_unread,
)
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_count


def open_image_set(
    root: Path,
    split_folders: SplitFolders | None = None,
    table: TableOptions | None = None,
    class_names: tuple[str, ...] | None = None,
) -> ImageSet:
    """Returns the labelled images under `root`: a folder, a tar or a table; nothing is decoded.

    Args:
      split_folders: the folders of the splits, or lists of their images, if the config names them.
      table: which table says the labels, and by which columns; None: whether one does is seen.
      class_names: the model's: a folder with one of these names is a class.

    Raises:
      UserError: if a part cannot be read, or can be understood in no way or in several.
    """
    table = table or TableOptions()
    split_folders = split_folders or SplitFolders()
    left_aside = split_folders.left_aside()  # its error first
    found = _open(root, split_folders, table, class_names)
    unwanted = [split for split in left_aside if split in found.parts]
    if not unwanted:
        return found
    counts = [format_count(len(found.parts[split].files), f"{split} image") for split in unwanted]
    notes = [f"left aside: {count}, as the config says" for count in counts]
    parts = {split: part for split, part in found.parts.items() if split not in unwanted}
    return replace(found, parts=parts, notes=(*found.notes, *notes))


def _open(
    root: Path, split_folders: SplitFolders, table: TableOptions, class_names: tuple[str, ...] | None
) -> ImageSet:
    if root.suffix.lower() in SUFFIXES and root.is_file():
        root, table = root.parent, TableOptions(**{**vars(table), "file": root.name})
    listing = list_folder(root)
    lists = find_lists(listing, split_folders.named())
    if lists:
        return _divided(root, listing, split_folders, table, class_names, lists)
    if table.file:
        check_named_table(listing, table)
    embedded = _embedded_images(listing, table)
    if embedded or table.file or listing.shards:
        split_folders.check_unnamed("tables, shards and Parquet files divide their images themselves")
    if embedded:
        return embedded
    if table.file:
        return _image_set(listing, *open_found_tables(open_named_table(listing, table)))
    if listing.shards:
        from resnet_jax.data.webdataset import open_shards

        return _image_set(listing, *open_shards(listing, table))
    try:
        layout = _layout(root, listing, split_folders, class_names)
    except UserError as error:
        if split_folders.named():
            raise UserError(f"{error}{describe_candidates(listing, table)}") from None
        return _instead_of_folders(listing, table, str(error))
    if layout.splits:
        return _of_folders(root, listing, layout, table)
    if not layout.unlabelled:
        raise UserError(describe_nothing(root, listing))
    if (ids := wordnet_ids(class_names or ())) and (flat := layout.unlabelled.get(UNDIVIDED)) is not None:
        labelled = label_flat_validation(root, listing, flat, ids)
        if labelled is not None:
            return _image_set(listing, {UNDIVIDED: labelled[0]}, [*layout.notes, labelled[1]])
    folder = root / next(iter(layout.unlabelled.values()))
    return _instead_of_folders(
        listing,
        table,
        f"{folder} holds no images in class folders; they are expected as {folder}/<class>/<image>, or named with "
        f"their labels in a table (config.table.file){describe_archives(listing)}",
    )


def _divided(
    root: Path,
    listing: Listing,
    split_folders: SplitFolders,
    table: TableOptions,
    class_names: tuple[str, ...] | None,
    lists: dict[str, str],
) -> ImageSet:
    """Returns the set of class folders that lists divide, by split."""
    listed = f"config.split_folders.train={split_folders.train!r} divides images in class folders"
    if table.file:
        raise UserError(f"{listed}, and config.table.file={table.file!r} is read without folders: leave one out")
    layout = _layout(root, listing, replace(split_folders, **dict.fromkeys(lists, "")), class_names)
    if [*layout.splits] not in ([UNDIVIDED], ["train"]):
        found = ", ".join(f"{split} in {plan.path}" for split, plan in layout.splits.items()) or "no class folders"
        raise UserError(f"{listed}, and {root} holds {found}: leave the lists out")
    beside = {**layout.unlabelled, **layout.optional}.values()
    notes = [f"left aside: the images in {root / folder}, as lists name the splits" for folder in beside]
    (plan,) = layout.splits.values()
    layout = Layout({UNDIVIDED: plan}, (*layout.notes, *notes))
    return _of_folders(root, listing, layout, table, lists)


def _layout(root: Path, listing: Listing, split_folders: SplitFolders, class_names: tuple[str, ...] | None) -> Layout:
    num_images = Counter(file.path.rpartition("/")[0] for file in listing.files)
    tree = make_tree(sorted(listing.folders), num_images, listing.real_paths)
    return plan_layout(root, tree, split_folders, class_names)


def _instead_of_folders(listing: Listing, table: TableOptions, fault: str) -> ImageSet:
    """Returns the set that tables or Parquet files say, where folders are no classes: it is what was meant.

    Args:
      fault: why they are none, for messages.
    """
    try:
        readers = find_whole_tables(listing, table)
        found = open_found_tables(readers) if readers else None
    except UserError as error:
        raise UserError(f"{error}{describe_fault(listing, fault)}") from None
    if found:
        parts, notes = found
        return _image_set(listing, parts, [*notes, *describe_lists(listing, parts)])
    embedded = _embedded_images(listing, table, is_alone=False)
    if embedded:
        return embedded
    raise UserError(f"{fault}{describe_candidates(listing, table)}")


def _image_set(listing: Listing, parts: dict[str, LabelledFiles], notes: Sequence[str]) -> ImageSet:
    return ImageSet(listing.root, parts, (*notes, *describe_others(listing)))


def _embedded_images(listing: Listing, table: TableOptions, *, is_alone: bool = True) -> ImageSet | None:
    """Returns the set of Parquet files that hold the images themselves; None if there are none.

    Args:
      is_alone: none too, if there are other images, which may be the set.
    """
    found = any(file.path.lower().endswith(".parquet") for file in listing.others)
    found = found and not (is_alone and (listing.files or listing.shards))
    if not (table.file.lower().endswith(".parquet") if table.file else found):
        return None
    from resnet_jax.data.parquet import find_embedded, open_embedded

    files = find_embedded(listing, table)
    if not files:
        return None
    parts, notes = open_embedded(listing, files, table)
    if not is_alone and listing.files:
        notes.append(f"left aside: {format_count(len(listing.files), 'image')} beside the Parquet files")
    return _image_set(listing, parts, notes)


def _of_folders(
    root: Path, listing: Listing, layout: Layout, table: TableOptions, lists: Mapping[str, str] | None = None
) -> ImageSet:
    """Returns the set of class folders; a table says the labels of a split that has none.

    Args:
      lists: which images are of which split, if these are not divided by folders.
    """
    if len(layout.unlabelled) > 1:
        raise _without_labels(root, layout)
    masks = find_masks(listing.files)
    listing = replace(listing, files=[file for file in listing.files if file.path not in masks])
    parts, notes = files_of_classes(listing, layout.splits), [*layout.notes, *describe_masks(masks)]
    used: set[str] = set()  # tables
    for split, folder in {**layout.unlabelled, **layout.optional}.items():
        labelled = label_split(listing, table, split, folder, _train_classes(layout))
        if labelled is not None:
            part, note, path = labelled
            used.add(path)
            if part is not None:
                parts[split] = part
            elif split in layout.unlabelled and split != "test":
                raise _without_labels(root, layout)
        elif split in layout.unlabelled:
            parts[split], note = _label_by_lists(root, listing, layout, split)
        else:
            count = sum(file.path.startswith(f"{folder}/") for file in listing.files)
            note = f"left aside: {format_count(count, 'image')} in {root / folder}, without labels"
        notes.append(note)
    names = find_class_names(root, table.class_names)
    if names is not None:
        notes = [note for note in notes if not note.startswith(NUMBERED)]
        notes.append(f"class names, and their order, by {table.class_names}")
        for split, part in parts.items():
            parts[split], more = with_classes(part, str(root / part.where), names)
            notes += [line for line in more if line not in notes]
    if lists:
        parts, more = divide_by_lists(listing, parts[UNDIVIDED], lists, table.image_column)
        notes += more
    class_of = {
        file.path: parts[split].class_names[label]
        for split in (lists or layout.splits)
        for file, label in zip(parts[split].files, parts[split].labels.tolist(), strict=True)
    }
    others = [file for file in listing.others if file.path not in used]
    read = {*lists.values()} if lists else set()
    note = compare_with_folders(replace(listing, others=others), table, class_of, parts, read)
    unread = describe_unread(listing, parts, has_names=names is not None)
    twins = describe_twins([file for part in parts.values() for file in part.files])
    listing = replace(listing, others=[file for file in listing.others if file.path not in read])
    found = _image_set(listing, parts, [*notes, *filter(None, [note]), *unread, *twins])
    return replace(found, has_table=bool(used) or any(path.lower().endswith(SUFFIXES) for path in read))


def _label_by_lists(root: Path, listing: Listing, layout: Layout, split: str) -> tuple[LabelledFiles, str]:
    """Returns (the images of a split that lie in no class folders, a note), labelled by ImageNet's list or theirs."""
    from resnet_jax.data.list_file import label_by_list

    labelled, classes = None, _train_classes(layout)
    if split == "validation" and classes is not None:
        labelled = label_flat_validation(root, listing, layout.unlabelled[split], classes)
    labelled = labelled or label_by_list(listing, layout, split)
    if labelled is None:
        raise _without_labels(root, layout)
    return labelled


def _without_labels(root: Path, layout: Layout) -> UserError:
    return UserError(
        f"{root / next(iter(layout.unlabelled.values()))} holds no images in class folders: add some or remove the "
        "folder, or name a table of their labels (config.table.file)"
    )


def _train_classes(layout: Layout) -> tuple[str, ...] | None:
    return tuple(layout.splits["train"].classes) if "train" in layout.splits else None
