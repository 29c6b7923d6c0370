"""How a folder of images is understood: which of its folders are splits and which are classes, and what is left aside.

A pure function of the folders' names and of how many images lie in each: `plan_layout`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from resnet_jax.data.class_folders import (
    check_distinct,
    check_inside,
    check_names,
    find_unlabelled,
    way_out,
)
from resnet_jax.data.folder_tree import Folder
from resnet_jax.data.split_folders import SplitFinder, SplitPlan, Splits, shape_of
from resnet_jax.data.split_names import SPLIT_FOLDERS, UNDIVIDED, is_about, is_belonging, split_named
from resnet_jax.data.wrapping import unwrap
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

NONE = "none"  # instead of a split's folder


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
    """The splits' folders, from the root, as the config names them; "": by their names; "none": left aside."""

    train: str = ""
    validation: str = ""
    test: str = ""

    def named(self) -> dict[str, str]:
        """Returns those that are named, by split."""
        return {split: folder for split, folder in vars(self).items() if folder not in ("", NONE)}

    def check_unnamed(self, why: str) -> None:
        """Raises UserError for a folder that is named where no folders are read, and says why."""
        for split, folder in self.named().items():
            raise UserError(f"config.split_folders.{split}={folder!r} has no effect: {why}")

    def left_aside(self) -> tuple[str, ...]:
        """Returns the splits that are not wanted.

        Raises:
          UserError: if the training images are among them.
        """
        if self.train == NONE:
            raise UserError("config.split_folders.train='none' leaves no training images: name their folder")
        return tuple(split for split, folder in vars(self).items() if folder == NONE)


def plan_layout(
    root: Path, tree: Folder, names: SplitFolders | None = None, class_names: tuple[str, ...] | None = None
) -> Layout:
    """Returns how the folder is understood.

    Args:
      root: for messages.
      tree: its content.
      names: the splits' folders, if they are named.
      class_names: a model's. A folder with one of these names is a class, wherever it stands.

    Raises:
      UserError: if a part can be understood in more than one way, or in none.
    """
    return _Planner(root, names or SplitFolders(), class_names or ()).plan(tree)


class _Planner:
    def __init__(self, root: Path, names: SplitFolders, class_names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.finder = SplitFinder(root, class_names)
        self.notes = self.finder.notes
        self.class_names = class_names  # the training images', once known
        self.has_train = False
        self.named: dict[str, Folder] = {}

    def plan(self, tree: Folder) -> Layout:
        self.named = self._named_splits(tree)
        train = self.named.get("train")
        around = tree.at(train.path.rpartition("/")[0]) if train else None
        self._leave_unwanted(tree)
        self._leave_unwanted(around)
        if around is not None and train is not around:
            self.named |= self._beside_named(around)
        splits: Splits = {**self.named}
        if not splits:
            tree = self._inside(tree)
            self._leave_unwanted(tree)
            splits = self.finder.find(tree)
        if not splits:
            is_one = [*map(split_named, tree.filled)] == [None]
            tree = tree if is_one else unwrap(tree, self.class_names, of_split=True)[0]
            if not tree.holds_classes:
                return Layout({}, tuple(self.notes), {UNDIVIDED: tree.path} if tree.num_images else {})
            return Layout({UNDIVIDED: self._classes(tree)}, tuple(self.notes))
        unlabelled, plans = {}, {}
        for split in (split for split in SPLIT_FOLDERS if split in splits):  # training first: its classes are the set's
            folder = splits[split]
            if isinstance(folder, SplitPlan):
                plans[split] = folder
            elif self.finder.holds_classes(folder):
                plans[split] = self._classes(folder)
                if split == "train" and not self.class_names:  # other splits' classes are compared with these
                    self.class_names, self.has_train = tuple(plans[split].classes), True
                    self.finder.class_names = self.class_names
            else:
                unlabelled[split] = folder.path
        return Layout(plans, tuple(self.notes), unlabelled, self.finder.optional)

    def _leave_unwanted(self, folder: Folder | None) -> None:
        """Takes the folders out of `folder` that are called like splits that the config does not want, with a note."""
        if folder is None:
            return
        for name, child in folder.filled.items():
            if split_named(name) in self.names.left_aside():
                del folder.children[name]
                self.finder.leave_aside(child, "as the config says")

    def _named_splits(self, tree: Folder) -> dict[str, Folder]:
        found: dict[str, Folder] = {}
        for split, path in self.names.named().items():
            folder = tree.at(path)
            if folder is None or not folder.total:
                raise UserError(
                    f"config.split_folders.{split}={path!r} holds no images in {self.root}: name one of its folders, "
                    f"{abridge([*tree.filled])}"
                )
            self._check_apart(split, folder, found)
            found[split] = folder
        if found and "train" not in found and not self.class_names:
            raise UserError(f"config.split_folders.train is not set, but that of {next(iter(found))} is: name it too")
        return found

    def _beside_named(self, around: Folder) -> dict[str, Folder]:
        """Returns the splits that the config leaves open, of folders in `around`, the folder that the training images'
        lies in, with their usual names. Notes them.
        """
        found: dict[str, Folder] = {}
        wanted = {*SPLIT_FOLDERS} - {*self.named}
        for name, child in around.filled.items():
            split = split_named(name)
            is_taken = any(one is named for one in child.walk() for named in self.named.values())
            if split is None or split not in wanted or is_taken or not self.finder.holds_classes(child):
                continue
            if split in found:
                self.finder.refuse_both(around, found[split], child)
            found[split] = child
            self.notes.append(f"{split} by its folder's name: {self.root / child.path}")
        return found

    def _check_apart(self, split: str, folder: Folder, found: dict[str, Folder]) -> None:
        """Raises UserError if a split's folder holds another split's folder, except among its class folders."""
        for other, known in found.items():
            outer, inner = sorted((folder, known), key=lambda one: len(one.path))
            if outer.children.get(inner.name) is not inner and any(one is inner for one in outer.walk()):
                raise UserError(
                    f"config.split_folders.{split} and .{other} name {inner.path or '.'} and {outer.path or '.'}, of "
                    "which one holds the other: name folders that lie side by side"
                )

    def _inside(self, folder: Folder, *, of_split: bool = False) -> Folder:
        """Returns the folder inside `folder` that holds more than one: wrapping ones are stepped into, and named."""
        inside, beside = unwrap(folder, self.finder.class_names, of_split=of_split)
        if inside is not folder:
            around = [one for one in folder.walk() if f"{inside.path}/".startswith(f"{one.path}/".lstrip("/"))]
            strays = sum(one.num_images for one in around if one is not inside)
            aside = f"; {abridge(beside)} beside it without images" if beside else ""
            if strays:
                self.notes.append(f"left aside: {format_count(strays, 'image')} beside the folder {inside.path}")
            self.notes.append(
                f"{self.root / folder.path} holds one folder, {inside.path}, which was stepped into{aside}"
            )
        return inside

    def _classes(self, folder: Folder) -> SplitPlan:
        """Returns the classes that `folder`, a split's or the root, holds."""
        inside = self._inside(folder, of_split=True)
        splits = [*self.named.values()]
        classes = {name: child for name, child in sorted(inside.children.items()) if child not in splits}
        if not inside.holds_classes and not splits:
            raise UserError(
                f"{self.root / inside.path} holds no images in class folders; they are expected as "
                f"{self.root / inside.path}/<class>/<image>, or named with their labels in a table (config.table.file)"
            )
        if not classes or (inside is not folder and inside in splits):
            raise UserError(
                f"config.split_folders: {folder.path or '.'} holds no class folders but those of another split"
            )
        classes = self._without_empty_belongings(classes)
        self._leave_unlabelled(inside, classes)
        for child in classes.values():
            if not child.total:
                raise UserError(f"{self.root / child.path} holds no images: add some or remove the folder")
        if inside.num_images:
            count = format_count(inside.num_images, "image")
            self.notes.append(f"left aside: {count} in {self.root / inside.path} itself, in no class folder")
        aside = self.finder.leave_belongings(inside, classes.values())
        self._check(inside, classes, aside)
        return SplitPlan(inside.path, {name: (child.path,) for name, child in classes.items()}, aside)

    def _without_empty_belongings(self, classes: dict[str, Folder]) -> dict[str, Folder]:
        """Returns the folders without those that hold no images and are named like what belongs to these."""
        empty = [name for name, child in classes.items() if not child.total and (is_belonging(name) or is_about(name))]
        if not empty or len(empty) == len(classes):
            return classes
        self.notes.append(f"left aside: {abridge([f'{name}/' for name in empty], 4)}, without images")
        return {name: child for name, child in classes.items() if name not in empty}

    def _leave_unlabelled(self, folder: Folder, classes: dict[str, Folder]) -> None:
        """Takes folders that are called like images without labels out of the classes, unless the config names all."""
        if self.names.train:
            return
        for name in find_unlabelled([*classes]):
            if name not in self.class_names and classes[name].total:
                self.finder.leave_aside(classes.pop(name), f"without labels by its name{way_out(folder)}")
        if not classes:
            raise UserError(
                f"{self.root / folder.path} holds {abridge([*folder.filled])}, by the name images without labels, and "
                f"no class folders{way_out(folder)}"
            )

    def _check(self, folder: Folder, classes: dict[str, Folder], aside: tuple[str, ...]) -> None:
        """Raises UserError if the folders in `folder` can hardly be classes; notes what may surprise.

        Where the config names them as training images they are, and it is only noted how doubtful that is.
        """
        if self.has_train or not {*classes}.isdisjoint(self.class_names):
            return
        check_distinct(self.root, folder, classes)
        try:
            self.notes += check_names(self.root, folder, classes, shape_of(folder))
            self.notes += check_inside(self.root, folder, classes, aside)
        except UserError as error:
            if not self.names.train:
                raise
            found = str(error).removesuffix(way_out(folder))
            self.notes.append(f"classes as config.split_folders.train={self.names.train!r} names them, though {found}")
