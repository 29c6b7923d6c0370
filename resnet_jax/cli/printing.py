"""How the commands' results are printed, on standard output."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.formatting import format_json, format_number

logger = logging.getLogger(__name__)


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


def draw_picture(picture: Path | None, draw: Callable[[Path], None]) -> Path | None:
    """Has `draw` write a picture, of what the command prints as well; returns its path, None if it could not be written
    and a warning says so.

    Args:
      picture: its path; None: none is wanted.
    """
    if picture is None:
        return None
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(picture)
    except Exception as error:
        from resnet_jax.plotting.figures import describe_unwritten

        logger.warning(describe_unwritten(picture, error))
        return None
    return picture


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with a line above its columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
