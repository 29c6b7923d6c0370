"""The doctor command: runs the checks, and prints the findings."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_USAGE
from resnet_jax.cli.options import AddCommand, run_folder
from resnet_jax.cli.printing import print_result
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.errors import UserError
from resnet_jax.preflight.finding import ERROR, OK, WARNING, Finding
from resnet_jax.preflight.packages import examine_packages, not_importable


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    doctor = add("doctor", run_doctor, "check what a run needs here: packages, devices, images, disk, memory",
                 "python -m resnet_jax doctor --config digits")  # fmt: skip
    doctor.add_argument("--config", metavar="NAME|PATH", help="the run's config (default: no run, this machine alone)")
    doctor.add_argument("--workdir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    doctor.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")
    doctor.add_argument(
        "--deep", action="store_true", help="decode every image: damaged ones, sizes, duplicates, leaks"
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")


def run_doctor(arguments: argparse.Namespace) -> int:
    """Prints a run's needs here, a line each."""
    if arguments.config is None and (arguments.overrides or arguments.workdir is not None):
        raise UserError("--workdir and --config.field=value belong to a config: give --config as well")
    findings = examine_packages()
    try:
        findings += _examine(arguments)
    except ImportError as reason:
        findings.append(not_importable(reason))
    return print_findings(findings, arguments.json)


def _examine(arguments: argparse.Namespace) -> list[Finding]:
    from resnet_jax.config import load_config
    from resnet_jax.preflight.doctor import examine
    from resnet_jax.storage.run_files import read_run
    from resnet_jax.training.experiment import options_of

    if arguments.config is None:
        if arguments.deep:
            raise UserError("--deep looks at the images of a config: give --config as well")
        return examine(None, None)
    options = options_of(load_config(arguments.config, arguments.overrides))
    return examine(
        options, read_run(run_folder(arguments.workdir, arguments.config), may_be_new=True), deep=arguments.deep
    )


def print_findings(findings: Sequence[Finding], as_json: bool) -> int:
    """Returns the exit code that they ask for; they are printed, a line each or as one JSON object."""
    num_errors, num_warnings = (sum(one.status == status for one in findings) for status in (ERROR, WARNING))
    if as_json:
        result = {"errors": num_errors, "warnings": num_warnings, "checks": [asdict(one) for one in findings]}
        print_result(result, as_json=True)
    else:
        width = max(len(one.subject) for one in findings)
        for one in findings:
            remedy = "" if one.status == OK else f": {one.remedy}"
            print(f"{one.status:<7}  {one.subject:<{width}}  {one.found}{remedy}")
    return EXIT_USAGE if num_errors else EXIT_DONE
