"""The images under a path, by split, with their classes: of class folders, of a table, of WebDataset's shards."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data import tables
from resnet_jax.data.folder import FolderImages
from resnet_jax.data.folder_tree import make_tree
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.layout import NUMBERED, Layout, SplitFolders, SplitPlan, plan_layout
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.scan import ARCHIVES, list_folder
from resnet_jax.data.split_names import SPLIT_FOLDERS
from resnet_jax.data.table_reader import TableOptions
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

UNDIVIDED = ""  # the one split of images that are not divided


@dataclass(frozen=True)
class ImageSet:
    """Labelled images by split.

    Attributes:
      root: the folder, or the tar or table, that was given.
      parts: by "train", "validation" and "test", or by UNDIVIDED.
      notes: how the set was understood, and what was left aside and why, a line each.
    """

    root: Path
    parts: dict[str, LabelledFiles]
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[str, str]:
        """Where the images of "train", "validation" and "test" are, from the root; empty if they are not divided."""
        return {split: self.parts[split].where for split in SPLIT_FOLDERS if split in self.parts}

    def images(self, split: str | None = None, *, class_names: tuple[str, ...] | None = None) -> FolderImages:
        """Returns the images of a split, or of the whole; of class folders in the order of their names.

        Args:
          split: one of `splits`, None if there are none.
          class_names: those of the model, of which the images may have a part: labels are positions in them. None:
            the set's own.

        Raises:
          UserError: for a class that is not among class_names, and if there are splits and none is chosen.
        """
        if split is None and UNDIVIDED not in self.parts:
            near = next(self.splits[name] for name in ("test", "validation", "train") if name in self.splits)
            raise UserError(f"{self.root} holds no images in class folders; did you mean {self.root / near}?")
        part = self.parts[split or UNDIVIDED]
        labels = part.labels
        if class_names is not None and class_names != part.class_names:
            positions = np.array(part.positions(self.root, class_names), np.int32)
            if labels.ndim == 2:
                labels = np.zeros((len(labels), len(class_names)), np.uint8)
                labels[:, positions] = part.labels
            else:
                labels = positions[labels]
        return FolderImages.of_files(self.root, class_names or part.class_names, part.files, labels, part.tars)

    def describe(self) -> dict[str, Any]:
        """Returns how the set was understood, for a run's folder."""
        return {
            "root": str(self.root),
            "splits": {
                name or "all": {"images": len(part.files), "classes": part.counts()}
                for name, part in self.parts.items()
            },
            "notes": list(self.notes),
        }


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
      class_names: those of the model: a folder that is named so is a class.

    Raises:
      UserError: for what cannot be read, or can be understood in no way or in several.
    """
    table = table or TableOptions()
    split_folders = split_folders or SplitFolders()
    if root.suffix.lower() in tables.SUFFIXES and root.is_file():
        root, table = root.parent, TableOptions(**{**vars(table), "file": root.name})
    listing = list_folder(root)
    if table.file or _has_embedded_images(listing):
        return _of_table(root, listing, table)
    if listing.shards:
        from resnet_jax.data.webdataset import open_shards

        parts, notes = open_shards(listing, table)
        return ImageSet(root, parts, (*notes, *_left_aside(listing)))
    num_images = Counter(file.path.rpartition("/")[0] for file in listing.files)
    tree = make_tree(sorted(listing.folders), num_images)
    try:
        layout = plan_layout(root, tree, split_folders, class_names)
    except UserError as error:
        # Folders that are no classes: where one table names the images, it is what was meant.
        if split_folders.named() or not tables.find_tables(listing, table):
            raise UserError(f"{error}{tables.describe_candidates(listing)}") from None
        return _of_table(root, listing, table)
    if layout.unlabelled:
        return _of_unlabelled(root, listing, layout, table)
    if not layout.splits:
        raise UserError(_no_images(root, listing))
    parts, notes, used = _parts(listing, layout), list(layout.notes), ""
    for split, folder in layout.optional.items():
        labelled = tables.label_split(listing, table, split, folder, _train_classes(layout))
        if labelled is not None:
            parts[split], used = labelled[0], labelled[2]
        count = sum(file.path.startswith(f"{folder}/") for file in listing.files)
        notes.append(
            labelled[1]
            if labelled is not None
            else f"left aside: {format_count(count, 'image')} in {root / folder}, without labels"
        )
    names = table.names(root)
    if names is not None:
        parts = {split: tables.with_classes(part, str(root / part.where), names) for split, part in parts.items()}
        notes = [note for note in notes if not note.startswith(NUMBERED)]
        notes.append(f"class names, and their order, by {table.class_names}")
    known = {file.path for split in layout.splits for file in parts[split].files}
    others = [file for file in listing.others if file.path != used]
    note = tables.compare_with_folders(replace(listing, others=others), table, known)
    return ImageSet(root, parts, (*notes, *((note,) if note else ()), *_left_aside(listing)))


def _parts(listing: Listing, layout: Layout) -> dict[str, LabelledFiles]:
    """Returns the files of each split of the layout, by class and in each class by their paths."""
    class_of: dict[str, tuple[str, str] | None] = {
        path: (split, name)
        for split, plan in layout.splits.items()
        for name, paths in plan.classes.items()
        for path in paths
    }
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


def _of_table(root: Path, listing: Listing, table: TableOptions) -> ImageSet:
    paths = tables.choose_tables(listing, table)
    if len(paths) > 1:
        parts, notes = tables.open_split_tables(listing, table, paths)
        return ImageSet(root, parts, (*notes, *_left_aside(listing)))
    path = root / paths[UNDIVIDED]
    embedded, notes = None, []
    if path.suffix.lower() == ".parquet":
        from resnet_jax.data.parquet import open_embedded

        embedded, notes = open_embedded(listing, path, table)
    if embedded is not None:
        return ImageSet(root, embedded, (*notes, *_left_aside(listing)))
    parts, notes = tables.open_table(listing, table, path)
    return ImageSet(root, parts, (*notes, *_left_aside(listing)))


def _of_unlabelled(root: Path, listing: Listing, layout: Layout, table: TableOptions) -> ImageSet:
    """Returns the set whose images, or those of a split, lie in no class folders: a table says their labels."""
    if not layout.splits and tables.find_tables(listing, table):
        return _of_table(root, listing, table)
    split, folder = next(iter(layout.unlabelled.items()))
    if layout.splits:
        from resnet_jax.data.imagenet import label_flat_validation

        labelled = tables.label_split(listing, table, split, folder, _train_classes(layout)) or label_flat_validation(
            root, listing, layout
        )
        if labelled is not None and len(layout.unlabelled) == 1:
            parts = {**_parts(listing, layout), split: labelled[0]}
            return ImageSet(root, parts, (*layout.notes, labelled[1], *_left_aside(listing)))
        raise UserError(
            f"{root / folder} holds no images in class folders: add some or remove the folder, or name a table of "
            "their labels (config.table.file)"
        )
    raise UserError(
        f"{root / folder} holds no images in class folders; they are expected as {root / folder}/<class>/<image>, or "
        f"named with their labels in a table (config.table.file{tables.describe_candidates(listing)})"
        f"{_archives(listing)}"
    )


def _train_classes(layout: Layout) -> tuple[str, ...] | None:
    return tuple(layout.splits["train"].classes) if "train" in layout.splits else None


def _no_images(root: Path, listing: Listing) -> str:
    kinds = Counter(_extension(file.path) for file in listing.others)
    others = f"; it holds {abridge([f'{n:,} {kind}' for kind, n in kinds.most_common(5)])}" if kinds else ""
    return (
        f"{root} holds no images in class folders; they are expected as {root}/<class>/<image>{others}"
        f"{_archives(listing)}"
    )


def _archives(listing: Listing) -> str:
    packed = [file.path for file in listing.others if file.path.lower().endswith(ARCHIVES)]
    return f": unpack {abridge(packed, 3)}" if packed else ""


def _left_aside(listing: Listing) -> list[str]:
    """Returns a line on the files that are no images, by the ends of their names; none if there are none.

    Of tables it is said elsewhere what became of them.
    """
    kinds = Counter(_extension(file.path) for file in listing.others)
    counts = [f"{count:,} {kind}" for kind, count in kinds.most_common() if kind not in tables.SUFFIXES]
    return [f"left aside: {abridge(counts)}, which are not read as images"] if counts else []


def _extension(path: str) -> str:
    name = path.rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else "without extension"


def _has_embedded_images(listing: Listing) -> bool:
    return not listing.files and not listing.shards and any(f.path.endswith(".parquet") for f in listing.others)
