"""Numbers as results show them: percentages, sizes, durations, JSON and CSV."""

import csv
import json
import math
from typing import Any, TextIO


def format_percent(share: float | None, digits: int = 2) -> str:
    """Returns a share of 1 in percent, "98.75 %"; "-" for None."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def format_number(key: str, value: Any) -> str:
    """Returns a value as the ending of its name asks for: accuracies, map and the like in percent, memory in MiB."""
    if key.endswith(("accuracy", "calibration_error", "map")):
        return format_percent(value)
    if key.endswith("loss"):
        return f"{value:.4f}"
    if key.endswith("minutes"):
        return f"{value:.1f}"
    if key.endswith("memory"):
        return f"{value / 2**20:.0f} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_json(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON, which other programs read: null for a number that is not finite."""
    return json.dumps(_without_nonfinite(value), indent=indent, allow_nan=False)


def csv_writer(file: TextIO) -> Any:
    """Returns a `csv.writer` whose lines end with a line feed, and which quotes a carriage return within a cell."""
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")  # of other endings it leaves carriage returns bare


class _LineFeeds:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nonfinite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_count(number: int, noun: str) -> str:
    """Returns so many of a noun that takes an s: "1 image", "12,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(num_bytes: float) -> str:
    """Returns so many bytes in units of 1024: "980 bytes", "1.5 KiB", "2.0 GiB"."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} bytes"
    for unit in ("KiB", "MiB"):
        num_bytes /= 1024
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} GiB"


def format_clock(seconds: float) -> str:
    """Returns seconds as a clock shows them: "1:02:03", or "2:03" under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_duration(seconds: float) -> str:
    """Returns a duration as people say it: "0.4 s", "75 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
