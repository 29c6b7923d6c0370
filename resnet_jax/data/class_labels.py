"""Labels as they are written, names or numbers, to positions in a list of class names."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.data.cells import cell_text
from resnet_jax.errors import UserError, abridge, truncate

# An image's label as text; of images that may have several or none, a tuple of them.
Label = str | tuple[str, ...]
# The entries of tables that mean no value, as pandas reads and writes them.
NO_VALUE = {"", "#N/A", "N/A", "n/a", "NA", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None"}
_MOST_SHOWN = 4
_MOST_DIGITS = 18  # of a number that is a label: more are an identifier


def find_class_names(root: Path, name: str) -> tuple[str, ...] | None:
    """Returns the class names in the file of config.table.class_names, maybe a path from the root; None for "".

    Raises:
      UserError: as `read_class_names`.
    """
    if not name:
        return None
    inside = root / name
    if inside.is_file():
        return read_class_names(inside)
    try:
        return read_class_names(Path(name).expanduser())
    except RuntimeError as error:  # of a home that is not there
        raise UserError(f"config.table.class_names={name!r} cannot be found: {error}") from None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Returns the class names in a text file, one a line.

    Raises:
      UserError: if it cannot be read, is empty, or has a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read as class names, one a line: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"{path} holds no class names: write one a line")
    check_distinct(str(path), names)
    return names


def check_distinct(where: str, names: Sequence[str]) -> None:
    """Raises UserError if `where` names a class twice, in whichever Unicode form."""
    name, count = Counter(map(_composed, names)).most_common(1)[0]
    if count > 1:
        raise UserError(f"{where} holds the class name {truncate(name)!r} twice: labels could mean either")


def label_text(value: object) -> str:
    """Returns a label as text, in composed Unicode; empty for none and for what stands for none, as NaN and NA.

    Raises:
      ValueError: if it is no name or number, or a text of several lines or of no characters.
    """
    if isinstance(value, dict | list | tuple | bytes):
        raise ValueError(f"a label must be a name or a number, not {truncate(value)}")
    text = _composed(cell_text(value))
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError(f"a label must be a text in one line, not {truncate(text.encode(errors='replace').decode())}")
    return "" if text in NO_VALUE else text


def label_texts(values: Iterable[object]) -> tuple[str, ...]:
    """Returns the labels of one image, which may be none.

    Raises:
      ValueError: as `label_text`, and for a label that is none among others.
    """
    texts = tuple(map(label_text, values))
    if "" in texts:
        raise ValueError("one of its labels is none: leave it out")
    return texts


def separated(text: str, separator: str) -> Label:
    """Returns the labels that a text holds, with a separator between them; the one label if the separator is empty.

    Raises:
      ValueError: as `label_texts`.
    """
    return label_texts(part for part in text.split(separator) if part.strip()) if separator else label_text(text)


def indexed_text(value: object, names: tuple[str, ...] | None) -> str:
    """Returns a label as `label_text` does; of a number that counts `names`, the name. -1 is no label.

    Raises:
      ValueError: for a number beyond the names, and as `label_text`.
    """
    if names is None or isinstance(value, bool) or not isinstance(value, int):
        return label_text(value)
    if not -1 <= value < len(names):
        raise ValueError(f"the label {value} must be from 0 to {len(names) - 1}, as there are {len(names)} class names")
    return names[value] if value >= 0 else ""


def number_splits(
    where: str, labels: Mapping[str, Sequence[Label]], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """Returns (class names, labels by split, notes) of labels by split, which are numbered alike in all.

    They are (N,) int32; where an image of any split has several or none, all are (N, K) uint8 of zeros and ones.
    Raises as `number_labels` does.
    """
    flat = [label for of_split in labels.values() for label in of_split]
    if any(isinstance(label, tuple) for label in flat):
        names, numbers, notes = many_labels(where, [(x,) if isinstance(x, str) else x for x in flat], names)
    else:
        names, numbers, notes = number_labels(where, [str(label) for label in flat], names)
    ends = np.cumsum([len(of_split) for of_split in labels.values()])
    return names, dict(zip(labels, np.split(numbers, ends[:-1]), strict=True)), notes


def number_labels(
    where: str, values: Sequence[str], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Returns (class names, labels (N,) int32, notes) of labels written as text.

    Names are sorted, and whole numbers are in their own order. With `names`, labels are names among these; numbers that
    are not are positions in these, unless these are numbers too: then 7 is the class 007.

    Args:
      where: for messages.
      values: the labels, none of them empty.
      names: of all classes, if they are known.

    Raises:
      UserError: for a label that is not among `names`, and fewer than two classes.
    """
    distinct = sorted({*values})
    notes: list[str] = []
    if names is None:
        numbers = all(map(_is_number, distinct))
        names = tuple(sorted(distinct, key=int) if numbers else distinct)
        if numbers and [*map(int, names)] != [*range(len(names))]:
            mapping = abridge([f"{name} is label {i}" for i, name in enumerate(names)], _MOST_SHOWN)
            notes.append(f"{where}: the labels are numbers that do not count from 0: {mapping}")
        notes += similar_names(where, names)
        places = {name: i for i, name in enumerate(names)}
    else:
        places = _places(where, distinct, names)
        if (
            names
            and {*map(_composed, distinct)}.isdisjoint(map(_composed, names))
            and not all(map(str.isdecimal, names))
        ):
            mapping = abridge([f"{text} is {names[places[text]]}" for text in sorted(distinct, key=int)], _MOST_SHOWN)
            notes.append(f"{where}: labels count the class names from 0: {mapping}")
    if len(names) < 2:
        raise UserError(f"{where} has one class, {', '.join(names)}; a classifier needs two or more")
    return names, np.array([places[value] for value in values], np.int32), notes


def _places(where: str, distinct: Sequence[str], names: tuple[str, ...]) -> dict[str, int]:
    """Returns the position in `names` of each of the labels `distinct`."""
    check_distinct(where, names)
    composed = {_composed(name): i for i, name in enumerate(names)}
    by_name = {text: composed[_composed(text)] for text in distinct if _composed(text) in composed}
    unknown = [text for text in distinct if text not in by_name]
    if not unknown:
        return by_name
    are_numbers = all(map(str.isdecimal, names))
    if not all(map(_is_number, distinct)) or (by_name and not are_numbers):
        raise UserError(
            f"{where}: the label {truncate(unknown[0])!r} is none of the {len(names)} class names, {abridge(names)}"
        )
    if are_numbers:
        by_number = {int(name): i for i, name in enumerate(names)}
        lost = [text for text in distinct if int(text) not in by_number]
        if lost or len(by_number) < len(names):
            raise UserError(
                f"{where}: the label {(lost or unknown)[0]} is none of the classes, which are called by numbers too, "
                f"{abridge(names)}: write them as the classes are called"
            )
        return {text: by_number[int(text)] for text in distinct}
    low, high = min(map(int, distinct)), max(map(int, distinct))
    if low < 0 or high >= len(names):
        raise UserError(
            f"{where}: labels go from {low} to {high}, and there are {len(names)} class names: they count from 0"
        )
    return {text: int(text) for text in distinct}


def many_labels(
    where: str, values: Sequence[Sequence[str]], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Returns (class names, labels (N, K) uint8 of zeros and ones, notes) of several labels an image, or none.

    Raises as `number_labels` does.
    """
    flat = [value for row in values for value in row]
    if not flat:
        raise UserError(f"{where} has no label at all")
    names, positions, notes = number_labels(where, flat, names)
    labels = np.zeros((len(values), len(names)), np.uint8)
    rows = np.repeat(np.arange(len(values)), [len(row) for row in values])
    labels[rows, positions] = 1
    return names, labels, notes


def similar_names(where: str, names: Iterable[str]) -> list[str]:
    """Returns a line for each two classes whose names differ only in case, spaces, leading zeros or Unicode form."""
    first: dict[str, str] = {}
    lines = []
    for name in names:
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
        other = first.setdefault(folded.lstrip("0") if folded.isdecimal() else folded, name)
        if other != name:
            how = "case" if other.casefold() == name.casefold() else "spaces, zeros or the form of a letter"
            lines.append(f"{where}: {other} and {name} are two classes, though their names differ only in {how}")
    return lines


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return len(digits) <= _MOST_DIGITS and digits.isdecimal() and str(int(text)) == text
