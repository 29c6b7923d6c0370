"""A set of labelled images by split, and how it was understood."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.data.folder import FolderImages
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.labels import class_counts, relabelled
from resnet_jax.data.split_names import SPLIT_FOLDERS, UNDIVIDED
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_count


@dataclass(frozen=True)
class ImageSet:
    """Labelled images by split.

    Attributes:
      root: the folder, or the tar or table, that was given.
      parts: by "train", "validation" and "test", or by UNDIVIDED.
      notes: how the set was understood, and which parts were left aside and why, a line each.
      has_table: a table, or the files themselves, say labels, or which images are of a split; else folders say all.
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
