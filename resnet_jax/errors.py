"""The one exception that means "your input is wrong": a line that says what, where and what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad usage, config, data or file. The commands print its single line and exit with code 2."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'resnet50'?`` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def choose(field: str, value: str, known: Iterable[str]) -> str:
    """`value` itself if it is among `known`; otherwise a UserError that lists them and the nearest."""
    known = list(known)
    if value not in known:
        raise UserError(f"{field}={value!r} must be one of {', '.join(known)}{suggestion(str(value), known)}")
    return value
