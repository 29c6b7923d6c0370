"""Labels as they are written, names or numbers, to positions in a list of class names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.errors import UserError, abridge

_MOST_SHOWN = 4


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
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} holds the class name {twice!r} twice")
    return names


def label_text(value: object) -> str:
    """Returns a label as text: 3 for 3, 3.0 and "3 "; empty for none."""
    if value is None or value != value:  # NaN, as tables have it where there is nothing
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdecimal() else text


def number_labels(
    where: str, values: Sequence[str], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Returns (class names, labels (N,) int32, notes) of labels written as text.

    Names are sorted. Whole numbers are in their own order; with `names` they are positions in these.

    Args:
      where: for messages.
      values: the labels, none of them empty.
      names: of all classes, if they are known.

    Raises:
      UserError: for a label that is not among `names`, and fewer than two classes.
    """
    distinct = sorted({*values})
    numbers = all(_is_number(value) for value in distinct)
    notes: list[str] = []
    if names is not None and not {*distinct} <= {*names}:
        if not numbers:
            unknown = [value for value in distinct if value not in names]
            raise UserError(
                f"{where}: the label {unknown[0]!r} is none of the {len(names)} class names, {abridge(names)}"
            )
        low, high = min(map(int, distinct)), max(map(int, distinct))
        if low < 0 or high >= len(names):
            raise UserError(
                f"{where}: labels go from {low} to {high}, and there are {len(names)} class names: they count from 0"
            )
        return names, np.array([int(value) for value in values], np.int32), notes
    if names is None:
        names = tuple(sorted(distinct, key=int) if numbers else distinct)
        if numbers and [*map(int, names)] != [*range(len(names))]:
            mapping = abridge([f"{name} is label {i}" for i, name in enumerate(names)], _MOST_SHOWN)
            notes.append(f"{where}: the labels are numbers that do not count from 0: {mapping}")
    if len(names) < 2:
        raise UserError(f"{where} has one class, {', '.join(names)}; a classifier needs two or more")
    positions = {name: i for i, name in enumerate(names)}
    return names, np.array([positions[value] for value in values], np.int32), notes


def many_labels(
    where: str, values: Sequence[Sequence[str]], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Returns (class names, labels (N, K) uint8 of zeros and ones, notes) of several labels an image, or none.

    Errors are those of `number_labels`.
    """
    flat = [value for row in values for value in row]
    if not flat:
        raise UserError(f"{where} has no label at all")
    names, positions, notes = number_labels(where, flat, names)
    labels = np.zeros((len(values), len(names)), np.uint8)
    rows = np.repeat(np.arange(len(values)), [len(row) for row in values])
    labels[rows, positions] = 1
    return names, labels, notes


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and str(int(text)) == text
