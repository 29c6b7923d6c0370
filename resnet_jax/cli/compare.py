"""The compare command: prints how runs differ, and their results."""

import argparse
from dataclasses import replace

from resnet_jax.cli.comparison_table import print_comparison
from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, picture_path
from resnet_jax.errors import UserError
from resnet_jax.storage import is_address, read_run

PICTURE = "compare.png"


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    compare = add(
        "compare", run_compare, "compare runs: what differs, and what came out", "python -m resnet_jax compare runs/*"
    )
    compare.add_argument("runs", nargs="*", metavar="RUN", help="workdirs, or folders of workdirs")
    compare.add_argument("--sort", default="", metavar="NAME", help="test_accuracy, best, name, or a field")
    compare.add_argument("--to", default=PICTURE, metavar="FILE", help=f"the picture (default: {PICTURE})")
    compare.add_argument("--csv", action="store_true", help="print a line for each run, with all of its numbers")
    compare.add_argument("--json", action="store_true", help="print one JSON object")


def run_compare(arguments: argparse.Namespace) -> int:
    """Prints the groups of runs as a table, CSV or JSON, and draws their curves."""
    from resnet_jax.comparison.groups import group_runs
    from resnet_jax.comparison.runs import find_runs, read_runs

    if arguments.csv and arguments.json:
        raise UserError("--csv and --json exclude each other: choose one")
    if not arguments.runs:
        raise UserError("give the runs to compare, for example: python -m resnet_jax compare runs/*")
    picture = picture_path(arguments.to)
    folders = [read_run(path, arrays=False) for path in arguments.runs]
    runs = read_runs(find_runs(folders))
    for folder, given in zip(folders, arguments.runs, strict=True):
        if is_address(given):
            runs = [replace(run, name=run.name.replace(str(folder), given)) for run in runs]
    groups = group_runs(runs, arguments.sort)
    print_comparison(groups, picture, as_json=arguments.json, as_csv=arguments.csv)
    return EXIT_DONE
