"""Says which files beside class folders were not read, though they may divide the images or name the classes."""

import re
from collections.abc import Mapping

from resnet_jax.data.class_labels import read_class_names
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing
from resnet_jax.data.split_names import UNDIVIDED
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count

_LISTS = (".txt", ".json", ".csv", ".tsv", ".lst")
_SPLIT = re.compile(r"(.*[^a-z])?(train|test|val|valid|validation|splits?|dev)(ing|list|set)?([^a-z].*)?")
_NAMES = ("classes", "class_names", "classnames", "class_labels", "categories", "names", "labels")


def describe_unread(listing: Listing, parts: Mapping[str, LabelledFiles], *, has_names: bool) -> list[str]:
    """Returns lines on files that were not read: lists of splits where the images are not divided, and of class names.

    Args:
      parts: the labelled images by split.
      has_names: the class names were given, and no file of them is looked for.
    """
    notes = []
    paths = [file.path for file in listing.others if file.tar < 0 and file.path.count("/") < 3]
    if UNDIVIDED in parts:
        lists = [path for path in paths if path.lower().endswith(_LISTS) and _SPLIT.fullmatch(_stem(path))]
        notes += [f"left unread: {abridge(lists, 4)}, which may divide the images"] if lists else []
    part = parts.get("train", parts.get(UNDIVIDED))
    if part is None or has_names:
        return notes
    for path in (path for path in paths if path.lower().endswith(".txt") and _stem(path) in _NAMES):
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


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0].lower()
