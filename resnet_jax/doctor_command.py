"""The doctor command, and train's dry run: call what looks, print what it returns."""

import argparse
from dataclasses import asdict
from pathlib import Path

from resnet_jax.errors import UserError
from resnet_jax.paths import expand
from resnet_jax.results import EXIT_DONE, print_result

EXIT_ERRORS = 2


def run_doctor(arguments: argparse.Namespace) -> int:
    """What a run needs here, a line each."""
    from resnet_jax.config import load_config
    from resnet_jax.doctor import ERROR, OK, WARNING, examine

    config = workdir = None
    if arguments.config is not None:
        config = load_config(arguments.config, arguments.overrides)
        workdir = expand(arguments.workdir or f"runs/{Path(arguments.config).stem}")
    elif arguments.overrides or arguments.workdir:
        raise UserError("--workdir and --config.field=value belong to a config: give --config as well")
    findings = examine(config, workdir)
    num_errors, num_warnings = (sum(one.status == status for one in findings) for status in (ERROR, WARNING))
    if arguments.json:
        result = {"errors": num_errors, "warnings": num_warnings, "checks": [asdict(one) for one in findings]}
        print_result(result, as_json=True)
    else:
        width = max(len(one.subject) for one in findings)
        for one in findings:
            remedy = "" if one.status == OK else f": {one.remedy}"
            print(f"{one.status:<7}  {one.subject:<{width}}  {one.found}{remedy}")
    return EXIT_ERRORS if num_errors else EXIT_DONE
