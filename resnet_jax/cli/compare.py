"""The compare command: prints how runs differ, and their results."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli.comparison_table import PICTURE, print_comparison
from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, picture_path
from resnet_jax.errors import RunError, UserError
from resnet_jax.storage import check_address, is_address, read_run

logger = logging.getLogger(__name__)


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    compare = add(
        "compare", run_compare, "compare runs: what differs, and what came out", "python -m resnet_jax compare runs"
    )
    compare.add_argument("runs", nargs="*", metavar="RUN", help="workdirs, or folders of workdirs")
    compare.add_argument("--sort", default="", metavar="NAME", help="test_accuracy, best, name, or a field")
    compare.add_argument("--to", metavar="FILE", help=f"the picture (default: {PICTURE})")
    compare.add_argument("--csv", action="store_true", help="print a line for each run, with all of its numbers")
    compare.add_argument("--json", action="store_true", help="print one JSON object")


def run_compare(arguments: argparse.Namespace) -> int:
    """Prints the groups of runs as a table, CSV or JSON, and draws their curves."""
    from resnet_jax.comparison.groups import group_runs
    from resnet_jax.comparison.runs import find_runs, read_runs

    if arguments.csv and arguments.json:
        raise UserError("--csv and --json exclude each other: choose one")
    if not arguments.runs:
        raise UserError("give the runs to compare, for example: python -m resnet_jax compare runs")
    picture = _picture(arguments.to)
    folders = _folders(arguments.runs)

    def shown(path: Path) -> str:
        address = next((text for text, folder in folders.items() if is_address(text) and folder == path), None)
        return address or str(path)

    groups = group_runs(read_runs(find_runs([*folders.values()], shown), shown), arguments.sort)
    print_comparison(groups, picture, as_json=arguments.json, as_csv=arguments.csv)
    return EXIT_DONE


def _picture(text: str | None) -> Path | None:
    """Returns the path of the picture; None if none was asked for, and none can be written where it would lie."""
    try:
        return picture_path(PICTURE if text is None else text)
    except UserError:
        if text is not None:
            raise
        logger.warning(f"{PICTURE} cannot be written here: no curves are drawn (--to draws them elsewhere)")
        return None


def _folders(texts: Sequence[str]) -> dict[str, Path]:
    """Returns the folders that were given, by their paths and addresses; of a bucket's run a copy without arrays.

    One that cannot be reached is left out, with a warning, if there are others.
    """
    folders = {}
    for text in dict.fromkeys(check_address(text) if is_address(text) else text for text in texts):
        try:
            folders[text] = read_run(text, arrays=False)
        except RunError as error:
            if len(texts) == 1:
                raise
            logger.warning(f"{text} is left out: {error}")
    if not folders:
        raise RunError(f"none of {len(texts)} runs could be read: see the warnings")
    return folders
