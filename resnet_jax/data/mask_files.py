"""Finds images that are masks of others, by their names."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from resnet_jax.data.listing import StoredFile
from resnet_jax.formatting import format_count

_KINDS = "masks?|seg|segmentation|segmented|gt|ground_?truth|annotations?|labels?|trimap|depth"
_BEGINNINGS = ("mask", "seg", "gt", "ground", "annot", "label", "trimap", "depth")
_IMAGES = ("image", "img", "rgb", "color", "colour", "photo", "original", "orig", "input")
_MASK_OF = re.compile(rf"(?P<of>.+?)[-_. ]({_KINDS})([-_ ]?\d+)?|({_KINDS})[-_. ](?P<of_>.+)", re.IGNORECASE)


def find_masks(files: Sequence[StoredFile]) -> set[str]:
    """Returns the paths of images that are named like masks of another beside them: 1_mask.png beside 1.png.

    Also beside 1_image.png, and depth_1.png beside color_1.png.
    """
    doubtful: dict[str, tuple[str, str]] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if not any(word in name.lower() for word in _BEGINNINGS):  # a look that costs little in a million names
            continue
        found = _MASK_OF.fullmatch(name.rpartition(".")[0])
        if found is not None:
            doubtful[file.path] = folder, found["of"] or found["of_"]
    if not doubtful:
        return set()
    stems = {file.path.rpartition(".")[0] if "/" in file.path else f"/{file.path.rpartition('.')[0]}" for file in files}
    return {
        path
        for path, (folder, of) in doubtful.items()
        if f"{folder}/{of}" in stems or any(f"{folder}/{name}" in stems for name in _named_like_images(of))
    }


def _named_like_images(of: str) -> Iterator[str]:
    for word in (form for image in _IMAGES for form in (image, image.capitalize())):
        yield from (f"{of}_{word}", f"{of}-{word}", f"{word}_{of}", f"{word}-{of}")


def describe_twins(files: Sequence[StoredFile]) -> list[str]:
    """Returns a line on images beside others of the same name with another ending, if a third or more are such."""
    endings = Counter(file.path.rpartition(".")[2] for file in files)
    if not files or 3 * max(endings.values()) > 2 * len(files):  # as it mostly is: then it cannot be a third
        return []
    first: dict[str, str] = {}
    pairs = ((file.path, first.setdefault(file.path.rpartition(".")[0], file.path)) for file in files)
    twins = {path: other for path, other in pairs if path != other}
    if 3 * len(twins) < len(files):
        return []
    path = min(twins)
    return [
        f"{format_count(len(twins), 'image')} beside another of the same name, such as {twins[path]} and {path}, all "
        "taken as images: remove those that are masks or copies"
    ]


def describe_masks(masks: set[str]) -> list[str]:
    """Returns a line on the masks that were found; none if there are none."""
    if not masks:
        return []
    return [f"left aside: {format_count(len(masks), 'image')} named like masks of others, such as {min(masks)}"]
