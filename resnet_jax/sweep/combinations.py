"""Combinations of fields' values: one field's values from a text, every combination of several, a name for each."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_jax.errors import UserError

SEED = "seed"
BRACKETS = {"(": ")", "[": "]", "{": "}"}
QUOTES = "'\""
# A run's name may have these besides letters and digits; anything else becomes an underscore.
SAFE = frozenset("._-+=,()[]")
MOST_BYTES = 120  # of a name, which `.log` follows; of letters beyond ASCII each has several


@dataclass(frozen=True)
class Setting:
    """A field in one run: its dotted path, its value as the command line has it, and what that is read as."""

    field: str
    text: str
    value: Any


def split_values(text: str) -> list[str]:
    """Returns the values in `text`, which are separated by commas; those within brackets or quotes separate nothing.

    A quote is one at the beginning of a value, or within brackets: "bob's" has none.

    Raises:
      UserError: for an empty value, and for brackets or quotes that are not closed.
    """
    if "," not in text:
        return [text]
    values, closing, quote = [""], "", ""
    for character in text:
        if character == "," and not closing and not quote:
            values.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES and (closing or not values[-1].strip()):
            quote = character
        elif character in BRACKETS:
            closing = BRACKETS[character] + closing
        elif closing and character == closing[0]:
            closing = closing[1:]
        values[-1] += character
    if closing or quote:
        raise UserError(f"{text!r} has no closing {closing[:1] or quote}: values are separated by commas outside of it")
    values = [value.strip() for value in values]
    if "" in values:
        raise UserError(f"{text!r} has an empty value between its commas; '' is an empty word")
    return values


def unquote(text: str) -> str:
    """Returns a word without the quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] in QUOTES and text[0] == text[-1] else text


def combine(fields: Mapping[str, Sequence[Setting]]) -> list[tuple[Setting, ...]]:
    """Returns every combination of the fields' settings; the last field changes fastest."""
    return list(itertools.product(*fields.values()))


def run_names(runs: Sequence[Sequence[Setting]]) -> list[str]:
    """Returns a name for each run, for a folder: what varies between the runs, and the seed, which always stands there.

    A name depends on the run's own values alone, so that a sweep with more values later finds the runs it has; but one
    in which another field varies, too, has other names. One that cannot hold its values as they are, being too long or
    not for a file, has the beginning of a digest behind it.
    """
    varying = [
        settings[0].field
        for settings in zip(*runs, strict=True)
        if settings[0].field == SEED or len({repr(setting.value) for setting in settings}) > 1
    ]
    last_parts = [field.rpartition(".")[2] for field in varying]
    labels = {
        field: part if last_parts.count(part) == 1 else field for field, part in zip(varying, last_parts, strict=True)
    }
    names, taken = [], set()
    for settings in runs:
        exact = ",".join(f"{labels[s.field]}={show(s.value)}" for s in settings if s.field in labels)
        name = "".join(c if c.isalnum() or c in SAFE else "_" for c in exact)
        if name != exact or len(name.encode()) > MOST_BYTES or name.casefold() in taken:
            beginning = name.encode()[: MOST_BYTES - 9].decode(errors="ignore")
            name = f"{beginning}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
        names.append(name)
        taken.add(name.casefold())  # some file systems do not distinguish capitals
    return names


def show(value: Any) -> str:
    """Returns a value as names show it: "0.05", "1" for 1.0, "(10,20)"."""
    if isinstance(value, tuple | list):
        return f"({','.join(map(show, value))})"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
