"""Finds images that are masks of others, by their names."""

import re
from collections.abc import Sequence

from resnet_jax.data.listing import StoredFile
from resnet_jax.formatting import format_count

_KINDS = "masks?|seg|segmentation|segmented|gt|ground_?truth|annotations?|labels?|trimap"
_BEGINNINGS = ("mask", "seg", "gt", "ground", "annot", "label", "trimap")
_MASK_OF = re.compile(rf"(?P<of>.+?)[-_. ]({_KINDS})([-_ ]?\d+)?|({_KINDS})[-_. ](?P<of_>.+)", re.IGNORECASE)


def find_masks(files: Sequence[StoredFile]) -> set[str]:
    """Returns the paths of images that are named like masks of another beside them: 1_mask.png beside 1.png."""
    doubtful: dict[str, str] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if not any(word in name.lower() for word in _BEGINNINGS):  # a look that costs little in a million names
            continue
        found = _MASK_OF.fullmatch(name.rpartition(".")[0])
        if found is not None:
            doubtful[file.path] = f"{folder}/{found['of'] or found['of_']}"
    if not doubtful:
        return set()
    stems = {file.path.rpartition(".")[0] if "/" in file.path else f"/{file.path.rpartition('.')[0]}" for file in files}
    return {path for path, image in doubtful.items() if image in stems}


def describe_masks(masks: set[str]) -> list[str]:
    """Returns a line on the masks that were found; none if there are none."""
    if not masks:
        return []
    return [f"left aside: {format_count(len(masks), 'image')} named like masks of others, such as {min(masks)}"]
