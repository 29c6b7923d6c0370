"""Says which files beside class folders were not read, though they may divide the images or name the classes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from resnet_jax.data.class_labels import read_class_names
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing
from resnet_jax.data.scan import ARCHIVES
from resnet_jax.data.split_lists import is_list
from resnet_jax.data.split_names import UNDIVIDED, plain_split, split_in
from resnet_jax.data.table_file import SUFFIXES
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

_LISTS = (".txt", ".json", ".csv", ".tsv", ".lst", ".mat")
_SPLIT = re.compile(
    r"(.*[^a-z])?(train|test|val|valid|validation|splits?|partitions?|folds?|dev)(ing|list|set)?([^a-z].*)?"
)
_NAMES = ("classes", "class_names", "classnames", "class_labels", "categories", "names", "labels")


def describe_unread(listing: Listing, parts: Mapping[str, LabelledFiles], *, has_names: bool) -> list[str]:
    """Returns lines on files that were not read: lists of splits where the images are not divided, and of class names.

    Args:
      parts: the labelled images by split.
      has_names: the class names were given, and no file of them is looked for.
    """
    notes = describe_lists(listing, parts)
    part = parts.get("train", parts.get(UNDIVIDED))
    if part is None or has_names:
        return notes
    for path in _near(listing, part):
        if not path.lower().endswith(".txt") or _stem(path) not in _NAMES:
            continue
        if not f"{part.where}/".startswith(f"{path.rpartition('/')[0]}/".lstrip("/")):
            continue  # of something else than these folders
        try:
            names = read_class_names(listing.root / path)
        except UserError:
            continue  # no list of names
        numbered = all(name.isdecimal() for name in part.class_names)
        if len(names) != len(part.class_names) or (numbered and {*names} != {*part.class_names}):
            notes.append(
                f"left unread: {path} of {format_count(len(names), 'line')}, and there are {len(part.class_names)} "
                "class folders (config.table.class_names reads it)"
            )
    return notes


def describe_lists(listing: Listing, parts: Mapping[str, LabelledFiles]) -> list[str]:
    """Returns a line on lists of splits that were not read, where the images are not divided; none if there are none.

    A table of labels that was read is none, and neither is one of test images alone: these are left aside.
    """
    part = parts.get(UNDIVIDED)
    if part is None:
        return []
    lists = [
        path for path in _near(listing, part)
        if path.lower().endswith(_LISTS) and (_SPLIT.fullmatch(_stem(path)) or split_in(Path(path).stem))
    ]  # fmt: skip
    if part.where.lower().endswith(SUFFIXES):
        lists = [path for path in lists if path != part.where and plain_split(_stem(path)) != "test"]
    if not lists:
        return []
    splits = {split for path in lists if is_list(path) and (split := split_in(Path(path).stem))}
    advice = ""
    if "train" in splits and len(splits) > 1 and not part.where.lower().endswith(SUFFIXES):
        advice = f" (config.split_folders.train and .{min(splits - {'train'})} read such lists)"
    return [f"left unread: {abridge(lists, 4)}, which may divide the images{advice}"]


def _near(listing: Listing, part: LabelledFiles) -> list[str]:
    """Returns the paths of files that are no images and lie less than three folders off the way to `part`'s files."""
    way = part.where.split("/")
    paths = [file.path for file in listing.others if file.tar < 0]
    return [path for path in paths if path.count("/") - _num_shared(path.split("/"), way) < 3]


def _num_shared(path: Sequence[str], way: Sequence[str]) -> int:
    """Returns how many of the first folders of `path` lie on the way."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path[:-1], way, strict=False)))


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0].lower()


def describe_nothing(root: Path, listing: Listing) -> str:
    """Returns, for a message, that there are no images, and which files are there instead."""
    kinds = Counter(_extension(file.path) for file in listing.others)
    others = f"; it holds {abridge([f'{n:,} {kind}' for kind, n in kinds.most_common(5)])}" if kinds else ""
    return (
        f"{root} holds no images in class folders; they are expected as {root}/<class>/<image>{others}"
        f"{describe_archives(listing)}"
    )


def describe_fault(listing: Listing, fault: str) -> str:
    """Returns, for the end of a message, why folders are no classes; empty if all images lie in one."""
    is_flat = len({file.path.rpartition("/")[0] for file in listing.files}) < 2
    return "" if is_flat else f"; the folders are no classes: {fault}"


def describe_archives(listing: Listing) -> str:
    """Returns, for the end of a message, which archives must be unpacked; empty if there are none."""
    packed = [file.path for file in listing.others if file.path.lower().endswith(ARCHIVES)]
    return f": unpack {abridge(packed, 3)}" if packed else ""


def describe_others(listing: Listing) -> list[str]:
    """Returns a line on the files that are no images, by the ends of their names; none if there are none.

    Other messages report what became of tables.
    """
    kinds = Counter(_extension(file.path) for file in listing.others)
    counts = [f"{count:,} {kind}" for kind, count in kinds.most_common() if kind not in SUFFIXES]
    return [f"left aside: {abridge(counts)}, which are not read as images"] if counts else []


def _extension(path: str) -> str:
    name = path.rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else "without extension"
