"""How a folder of images is understood: which of its folders are splits and which are classes, and what is left aside.

A pure function of the folders' names and of how many images lie in each: `plan_layout`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from resnet_jax.data.folder_tree import Folder
from resnet_jax.data.split_names import SPLIT_FOLDERS, SPLIT_WORDS, UNDIVIDED, are_splits, split_in
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

SPLIT_FIELDS = "config.split_folders.train, .validation and .test name the splits"
# Words of folders that hold all images alike, what belongs to them, or a split: such folders are no classes.
_NO_CLASS_WORDS = {
    "images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "input", "inputs", "data", "raw",
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations", "groundtruth",
    "ground", "truth", "gt", "segmentationclass", "segmentationobject", "trimaps", "depth", "output", "outputs",
    "target", "targets", "boxes", "edges", "color", "colour", "grayscale", "gray", "grey", "segmented", "original",
    "augmented", "resized", "cropped", *(word for words in SPLIT_WORDS.values() for word in words),
}  # fmt: skip
NUMBERED = "classes are in the order of their names"  # how the note on classes called by numbers begins
_FOLD = re.compile(r"(.*[-_ ])?(k?fold|cv|part|chunk|batch|shard|subset|session)[-_ ]?\d+")


@dataclass(frozen=True)
class SplitPlan:
    """The classes of a split, in the order of their names, and the folders whose images are theirs, with all in these.

    Attributes:
      path: the folder that holds the class folders; "" for the root.
    """

    path: str
    classes: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """How a folder was understood.

    Attributes:
      splits: by "train", "validation", "test"; by UNDIVIDED where the images are not divided.
      notes: what was stepped into, and what was left aside and why, a line each.
      unlabelled: folders of splits whose images lie in no class folder, by split.
      optional: the same of test images, without which the set is whole.
    """

    splits: dict[str, SplitPlan]
    notes: tuple[str, ...] = ()
    unlabelled: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitFolders:
    """The splits' folders, from the root, as the config names them; "": by their names."""

    train: str = ""
    validation: str = ""
    test: str = ""

    def named(self) -> dict[str, str]:
        """Returns those that are named, by split."""
        return {split: folder for split, folder in vars(self).items() if folder}


def plan_layout(
    root: Path, tree: Folder, names: SplitFolders | None = None, class_names: tuple[str, ...] | None = None
) -> Layout:
    """Returns how the folder is understood.

    Args:
      root: for messages.
      tree: what it holds.
      names: the splits' folders, if they are named.
      class_names: those of a model, after which folders may be named: such a one is a class where it stands.

    Raises:
      UserError: for what can be understood in more than one way, or in none.
    """
    return _Planner(root, names or SplitFolders(), class_names or ()).plan(tree)


@dataclass
class _Planner:
    root: Path
    names: SplitFolders
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    has_train: bool = False  # class_names are those of the training images
    optional: dict[str, str] = field(default_factory=dict)

    def plan(self, tree: Folder) -> Layout:
        splits = self._named_splits(tree)
        if not splits:
            tree = self._inside(tree)
            splits = self._find_splits(tree) or self._splits_in_classes(tree)
        if not splits:
            tree = self._core(tree, of_split=True)[0] if [*map(_split_named, tree.filled)] != [None] else tree
            if not tree.holds_classes:
                return Layout({}, tuple(self.notes), {UNDIVIDED: tree.path} if tree.num_images else {})
            return Layout({UNDIVIDED: self._classes(tree)}, tuple(self.notes))
        unlabelled, plans = {}, {}
        for split in (split for split in SPLIT_FOLDERS if split in splits):  # training first: its classes are the set's
            folder = splits[split]
            if isinstance(folder, SplitPlan):
                plans[split] = folder
            elif self._holds_classes(folder):
                plans[split] = self._classes(folder)
                if split == "train" and not self.class_names:  # those of other splits are compared with these
                    self.class_names, self.has_train = tuple(plans[split].classes), True
            else:
                unlabelled[split] = folder.path
        return Layout(plans, tuple(self.notes), unlabelled, self.optional)

    def where(self, folder: Folder) -> Path:
        """Returns the folder's path for messages."""
        return self.root / folder.path

    def _named_splits(self, tree: Folder) -> dict[str, "Folder | SplitPlan"]:
        found: dict[str, Folder | SplitPlan] = {}
        for split, path in self.names.named().items():
            folder = tree.at(path)
            if folder is None or not folder.total:
                raise UserError(
                    f"config.split_folders.{split}={path!r} holds no images in {self.root}: name one of its folders, "
                    f"{abridge([*tree.filled])}"
                )
            found[split] = folder
        if found and "train" not in found and not self.class_names:
            raise UserError(f"config.split_folders.train is not set, but that of {next(iter(found))} is: name it too")
        return found

    def _inside(self, folder: Folder, *, of_split: bool = False) -> Folder:
        """Returns the folder inside `folder` that holds more than one: wrapping ones are stepped into, and named."""
        inside, beside = self._core(folder, of_split=of_split)
        if inside is not folder:
            aside = f"; {abridge(beside)} beside it without images" if beside else ""
            self.notes.append(f"{self.where(folder)} holds one folder, {inside.path}, which was stepped into{aside}")
        return inside

    def _core(self, folder: Folder, *, of_split: bool) -> tuple[Folder, list[str]]:
        """Returns the folder that is left when those that hold one folder alone are taken off, and what lies beside it.

        A folder that the model has a class of stays, and so does a class: one that holds images itself, unless it only
        repeats the name of the folder around it, as unpacking does.
        """
        beside: list[str] = []
        while not folder.num_images and len(folder.filled) == 1:
            ((name, child),) = folder.filled.items()
            if name in self.class_names or (not of_split and _split_named(name) is not None):
                break
            repeats = of_split and (name.lower() == _last(folder).lower() or _split_named(name) is not None)
            if not repeats and (not child.holds_classes or (child.num_images and len(child.filled) < 2)):
                break
            beside = sorted({*folder.children} - {name})
            folder = child
        return folder, beside

    def _holds_classes(self, folder: Folder) -> bool:
        """Returns whether a split's folder has class folders in it, wherever it is wrapped."""
        return self._core(folder, of_split=True)[0].holds_classes

    def _find_splits(self, tree: Folder) -> dict[str, "Folder | SplitPlan"]:
        """Returns the splits' folders in `tree`, by their usual names; none if its folders are the classes."""
        found: dict[str, Folder] = {}
        candidates = {name: child for name, child in tree.filled.items() if self._holds_classes(child)}
        for name, child in candidates.items():
            split = _split_named(name)
            if split in found:
                self._refuse_both(tree, found[split], child)
            if split is not None:
                found[split] = child
        if not found:
            return self._splits_by_words(tree)
        taken = {folder.path for folder in found.values()}
        for name, child in sorted(tree.children.items()):
            if child.path in taken:
                continue
            split = _split_named(name)
            if split is None and not child.total:
                continue
            if split == "test" and not self._holds_classes(child) and child.total:
                self.optional["test"] = child.path
            elif split_in(name) == "test" and not self._holds_classes(child):
                self._leave_unlabelled(child)
            elif split in found:
                self._refuse_both(tree, found[split], child)
            elif split is not None and child.total:
                found[split] = child  # without class folders: a list says its labels, or it is refused
            elif split is not None:
                raise UserError(f"{self.where(child)} holds no images in class folders: add some or remove the folder")
            elif {*child.filled} == {_last(folder) for folder in found.values()}:
                self.notes.append(f"left aside: {self.where(child)}, which holds folders of the same names again")
            else:
                beside = ", ".join(f"{_last(folder)}/" for folder in found.values())
                raise UserError(
                    f"{self.where(tree)} holds images in {name}/ beside {beside}: move them away ({SPLIT_FIELDS})"
                )
        if tree.num_images:
            self.notes.append(f"left aside: {format_count(tree.num_images, 'image')} in {self.where(tree)} itself")
        return dict(found)

    def _splits_by_words(self, tree: Folder) -> dict[str, "Folder | SplitPlan"]:
        """Returns the folders that hold splits under other names: seg_train and seg_test, training_set and test_set."""
        filled = tree.filled
        if not are_splits(tuple(filled), _shape_of(tree)):
            return {}
        found: dict[str, Folder] = {}
        for name, child in filled.items():
            split = split_in(name)
            if split is None:
                raise UserError(
                    f"{self.where(tree)} holds {name}/ beside splits, {abridge([*filled])}, and it is none by its "
                    f"name: move it away ({SPLIT_FIELDS})"
                )
            other = found.get(split)
            if other is not None and self._holds_classes(other) and self._holds_classes(child):
                self._refuse_both(tree, other, child)
            keep = child if other is None or self._holds_classes(child) else other
            found[split] = keep
            if other is not None:
                self._leave_unlabelled(child if keep is other else other)
        if "test" in found and self._holds_classes(found["train"]) and not self._holds_classes(found["test"]):
            self.optional["test"] = found.pop("test").path
        self.notes.append(
            "splits by their folders' names: " + ", ".join(f"{split} {_last(child)}/" for split, child in found.items())
        )
        return dict(found)

    def _refuse_both(self, tree: Folder, first: Folder, second: Folder) -> NoReturn:
        raise UserError(
            f"{self.where(tree)} has both {_last(first)}/ and {_last(second)}/ for one split: keep one of them "
            f"({SPLIT_FIELDS})"
        )

    def _leave_unlabelled(self, folder: Folder) -> None:
        self.notes.append(f"left aside: {format_count(folder.total, 'image')} in {self.where(folder)}, without labels")

    def _splits_in_classes(self, tree: Folder) -> dict[str, "Folder | SplitPlan"]:
        """Returns the splits of a tree whose classes each hold them: cat/train, cat/test, dog/train, dog/test."""
        inner = {name: {*map(_split_named, child.filled)} for name, child in tree.filled.items()}
        divided = [name for name, splits in inner.items() if splits and None not in splits]
        if not divided or self.class_names:
            return {}
        if len(divided) < len(inner) or any(tree.filled[name].num_images for name in divided):
            whole = next(name for name in inner if name not in divided or tree.filled[name].num_images)
            raise UserError(
                f"{self.where(tree)}: {divided[0]}/ holds folders named like splits, "
                f"{abridge([*tree.filled[divided[0]].filled])}, and {whole}/ images of no split: divide all classes or "
                "none"
            )
        plans: dict[str, Folder | SplitPlan] = {}
        for split in SPLIT_FOLDERS:
            parts = {
                name: [part for part_name, part in child.filled.items() if _split_named(part_name) == split]
                for name, child in tree.filled.items()
            }
            classes = {name: tuple(part.path for part in found) for name, found in parts.items() if found}
            if classes:
                plans[split] = SplitPlan(tree.path, classes)
        self.notes.append(f"the splits are folders inside of the classes: {abridge([*plans])}")
        self._check(tree, tuple(tree.filled))
        return plans

    def _classes(self, folder: Folder) -> SplitPlan:
        """Returns the classes that `folder`, a split's or the root, holds."""
        inside = self._inside(folder, of_split=True)
        classes = dict(sorted(inside.children.items()))
        for child in classes.values():
            if not child.total:
                raise UserError(f"{self.where(child)} holds no images: add some or remove the folder")
        if inside.num_images:
            count = format_count(inside.num_images, "image")
            self.notes.append(f"left aside: {count} in {self.where(inside)} itself, in no class folder")
        if not self.has_train and {*classes}.isdisjoint(self.class_names):
            self._check(inside, tuple(classes))
        return SplitPlan(inside.path, {name: (child.path,) for name, child in classes.items()})

    def _check(self, folder: Folder, names: tuple[str, ...]) -> None:
        """Raises UserError if the folders `names`, of `folder`, can hardly be classes; notes what may surprise."""
        where = self.where(folder)
        expected = f"they are expected as {self.root}/<class>/<image>, or below train/, val/ and test/"
        if are_splits(names, _shape_of(folder)):
            raise UserError(
                f"{where} holds the folders {abridge(names)}, which are named like splits and not like classes; "
                f"{expected} ({SPLIT_FIELDS})"
            )
        words = [{*re.findall(r"[a-z]+", name.lower())} for name in names]
        if all(word and word <= _NO_CLASS_WORDS for word in words) and len(names) > 1:
            raise UserError(
                f"{where} holds the folders {abridge(names)}, which are named like images and what belongs to them, "
                f"not like classes; {expected}"
            )
        if len(names) > 1 and all(_FOLD.fullmatch(name.lower()) for name in names):
            raise UserError(
                f"{where} holds the folders {abridge(names)}, which are named like parts of a set and not like "
                f"classes; {expected}: put the classes' folders together, or name the splits ({SPLIT_FIELDS})"
            )
        for name in names:
            again = {*folder.children[name].filled} & {*names}
            if len(again) > 1:
                raise UserError(
                    f"{where / name} holds the classes {abridge(sorted(again))} again, which lie beside it: remove one "
                    "of the two"
                )
        if len(names) < 2:
            raise UserError(f"{where} holds one class, {names[0]}; a classifier needs two or more; {expected}")
        if all(name.isdecimal() for name in names) and [*map(int, names)] != sorted(map(int, names)):
            self.notes.append(
                f"{NUMBERED} as text, not as numbers: "
                + abridge([f"{name} is label {i}" for i, name in enumerate(names)], 4)
            )
        inner = [{*folder.children[name].filled} for name in names if name in folder.children]
        if len(inner) == len(names) and len(inner[0]) > 1 and all(one == inner[0] for one in inner):
            self.notes.append(
                f"each of the classes, {abridge(names, 4)}, holds the folders {abridge(sorted(inner[0]), 4)}: should "
                "these be the classes, put them together"
            )
        lower: dict[str, str] = {}
        for name in names:
            if (other := lower.setdefault(name.casefold(), name)) != name:
                self.notes.append(
                    f"{where}: {other} and {name} are two classes, though their names differ only in case"
                )


def _split_named(name: str) -> str | None:
    """Returns the split whose usual folder is called so, in any case."""
    return next((split for split, names in SPLIT_FOLDERS.items() if name.lower() in names), None)


def _last(folder: Folder) -> str:
    return folder.path.rpartition("/")[2]


def _shape_of(folder: Folder) -> Iterator[str]:
    """Yields a path for each folder in `folder`, as of an image in it: directly, or in a folder inside of it."""
    for name, child in folder.filled.items():
        yield f"{name}/x/x" if child.holds_classes else f"{name}/x"
