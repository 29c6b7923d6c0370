"""Finds the splits among the folders of a set, by their names and by their content."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from resnet_jax.data.class_folders import (
    SPLIT_FIELDS,
    check_distinct,
    check_names,
    find_belongings,
    inner_classes,
    is_part,
)
from resnet_jax.data.folder_tree import Folder
from resnet_jax.data.split_names import (
    SPLIT_FOLDERS,
    divide_name,
    is_about,
    is_belonging,
    is_unlabelled,
    name_splits,
    plain_split,
    split_in,
    split_named,
)
from resnet_jax.data.wrapping import unwrap
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count


@dataclass(frozen=True)
class SplitPlan:
    """The classes of a split, in the order of their names, and the folders whose images are theirs, with all in these.

    Attributes:
      path: the folder that holds the class folders; "" for the root.
      aside: folders inside of these whose images are not trained on.
    """

    path: str
    classes: dict[str, tuple[str, ...]]
    aside: tuple[str, ...] = ()


Splits = dict[str, Folder | SplitPlan]


@dataclass
class SplitFinder:
    """Finds the splits' folders.

    Attributes:
      root: for messages.
      class_names: a folder that is called so is a class.
      notes: how the set was understood, and which parts were left aside, a line each.
      optional: folders of test images that lie in no class folder.
    """

    root: Path
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    optional: dict[str, str] = field(default_factory=dict)

    def find(self, tree: Folder) -> Splits:
        """Returns the splits in `tree`; none if its folders are the classes.

        Raises:
          UserError: if a part can be understood in more than one way.
        """
        return (
            self._by_usual_names(tree)
            or self._by_words(tree)
            or self._named_after_classes(tree)
            or self._of_one_set(tree)
            or self._in_classes(tree)
        )

    def holds_classes(self, folder: Folder) -> bool:
        """Returns whether a split's folder has class folders in it, wherever it is wrapped."""
        return unwrap(folder, self.class_names, of_split=True)[0].holds_classes

    def leave_aside(self, folder: Folder, why: str = "without labels") -> None:
        """Notes that the images in a folder are not used."""
        self.notes.append(f"left aside: {format_count(folder.total, 'image')} in {self.where(folder)}, {why}")

    def leave_belongings(self, tree: Folder, classes: Iterable[Folder]) -> tuple[str, ...]:
        """Returns the folders in class folders of `tree` that hold masks and the like; notes that they are not used."""
        aside = [found for child in classes for found in find_belongings(child)]
        if aside:
            count = format_count(sum(found.total for found in aside), "image")
            kinds = abridge(sorted({f"{found.name}/" for found in aside}), 4)
            self.notes.append(f"left aside: {count} in {kinds} inside of the classes in {self.where(tree)}")
        return tuple(found.path for found in aside)

    def where(self, folder: Folder) -> Path:
        """Returns the folder's path for messages."""
        return self.root / folder.path

    def _by_usual_names(self, tree: Folder) -> Splits:
        """Returns the folders that are called train, val or test, and those beside them that other words name."""
        found: dict[str, Folder] = {}
        candidates = {name: child for name, child in tree.filled.items() if self.holds_classes(child)}
        for split_by in (split_named, plain_split):
            for name, child in candidates.items():
                split = split_by(name)
                if split in found and found[split] is not child:
                    self.refuse_both(tree, found[split], child)
                if split is not None:
                    found[split] = child
            if not found:
                return {}
        taken = {folder.path for folder in found.values()}
        for child in (child for _, child in sorted(tree.children.items()) if child.path not in taken):
            if child.total:
                self._place_beside(tree, child, found)
            elif split_named(child.name) in found:
                self.refuse_both(tree, found[split_named(child.name) or ""], child)
            elif split_named(child.name) is not None:
                raise UserError(f"{self.where(child)} holds no images in class folders: add some or remove the folder")
        if tree.num_images:
            self.notes.append(f"left aside: {format_count(tree.num_images, 'image')} in {self.where(tree)} itself")
        return dict(found)

    def _place_beside(self, tree: Folder, child: Folder, found: dict[str, Folder]) -> None:
        """Adds a folder beside splits to these, or leaves it aside, with a note; refuses what may be either."""
        split, is_flat = split_named(child.name), not self.holds_classes(child)
        is_first = "test" not in found and "test" not in self.optional
        if is_flat and (split == "test" or (plain_split(child.name) == "test" and is_first)):
            self.optional["test"] = child.path
        elif split_in(child.name) == "test" and is_flat:
            self.leave_aside(child)
        elif split in found:
            self.refuse_both(tree, found[split], child)
        elif split is not None:
            found[split] = child  # without class folders: a list says its labels, or it is refused
        elif (word := split_in(child.name)) and word not in found and self._share_classes([child, *found.values()]):
            self.notes.append(f"splits by their folders' names: {word} {child.name}/")
            found[word] = child
        elif {*child.filled} == {folder.name for folder in found.values()}:
            self.notes.append(f"left aside: {self.where(child)}, which holds folders of the same names again")
        elif self._is_no_split(child) or (is_flat and "train" in found and len(found) > 1):
            self.leave_aside(child, "a folder of no split")
        else:
            beside = ", ".join(f"{folder.name}/" for folder in found.values())
            raise UserError(
                f"{self.where(tree)} holds images in {child.name}/ beside {beside}: move them away ({SPLIT_FIELDS})"
            )

    def _is_no_split(self, child: Folder) -> bool:
        return is_about(child.name) or is_belonging(child.name) or is_unlabelled(child.name)

    def _by_words(self, tree: Folder) -> Splits:
        """Returns the folders that hold splits under other names: seg_train and seg_test, training_set and test_set."""
        filled = tree.filled
        splits = name_splits(tuple(filled), shape_of(tree))
        is_named = any(split_in(name) == "train" for name in splits)
        if not splits or not (is_named or self._share_classes(filled.values())):
            return {}
        found: dict[str, Folder] = {}
        is_whole = any(split == "train" and self.holds_classes(filled[name]) for name, split in splits.items())
        for name, child in filled.items():
            split = splits.get(name)
            if split is None and is_whole and (self._is_no_split(child) or not self.holds_classes(child)):
                self.leave_aside(child, "a folder of no split")
                continue
            if split is None:
                raise UserError(
                    f"{self.where(tree)} holds {name}/ beside splits, {abridge([*filled])}, and it is none by its "
                    f"name: move it away ({SPLIT_FIELDS})"
                )
            other = found.get(split)
            if other is not None and self.holds_classes(other) and self.holds_classes(child):
                self.refuse_both(tree, other, child)
            keep = child if other is None or self.holds_classes(child) else other
            found[split] = keep
            if other is not None:
                self.leave_aside(child if keep is other else other)
        if "test" in found and self.holds_classes(found["train"]) and not self.holds_classes(found["test"]):
            self.optional["test"] = found.pop("test").path
        self.notes.append(
            "splits by their folders' names: " + ", ".join(f"{split} {child.name}/" for split, child in found.items())
        )
        return dict(found)

    def _share_classes(self, folders: Iterable[Folder]) -> bool:
        """Returns whether all of the folders that hold class folders hold some of the same names."""
        inner = [found for child in folders if (found := inner_classes(child))]
        return len(inner) > 1 and bool(set.intersection(*inner))

    def _named_after_classes(self, tree: Folder) -> Splits:
        """Returns the splits of folders that are each a class of a split by their names: trainA, trainB, testA, testB.

        If none is called like training images, folders without a split's name hold them: cat, dog, cat_test, dog_test.
        """
        parts: dict[str, dict[str, Folder]] = {}
        has_train = any(split_in(name) == "train" for name in tree.filled)
        for name, child in tree.filled.items():
            split, rest = divide_name(name)
            if not rest or child.holds_classes or (split is None and has_train):
                return {}
            parts.setdefault(split or "train", {})[rest] = child
        names = {*parts.get("train", {})}
        if len(parts) < 2 or len(names) < 2:
            return {}
        if not has_train and not all(len(found) > 1 and {*found} <= names for found in parts.values()):
            return {}
        self.notes.append(
            "splits and classes by their folders' names: "
            + abridge([f"{split} {rest} {child.name}/" for split in parts for rest, child in parts[split].items()])
        )
        return {
            split: SplitPlan(tree.path, {rest: (found[rest].path,) for rest in sorted(found)})
            for split, found in parts.items()
        }

    def _of_one_set(self, tree: Folder) -> Splits:
        """Returns the splits of the one folder that holds class folders, beside which lies only what is no class."""
        sets = [child for child in tree.filled.values() if len(inner_classes(child)) > 1 and self.holds_classes(child)]
        others = [child for child in tree.filled.values() if child not in sets]
        loose = [child for child in others if plain_split(child.name) not in (None, "train")]
        if len(sets) != 1 or not others or sets[0].name in self.class_names or tree.num_images:
            return {}
        if not all(self._is_no_split(child) or child in loose for child in others):
            return {}
        inside = unwrap(sets[0], self.class_names, of_split=True)[0]
        found = self._by_usual_names(inside) or self._by_words(inside) or {"train": sets[0]}
        self.notes.append(f"{self.where(tree)} holds the set in {inside.path}, which was stepped into")
        for child in others:
            if plain_split(child.name) == "test" and not {"test"} & {*found, *self.optional}:
                self.optional["test"] = child.path
            else:
                self.leave_aside(child)
        return found

    def _in_classes(self, tree: Folder) -> Splits:
        """Returns the splits of a tree whose classes each hold them: cat/train, cat/test, dog/train, dog/test."""
        loose = [child for name, child in tree.filled.items() if split_named(name) and not self.holds_classes(child)]
        classes = {name: child for name, child in tree.filled.items() if child not in loose}
        inner = {
            name: {plain_split(part) for part in child.filled if not is_belonging(part)}
            for name, child in classes.items()
        }
        divided = [name for name, splits in inner.items() if splits and None not in splits]
        if not divided or self.class_names:
            return {}
        if len(divided) < len(classes) or any(classes[name].num_images for name in divided):
            whole = next(name for name in classes if name not in divided or classes[name].num_images)
            raise UserError(
                f"{self.where(tree)}: {divided[0]}/ holds folders named like splits, "
                f"{abridge([*classes[divided[0]].filled])}, and {whole}/ images of no split: divide all classes or none"
            )
        aside = self.leave_belongings(tree, classes.values())
        self._check_one_set(tree, classes, aside)
        check_distinct(self.root, tree, classes)
        self.notes += check_names(self.root, tree, classes, shape_of(tree))
        for child in loose:
            self.leave_aside(child)
        plans: Splits = {}
        for split in SPLIT_FOLDERS:
            paths = {
                name: tuple(part.path for part_name, part in child.filled.items() if plain_split(part_name) == split)
                for name, child in classes.items()
            }
            if any(paths.values()):
                plans[split] = SplitPlan(tree.path, {name: found for name, found in paths.items() if found}, aside)
        self.notes.append(f"the splits are folders inside of the classes: {abridge([*plans])}")
        return plans

    def _check_one_set(self, tree: Folder, classes: dict[str, Folder], aside: tuple[str, ...]) -> None:
        """Raises UserError if the splits in the folders of `tree` hold class folders: these are sets side by side."""
        owner: dict[str, str] = {}
        for name, child in classes.items():
            inside = {one for part in child.filled.values() for one in inner_classes(part, aside) if not is_part(one)}
            again = {one for one in inside if owner.setdefault(one, name) != name}
            if again or len(inside) > 1:
                others = abridge([f"{other}/" for other in classes], 4)
                raise UserError(
                    f"{self.where(tree)} holds {others}, each with splits, and {name}/ with class folders in these, "
                    f"{abridge(sorted(inside), 4)}: each is a set of its own: open one of them"
                )

    def refuse_both(self, tree: Folder, first: Folder, second: Folder) -> NoReturn:
        """Raises UserError: two folders for one split."""
        raise UserError(
            f"{self.where(tree)} has both {first.name}/ and {second.name}/ for one split: keep one of them "
            f"({SPLIT_FIELDS})"
        )


def shape_of(folder: Folder) -> Iterator[str]:
    """Yields a path for each folder in `folder`, as of an image in it: directly, or in a folder inside of it."""
    for name, child in folder.filled.items():
        yield f"{name}/x/x" if child.holds_classes else f"{name}/x"
