"""Values of tables as text, and as yes or no."""

from collections.abc import Sequence

import numpy as np

MOST_ROWS_LOOKED_AT = 100  # of a table, to decide what a column holds


def cell_text(value: object) -> str:
    """Returns a table's value as text: 3 for 3, 3.0 and "3 "; empty for none."""
    if value is None or value != value:  # NaN, as tables have it where there is nothing
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdecimal() else text


def is_indicator(values: Sequence[object]) -> bool:
    """Returns whether a column says yes or no of each row: in zeros and ones, in -1 and 1, or in true and false."""
    texts = {cell_text(value).lower() for value in values}
    return bool(texts) and any(texts <= kind for kind in ({"0", "1"}, {"-1", "1"}, {"false", "true"}))


def is_yes(value: object) -> bool:
    """Returns whether a value of such a column says yes."""
    return cell_text(value).lower() in ("1", "true")
