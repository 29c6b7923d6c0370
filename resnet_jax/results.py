"""How the commands' results are printed, on standard output."""

import json
from collections.abc import Sequence
from typing import Any

EXIT_DONE = 0


def print_result(result: dict[str, Any], as_json: bool) -> int:
    """The exit code of a command that is done, its result printed: one JSON object, or a line each."""
    if as_json:
        print(json.dumps(result))
    else:
        print_table([(key.replace("_", " "), format_number(key, value)) for key, value in result.items()])
    return EXIT_DONE


def format_number(key: str, value: Any) -> str:
    """The value as the ending of its name asks for: accuracies and the like in percent, memory in MiB."""
    if key.endswith(("accuracy", "calibration_error")):
        return f"{100 * value:.2f} %"
    if key.endswith("loss"):
        return f"{value:.4f}"
    if key.endswith("memory"):
        return f"{value / 2**20:.0f} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_bytes(num_bytes: float) -> str:
    """So many bytes, in units of 1024: "980 bytes", "1.5 KiB", "2.0 GiB"."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} bytes"
    for unit in ("KiB", "MiB"):
        num_bytes /= 1024
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} GiB"


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Prints labels and values in two columns."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")
