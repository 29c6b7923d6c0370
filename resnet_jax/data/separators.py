"""Distinguishes a column with one label an image from one with several labels, or with measurements."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from resnet_jax.data.image_formats import is_image
from resnet_jax.errors import UserError, abridge, truncate

_ZEROS_AND_ONES = {"0", "1", "0.0", "1.0", "False", "True"}
_MOST_SHOWN = 8
_FEWEST_CAPTIONS = 50  # texts that all differ, from which on they are hardly classes
_MOST_CLASSES = 1000  # of images most of which have a label that no other has
_SEPARATORS = ("|", ";", ",", " ")
_QUOTED = re.compile(r"[,'\"]")
_FRACTION = re.compile(r"-?\d*\.\d+(e-?\d+)?")
_MEASUREMENT = re.compile(r"-?\d*\.?\d+(e-?\d+)?")


def check_one_label(where: str, labels: Iterable[object], *, is_chosen: bool) -> list[str]:
    """Returns notes on labels of one an image; raises UserError for texts that are hardly one class each.

    Args:
      is_chosen: the user named the column: then a note is enough.
    """
    single = [label for label in labels if isinstance(label, str)]
    distinct = sorted({*single})
    fault = _captions(distinct, len(single)) or (
        _measurements(distinct)
        or _files(distinct)
        or _lists(distinct)
        or next((line for separator in _SEPARATORS if (line := _several(distinct, separator))), "")
    )
    if fault and not is_chosen:
        raise UserError(f"{where}: {fault}; if each is a class, list them in a file (config.table.class_names)")
    return [f"{where}: {fault}"] if fault else []


def check_several_labels(where: str, labels: Iterable[object]) -> None:
    """Raises UserError for lists of zeros and ones, one for each class, where names or numbers of classes are read."""
    several = [label for label in labels if isinstance(label, tuple)]
    lengths = {len(label) for label in several}
    if len(lengths) == 1 and min(lengths) > 1 and {text for label in several for text in label} <= _ZEROS_AND_ONES:
        raise UserError(
            f"{where}: labels such as [{', '.join(several[0][:_MOST_SHOWN])}] are zeros and ones, one for each class: "
            "name the classes that are 1, or give a column each"
        )


def _measurements(distinct: Sequence[str]) -> str:
    if distinct and all(map(_MEASUREMENT.fullmatch, distinct)) and any(map(_FRACTION.fullmatch, distinct)):
        fractions = [text for text in distinct if _FRACTION.fullmatch(text)]
        return f"labels such as {abridge(fractions, 3)} are measurements and not classes"
    return ""


def _captions(distinct: Sequence[str], num_images: int) -> str:
    all_differ = len(distinct) == num_images >= _FEWEST_CAPTIONS and not all(map(str.isdecimal, distinct))
    if len(distinct) <= max(_MOST_CLASSES, num_images // 2) and not all_differ:
        return ""
    return f"of {num_images:,} labels {len(distinct):,} differ, as names of images and captions do, and not classes"


def _lists(distinct: Sequence[str]) -> str:
    lists = [text for text in distinct if text[:1] + text[-1:] in ("[]", "{}")]
    if lists and (len(lists) == len(distinct) or any(map(_QUOTED.search, lists))):
        return f"labels such as {truncate(lists[0])!r} are lists written as text: write them as cat;dog, or JSON lines"
    return ""


def _files(distinct: Sequence[str]) -> str:
    images = [text for text in distinct if is_image(text)]
    if images and len(images) == len(distinct):
        return f"labels such as {abridge(images, 3)} are names of images and not classes"
    return ""


def _several(distinct: Sequence[str], separator: str) -> str:
    """Returns what to say of texts that look like several labels with `separator` between; "" if they do not.

    Bars and semicolons stand in no name. Texts with commas and spaces may be names: they are several labels if most of
    their parts stand in other texts too, so that there are fewer parts than texts, and some part stands alone.
    """
    parts = {text: [part.strip() for part in text.split(separator) if part.strip()] for text in distinct}
    longer = [text for text in distinct if len(parts[text]) > 1]
    if not longer:
        return ""
    uses = Counter(part for of_text in parts.values() for part in {*of_text})
    if {*uses} == {"0", "1"} and len({len(of_text) for of_text in parts.values()}) == 1:
        return f"labels such as {truncate(longer[0])!r} are zeros and ones, one for each class: give a column each"
    if separator in ", ":
        shared = [text for text in longer if all(uses[part] > 1 for part in parts[text])]
        alone = any(len(of_text) == 1 and uses[of_text[0]] > 1 for of_text in parts.values())
        if not shared or 2 * len(shared) < len(longer) or len(uses) >= len(distinct) or not alone:
            return ""
    return (
        f"labels such as {truncate(longer[0])!r} seem to be several each (config.table.label_separator={separator!r} "
        "reads them)"
    )
