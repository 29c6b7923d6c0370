"""The images under a path, by split, with their classes: of class folders, of a table, of WebDataset's shards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.class_folders import NUMBERED
from resnet_jax.data.class_labels import find_class_names
from resnet_jax.data.folder import FolderImages
from resnet_jax.data.folder_tree import make_tree
from resnet_jax.data.imagenet import label_flat_validation, wordnet_ids
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.labels import class_counts, relabelled
from resnet_jax.data.layout import Layout, SplitFolders, SplitPlan, plan_layout
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.mask_files import describe_masks, describe_twins, find_masks
from resnet_jax.data.scan import list_folder
from resnet_jax.data.split_names import SPLIT_FOLDERS, UNDIVIDED
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


@dataclass(frozen=True)
class ImageSet:
    """Labelled images by split.

    Attributes:
      root: the folder, or the tar or table, that was given.
      parts: by "train", "validation" and "test", or by UNDIVIDED.
      notes: how the set was understood, and which parts were left aside and why, a line each.
      has_table: a table, or the files themselves, say labels; else folders say all of them.
    """

    root: Path
    parts: dict[str, LabelledFiles]
    notes: tuple[str, ...]
    has_table: bool = True

    @property
    def splits(self) -> dict[str, str]:
        """Where the images of "train", "validation" and "test" are, from the root; empty if they are not divided."""
        return {split: self.parts[split].where for split in SPLIT_FOLDERS if split in self.parts}

    def images(self, split: str | None = None, *, class_names: tuple[str, ...] | None = None) -> FolderImages:
        """Returns the images of a split, or of the whole; of class folders in the order of their names.

        Args:
          split: one of `splits`, None if there are none.
          class_names: the model's, of which the images may have a part: labels are positions in them. None:
            the set's own.

        Raises:
          UserError: for a class that is not among class_names, and if there are several splits and none is chosen.
        """
        part = self.part(split)
        labels = part.labels
        if class_names is not None and class_names != part.class_names:
            labels = relabelled(labels, part.positions(self.root, class_names), len(class_names))
        return FolderImages.of_files(self.root, class_names or part.class_names, part.files, labels, part.tars)

    def part(self, split: str | None = None) -> LabelledFiles:
        """Returns the labelled files of a split, or of the whole, as `images` takes it; of one split alone, that has no
        folder of its own, these.

        Raises:
          UserError: if none is chosen of those that there are.
        """
        if split is not None or UNDIVIDED in self.parts:
            return self.parts[split or UNDIVIDED]
        name = next(name for name in ("test", "validation", "train") if name in self.splits)
        inside = self.root / self.splits[name]
        has_folder = inside.is_dir() and inside != self.root
        if len(self.parts) == 1 and not has_folder:
            return self.parts[name]
        near = inside if has_folder else f"{self.root}:{name}"
        raise UserError(f"{self.root} holds no images in class folders; did you mean {near}?")

    def describe(self) -> dict[str, Any]:
        """Returns how the set was understood, for a run's folder."""
        splits = {}
        for split, part in self.parts.items():
            counts = class_counts(part.labels, len(part.class_names)).tolist()
            classes = dict(zip(part.class_names, counts, strict=True))
            splits[split or "all"] = {"images": len(part.files), "classes": classes}
        return {"root": str(self.root), "splits": splits, "notes": list(self.notes)}


def describe_lines(layout: dict[str, Any]) -> list[str]:
    """Returns how a set was understood, of `ImageSet.describe`, in at most three lines: counts, how, what was left
    aside.
    """
    counts = [
        f"{split} {format_count(part['images'], 'image')} of {len(part['classes'])} classes"
        for split, part in layout["splits"].items()
    ]
    aside = "; ".join(note for note in layout["notes"] if "left aside" in note)
    how = "; ".join(note for note in layout["notes"] if "left aside" not in note)
    return [f"{layout['root']}: {'; '.join(counts)}", *filter(None, (how, aside))]


def open_image_set(
    root: Path,
    split_folders: SplitFolders | None = None,
    table: TableOptions | None = None,
    class_names: tuple[str, ...] | None = None,
) -> ImageSet:
    """Returns the labelled images under `root`: a folder, a tar or a table; nothing is decoded.

    Args:
      split_folders: the folders of the splits, if the config names them.
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
    if table.file:
        check_named_table(listing, table)
    embedded = _embedded_images(listing, table)
    if embedded:
        return embedded
    if table.file:
        return _image_set(listing, *open_found_tables(open_named_table(listing, table)))
    if listing.shards:
        from resnet_jax.data.webdataset import open_shards

        return _image_set(listing, *open_shards(listing, table))
    num_images = Counter(file.path.rpartition("/")[0] for file in listing.files)
    tree = make_tree(sorted(listing.folders), num_images, listing.real_paths)
    try:
        layout = plan_layout(root, tree, split_folders, class_names)
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


def _of_folders(root: Path, listing: Listing, layout: Layout, table: TableOptions) -> ImageSet:
    """Returns the set of class folders; a table says the labels of a split that has none."""
    if len(layout.unlabelled) > 1:
        raise _without_labels(root, layout)
    masks = find_masks(listing.files)
    listing = replace(listing, files=[file for file in listing.files if file.path not in masks])
    parts, notes = _parts(listing, layout), [*layout.notes, *describe_masks(masks)]
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
    class_of = {
        file.path: parts[split].class_names[label]
        for split in layout.splits
        for file, label in zip(parts[split].files, parts[split].labels.tolist(), strict=True)
    }
    others = [file for file in listing.others if file.path not in used]
    note = compare_with_folders(replace(listing, others=others), table, class_of, layout.splits)
    unread = describe_unread(listing, parts, has_names=names is not None)
    twins = describe_twins([file for part in parts.values() for file in part.files])
    found = _image_set(listing, parts, [*notes, *filter(None, [note]), *unread, *twins])
    return replace(found, has_table=bool(used))


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


def _parts(listing: Listing, layout: Layout) -> dict[str, LabelledFiles]:
    """Returns the files of each split of the layout, by class and in each class by their paths."""
    class_of: dict[str, tuple[str, str] | None] = {
        path: (split, name)
        for split, plan in layout.splits.items()
        for name, paths in plan.classes.items()
        for path in paths
    }
    class_of.update((path, None) for plan in layout.splits.values() for path in plan.aside)
    files: dict[tuple[str, str], list[StoredFile]] = {}
    for file in listing.files:
        found = _class_above(file.path.rpartition("/")[0], class_of)
        if found is not None:
            files.setdefault(found, []).append(file)
    return {split: _part(listing, split, plan, files) for split, plan in layout.splits.items()}


def _class_above(folder: str, class_of: dict[str, tuple[str, str] | None]) -> tuple[str, str] | None:
    """Returns the (split, class) of the class folder that `folder` is or lies in; remembers it in `class_of`."""
    if folder not in class_of:
        class_of[folder] = _class_above(folder.rpartition("/")[0], class_of) if folder else None
    return class_of[folder]


def _part(
    listing: Listing, split: str, plan: SplitPlan, files: dict[tuple[str, str], list[StoredFile]]
) -> LabelledFiles:
    ordered = [sorted(files[split, name]) for name in plan.classes]
    labels = np.repeat(np.arange(len(ordered), dtype=np.int32), [len(of_class) for of_class in ordered])
    return LabelledFiles(
        where=plan.path,
        class_names=tuple(plan.classes),
        files=[file for of_class in ordered for file in of_class],
        labels=labels,
        tars=listing.tars,
        places={name: paths[0] for name, paths in plan.classes.items()},
    )


def _train_classes(layout: Layout) -> tuple[str, ...] | None:
    return tuple(layout.splits["train"].classes) if "train" in layout.splits else None
