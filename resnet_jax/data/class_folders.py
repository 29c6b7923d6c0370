"""Checks that folders can be the classes of a set, by their names and by the folders in them."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path

from resnet_jax.data.class_labels import similar_names
from resnet_jax.data.folder_tree import Folder
from resnet_jax.data.split_names import (
    BELONGINGS,
    are_splits,
    divide_name,
    ends_in_split,
    holds_all_alike,
    is_about,
    is_belonging,
    is_no_class,
    is_unlabelled,
    plain_split,
    split_in,
)
from resnet_jax.errors import UserError, abridge

SPLIT_FIELDS = "config.split_folders.train, .validation and .test name the splits"
_TRAIN = "config.split_folders.train"
NUMBERED = "classes are in the order of their names"  # how the note on classes called by numbers begins
_FOLDS = "k?fold|cv|part|chunk|batch|shard|subset|session"
_FOLD = re.compile(rf"(.*[-_ ])?({_FOLDS})[-_ ]?\d+")
# Folders that divide images by their subject or their day.
_SUBJECT = re.compile(r"(.*[-_ ])?(patient|study|scan|exam)[-_ ]?\d+|(19|20)\d\d[-_.](0\d|1[0-2])[-_.][0-3]\d")
# Folders inside a class that divide its images by size, by number or by the person they show.
_SIZE = re.compile(r"\d+(x\d+|x|px|p|um|mm|cm|nm|k)")
_PART = re.compile(
    rf"{_SIZE.pattern}|(.*[-_ ])?({_FOLDS}|seq|sequence|clip|video|scene|subject|patient|person|g)[-_ ]?\d+"
)
# The end of the name of a folder that holds another's images once more, or masks of them.
_COPY = re.compile(
    rf" ?\(\d+\)$|[-_ ]+copy([-_ ]?\(?\d+\)?)?$|([-_ ]+(aug|augmented|{'|'.join(BELONGINGS)}))+$", re.IGNORECASE
)


def is_part(name: str) -> bool:
    """Returns whether a folder inside of a class is named like a part of its images: 40X, 224x224, session_1."""
    return _PART.fullmatch(name.lower()) is not None


def find_belongings(folder: Folder) -> Iterator[Folder]:
    """Yields the folders in a class that hold what belongs to its images, which lie beside them or in images/."""
    mine = [child for child in folder.filled.values() if is_belonging(child.name)]
    rest = [child for child in folder.filled.values() if not is_belonging(child.name)]
    if mine and (folder.num_images or rest) and all(holds_all_alike(child.name, folder.name) for child in rest):
        yield from mine
    for child in rest:
        yield from find_belongings(child)


def find_unlabelled(names: Collection[str]) -> list[str]:
    """Returns the names of class folders that say that their images are of no class: unlabelled, test.

    The latter only where no other folder is called like training images, and one is or two others are left. Words that
    images are classed by, too, say less: valid.
    """
    splits = [name for name in names if plain_split(name) in ("validation", "test")]
    few = any(split_in(name) == "train" for name in names) or 1 < len(splits) > len(names) - 2
    clear = [] if few else [name for name in splits if name.lower() not in ("valid", "dev")]
    return [name for name in names if is_unlabelled(name) or name in clear]


def check_distinct(root: Path, folder: Folder, classes: Mapping[str, Folder]) -> None:
    """Raises UserError for fewer than two classes, and for a folder that lies in two of them by a link."""
    if len(classes) < 2:
        raise UserError(
            f"{root / folder.path} holds one class, {next(iter(classes))}; a classifier needs two or more; "
            f"{_expected(root)}"
        )
    owners: dict[str, tuple[str, Folder]] = {}
    for name, child in classes.items():
        for inside in child.walk():
            owner, other = owners.setdefault(inside.real or inside.path, (name, inside))
            if owner != name and inside.total:
                raise UserError(
                    f"{root / inside.path} and {root / other.path} are one folder, by a link, and two classes would "
                    "have its images: remove one of them"
                )


def check_names(root: Path, folder: Folder, classes: Mapping[str, Folder], shape: Iterator[str]) -> list[str]:
    """Returns notes on what may surprise of the names of class folders. shape: a path for each, as of an image in it.

    Raises:
      UserError: if they are named like splits, like parts of a set, or like what images come with.
    """
    where, names = root / folder.path, (*classes,)
    if are_splits(names, shape):
        raise UserError(
            f"{where} holds the folders {abridge(names)}, which are named like splits and not like classes; "
            f"{_expected(root)} ({SPLIT_FIELDS})"
        )
    if all(map(is_no_class, names)):
        raise UserError(
            f"{where} holds the folders {abridge(names)}, which are named like images and what belongs to them, "
            f"not like classes; {_expected(root)}{way_out(folder)}"
        )
    if all(_FOLD.fullmatch(name.lower()) for name in names):
        raise UserError(
            f"{where} holds the folders {abridge(names)}, which are named like parts of a set and not like "
            f"classes; {_expected(root)}: put the classes' folders together, or name the splits ({SPLIT_FIELDS})"
        )
    named = {name: split_in(name) for name in names if ends_in_split(name)}
    few = "train" not in named.values() and len({*named.values()}) == len(named) <= len(names) - 2
    for name in names:
        first = _COPY.sub("", name)
        if first != name and first in names:
            raise UserError(
                f"{where} holds {name}/ beside {first}/, and it is named like a copy of this or what belongs to it: "
                f"move it away{way_out(folder)}"
            )
        if name in named and (few or divide_name(name)[1] in names):
            raise UserError(
                f"{where} holds {name}/ beside class folders, and it is named like images of another split: move it "
                f"away{way_out(folder)}"
            )
    return [*_number_notes(names), *similar_names(str(where), names), *_doubtful_notes(where, classes)]


def check_inside(root: Path, folder: Folder, classes: Mapping[str, Folder], aside: Collection[str]) -> list[str]:
    """Returns notes on folders in class folders. aside: paths of folders that are not trained on.

    Raises:
      UserError: if these folders look like the classes: one of them holds folders that lie beside it, or most hold
        folders of the same names, as copies, parts and patients do.
    """
    where = root / folder.path
    inner = {name: found for name, child in classes.items() if (found := inner_classes(child, aside))}
    for name, found in inner.items():
        if len({split_in(one) for one in found} - {None}) > 1:
            raise UserError(
                f"{where / name} holds folders named like splits, {abridge(sorted(found), 4)}, beside other folders: "
                f"open it alone, or move it away{way_out(folder)}"
            )
        again = (found & {*classes}) - {name}
        if len(again) > 1 or again == found:
            raise UserError(
                f"{where / name} holds the classes {abridge(sorted(again))} again, which lie beside it: remove one of "
                f"the two{way_out(folder)}"
            )
        mixed = [
            child.name for child in classes[name].filled.values() if child.name in found and is_belonging(child.name)
        ]
        if mixed and {*mixed} < found:
            raise UserError(
                f"{where / name} holds {mixed[0]}/, named like what belongs to images, beside "
                f"{abridge(sorted(found - {*mixed}))}: move it away{way_out(folder)}"
            )
    every: set[str] = set().union(*inner.values())
    if 2 * len(inner) > len(classes) and not all(map(is_part, every)):
        _check_levels(where, folder, inner, every)
        _check_letters(where, folder, {name: [*classes[name].filled] for name in inner})
    _check_loose(where, folder, classes, inner)
    if all(_SUBJECT.fullmatch(name.lower()) for name in classes):
        raise UserError(
            f"{where} holds the folders {abridge([*classes], 4)}, which are named like patients, studies or days and "
            f"not like classes; {_expected(root)}{way_out(folder)}"
        )
    children = [child for one in classes.values() if one.num_images for child in one.filled.values()]
    more = sorted({f"{child.name}/" for child in children if is_no_class(child.name) and child.path not in aside})
    notes = [f"{abridge(more, 4)} beside images of a class in {where}: taken for images of it, too"] if more else []
    if len(every) < 2:
        return notes
    shown, nested = abridge(sorted(every), 4), abridge([*inner], 4)
    if len(inner) < len(classes):
        return [
            *notes,
            f"{nested} in {where}: images only in folders inside, {shown}, which are no classes of their own",
        ]
    return [
        *notes,
        f"each of the classes, {nested}, holds folders, in all {shown}: should these be the classes, put them together "
        "in one folder",
    ]


def _check_loose(where: Path, folder: Folder, classes: Mapping[str, Folder], inner: Mapping[str, set[str]]) -> None:
    """Raises UserError if folders of loose images lie beside one that is a set of class folders by all looks."""
    sets = [name for name, found in inner.items() if len(found) > 1]
    loose = [name for name in classes if name not in inner]
    tests = [name for name in loose if ends_in_split(name) and split_in(name) != "train"]
    if sets and tests and len(sets) + len(tests) == len(classes):
        raise UserError(
            f"{where} holds {tests[0]}/ beside {sets[0]}/, which holds folders, {abridge(sorted(inner[sets[0]]), 4)}, "
            f"and it is named like images of another split: move it away{way_out(folder)}"
        )
    whole = [name for name in sets if is_no_class(name)]
    if whole:
        others = abridge([name for name in classes if name != whole[0]], 4)
        raise UserError(
            f"{where} holds {whole[0]}/, named like all images of a set and with folders in it, "
            f"{abridge(sorted(inner[whole[0]]), 4)}, beside {others}: open it alone, or move it away{way_out(folder)}"
        )
    again = [name for name in sets if [one.lower() for one in classes[name].filled] == [name.lower()]]
    if again and loose:
        raise UserError(
            f"{where} holds {again[0]}/ with a folder of its own name in it, as unpacking leaves it, and in this "
            f"{abridge(sorted(inner[again[0]]), 4)}, beside {abridge(loose, 4)}: open {where / again[0]} alone"
            f"{way_out(folder)}"
        )


def inner_classes(folder: Folder, aside: Collection[str] = ()) -> set[str]:
    """Returns the names of the folders that might be the classes in place of `folder`, which holds no images itself.

    Wrapping ones are stepped into; none for one that only holds all images, as in cat/images.
    """
    while not folder.num_images:
        inside = [child for child in folder.filled.values() if child.path not in aside]
        if len(inside) != 1:
            return {child.name for child in inside}
        if not inside[0].filled:
            again = inside[0].name.lower() == folder.name.lower() or holds_all_alike(inside[0].name, folder.name)
            return set() if again else {inside[0].name}
        folder = inside[0]
    return set()


def _check_levels(where: Path, folder: Folder, inner: Mapping[str, set[str]], every: set[str]) -> None:
    """Raises UserError if the folders inside of class folders look more like the classes than these."""
    whole = next((name for name, found in inner.items() if len(found) > 1 and all(map(is_no_class, found))), None)
    if whole is not None:
        raise UserError(
            f"{where / whole} holds {abridge(sorted(inner[whole]), 4)}, which are named like splits, or like images "
            f"and what belongs to them: keep one in each class, or open one set alone{way_out(folder)}"
        )
    counts = Counter(name for found in inner.values() for name in found)
    often = {name: shared for name, found in inner.items() if (shared := {n for n in found if counts[n] > 1})}
    pair = next((pair for pair in combinations(often, 2) if len(often[pair[0]] & often[pair[1]]) > 1), None)
    are_numbered = len({re.sub(r"\d+", "", name.lower()) for name in inner}) == 1  # patients, years, versions
    if pair is None and often and len(every) > 1 and (are_numbered or len(every) <= len(inner)):
        pair = next(pair for pair in combinations(often, 2) if often[pair[0]] & often[pair[1]])
    if pair is not None:
        both = often[pair[0]] & often[pair[1]]
        raise UserError(
            f"{where} holds {pair[0]}/ and {pair[1]}/, and both hold {abridge(sorted(both), 4)}: if the inner ones are "
            f"the classes, keep one of the two or put folders of one name together; if they are training and other "
            f"images, {SPLIT_FIELDS}{way_out(folder)}"
        )


def _check_letters(where: Path, folder: Folder, inner: Mapping[str, list[str]]) -> None:
    """Raises UserError if folders are an index of those in them: a, with abbey and airfield, and b, with bakery."""
    every = sorted(one for found in inner.values() for one in found)
    if len(inner) > 1 and all(one[0].lower() == name.lower() for name, found in inner.items() for one in found):
        raise UserError(
            f"{where} holds the folders {abridge([*inner], 4)} for the first letters of those in them, "
            f"{abridge(every, 4)}: put these together in one folder{way_out(folder)}"
        )


def way_out(folder: Folder) -> str:
    """Returns, for a message, how to have the folders in `folder` as classes all the same."""
    others = ", and name the other splits" if split_in(folder.path.partition("/")[0]) else ""
    return f"; if the folders in {folder.path or '.'} are the classes, set {_TRAIN}={folder.path or '.'!r}{others}"


def _expected(root: Path) -> str:
    return f"they are expected as {root}/<class>/<image>, or below train/, val/ and test/"


def _number_notes(names: tuple[str, ...]) -> list[str]:
    if not all(name.isdecimal() for name in names) or [*map(int, names)] == sorted(map(int, names)):
        return []
    labels = abridge([f"{name} is label {i}" for i, name in enumerate(names)], 4)
    return [f"{NUMBERED} as text, not as numbers: {labels}"]


def _doubtful_notes(where: Path, classes: Mapping[str, Folder]) -> list[str]:
    kinds = (plain_split, is_about, is_belonging, is_unlabelled, is_no_class)
    doubtful = [
        name
        for name in classes
        if any(f(name) for f in kinds) or _FOLD.fullmatch(name.lower()) or _SIZE.fullmatch(name.lower())
    ]
    if not doubtful:
        return []
    return [f"taken as classes in {where}, as all that lies there: {abridge(doubtful, 4)}; move away what is none"]
