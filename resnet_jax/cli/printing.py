"""How the commands' results are printed, on standard output."""

from collections.abc import Sequence
from typing import Any

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.formatting import format_json, format_number


def print_result(result: dict[str, Any], as_json: bool) -> int:
    """Returns the exit code of a command that is done, its result printed: one JSON object, or a line each."""
    if as_json:
        print(format_json(result))
    else:
        print_table([(key.replace("_", " "), format_number(key, value)) for key, value in result.items()])
    return EXIT_DONE


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Prints labels and values in two columns."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with a line above its columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
