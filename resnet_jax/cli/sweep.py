"""The sweep command: trains every combination of fields' values, a run each, and compares them."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.comparison_table import PICTURE, print_comparison
from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from resnet_jax.cli.options import AddCommand
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.errors import UserError, abridge
from resnet_jax.filesystem import expand
from resnet_jax.formatting import format_count

if TYPE_CHECKING:
    from resnet_jax.sweep.children import Outcomes
    from resnet_jax.sweep.combinations import Setting
    from resnet_jax.training.experiment import Options


@dataclass(frozen=True)
class SweptRun:
    """A run of a sweep: its name, its folder, the command that trains it, and the options that this gives it."""

    name: str
    workdir: Path
    command: tuple[str, ...]
    options: "Options"


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    sweep = add(
        "sweep",
        run_sweep,
        "train every combination of fields' values, and compare them",
        "python -m resnet_jax sweep --config digits --seeds 0,1,2 --config.learning_rate=0.05,0.1",
    )
    sweep.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    sweep.add_argument("--workdir", metavar="DIR", help="of the runs, a folder each (default: runs/NAME_sweep)")
    sweep.add_argument(ANY_FIELD, dest="ignored", metavar="V,V,...", help="a field's values, tuples in brackets")
    sweep.add_argument("--seeds", metavar="N,N,...", help="short for --config.seed")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each on its GPU or cores")
    sweep.add_argument("--print", action="store_true", help="print the commands, one a line, and run none")
    sweep.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run_sweep(arguments: argparse.Namespace) -> int:
    """Trains the runs that are not finished and prints all of them side by side; or prints the runs' commands."""
    from resnet_jax.distributed.detection import find_processes
    from resnet_jax.sweep.shares import share_machine

    if arguments.print and (arguments.json or arguments.jobs != 1):
        raise UserError("--print excludes --json and --jobs: it prints the commands and runs none")
    folder = expand(f"runs/{Path(arguments.config).stem}_sweep" if arguments.workdir is None else arguments.workdir)
    fields = _read_fields(arguments)
    runs = _plan_runs(arguments.config, fields, folder)
    if arguments.print:
        for run in runs:
            print(shlex.join(run.command))
        return EXIT_DONE
    if find_processes(None, None, None, os.environ) is not None:
        raise UserError("this is one of many processes, and a sweep is one: start it once, or run what --print prints")
    share_machine(arguments.jobs)  # its errors, before anything runs
    outcomes = _train(runs, folder, arguments.jobs)
    _say_failures(outcomes)
    if outcomes.stopped_by and (outcomes.interrupted or outcomes.left):
        print(f"interrupted by {outcomes.stopped_by}; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    swept = [field for field, settings in fields.items() if len(settings) > 1]
    _print_runs(runs, swept, folder / PICTURE, arguments.json)
    return _exit_code(outcomes)


def _plan_runs(config: str, fields: "Mapping[str, Sequence[Setting]]", folder: Path) -> list[SweptRun]:
    """Returns the runs, each with a config that is checked as far as that needs no images.

    Raises:
      UserError: for the first that is wrong, or whose folder holds another run; nothing has been written.
    """
    from resnet_jax.sweep.combinations import combine, run_names

    combinations = combine(fields)
    runs = []
    for settings, name in zip(combinations, run_names(combinations), strict=True):
        words = [f"--config.{setting.field}={setting.text}" for setting in settings]
        try:
            options = _checked_options(config, words, folder / name)
        except UserError as error:
            raise UserError(f"{name}: {error}" if len(combinations) > 1 else str(error)) from None
        runs.append(SweptRun(name, folder / name, train_command(config, folder / name, words), options))
    return runs


def train_command(config: str, workdir: Path, words: Sequence[str]) -> tuple[str, ...]:
    """Returns the command that trains one run, in this Python.

    Args:
      words: `--config.field=value`.
    """
    train = (sys.executable, "-m", "resnet_jax", "train")
    return (*train, "--config", config, "--workdir", str(workdir), *words)


def _checked_options(config: str, words: Sequence[str], workdir: Path) -> "Options":
    from resnet_jax.config import load_config
    from resnet_jax.sweep.children import is_finished
    from resnet_jax.training.experiment import check_without_images, options_of
    from resnet_jax.training.resume import check_run, check_same_run

    options = options_of(load_config(config, words))
    check_without_images(options)
    check_same_run(workdir, options)
    if not is_finished(workdir, json.loads(options.written)):  # it needs its checkpoints to go on
        check_run(workdir, options)
    return options


def _read_fields(arguments: argparse.Namespace) -> "dict[str, list[Setting]]":
    """Returns the values of each field that is given, in the order of the command line, and of the seed, last.

    Raises:
      UserError: for a field that is given twice or beside one that excludes it, and as `_read_values`.
    """
    from resnet_jax.config import ALTERNATIVES, load_config, split_overrides
    from resnet_jax.sweep.combinations import SEED, Setting

    config = load_config(arguments.config)
    fields: dict[str, list[Setting]] = {}
    for field, text in split_overrides(arguments.overrides):
        if field in fields:
            raise UserError(f"config.{field} is given twice: give its values at once, --config.{field}=VALUE,VALUE")
        fields[field] = _read_values(config, field, text)
    for one, other in ALTERNATIVES:
        if one in fields and other in fields and len(fields[one]) + len(fields[other]) > 2:
            raise UserError(f"config.{one} and config.{other} exclude each other in a sweep: give one of them")
    if arguments.seeds is not None:
        if SEED in fields:
            raise UserError("--seeds and --config.seed are the same: give one of them")
        if not all(seed.strip().isdecimal() for seed in arguments.seeds.split(",")):
            raise UserError(f"--seeds {arguments.seeds} must be whole numbers with commas between, for example 0,1,2")
        fields[SEED] = _read_values(config, SEED, arguments.seeds)
    seeds = fields.pop(SEED, None) or [Setting(SEED, str(config.seed), config.seed)]
    return {**fields, SEED: seeds}


def _read_values(config: Any, field: str, text: str) -> "list[Setting]":
    """Returns the settings of a field.

    Raises:
      UserError: for values that are not the field's, for one that is given twice, and for several of a field that holds
        several numbers without brackets around each: train takes two of image_size for a height and a width.
    """
    from resnet_jax.config import SIZES, WORD_OR_NUMBERS, flatten, read_value
    from resnet_jax.sweep.combinations import Setting, split_values, unquote

    texts = split_values(text)
    current = flatten(config).get(field)
    if isinstance(current, str) and field not in WORD_OR_NUMBERS:
        texts = [unquote(one) for one in texts]
    elif isinstance(current, tuple) or field in WORD_OR_NUMBERS or (field in SIZES and len(texts) == 2):
        bare = [one for one in texts if one[:1] not in "([" and not one[:1].isalpha()]
        if len(texts) > 1 and bare:
            raise UserError(
                f"config.{field}={text!r} needs brackets around each value, which holds several numbers itself: "
                f"--config.{field}=({text}) for one, or (…),(…)"
            )
    settings: list[Setting] = []
    for one in texts:
        setting = Setting(field, one, read_value(config, field, one))
        if setting.value in [other.value for other in settings]:
            raise UserError(f"config.{field}={text!r} has {one} twice")
        settings.append(setting)
    return settings


def _train(runs: Sequence[SweptRun], folder: Path, num_jobs: int) -> "Outcomes":
    """Trains the runs that are not finished, each in a process, `num_jobs` at a time or all that are left."""
    from resnet_jax.sweep.children import Child, is_finished, run_children
    from resnet_jax.sweep.shares import share_machine

    children = [
        Child(f"run {number} of {len(runs)}", run.name, run.command, run.workdir, folder / f"{run.name}.log")
        for number, run in enumerate(runs, start=1)
        if not is_finished(run.workdir, json.loads(run.options.written))
    ]
    if num_finished := len(runs) - len(children):
        are = "is" if num_finished == 1 else "are"
        print(f"{num_finished} of {format_count(len(runs), 'run')} {are} finished", file=sys.stderr)
    return run_children(children, share_machine(num_jobs, len(children)))


def _print_runs(runs: Sequence[SweptRun], swept: Sequence[str], picture: Path, as_json: bool) -> None:
    """Prints the results of the runs that have begun, apart by the fields that are swept, but the seed."""
    from resnet_jax.comparison.groups import group_runs
    from resnet_jax.comparison.runs import read_runs
    from resnet_jax.sweep.combinations import SEED
    from resnet_jax.training.workdir import CONFIG_FILE

    workdirs = [run.workdir for run in runs if (run.workdir / CONFIG_FILE).exists()]
    if workdirs:
        groups = group_runs(read_runs(workdirs), parted_by={*swept} - {SEED})
        print_comparison(groups, picture, as_json=as_json)
    elif as_json:
        print(json.dumps({"groups": [], "picture": None}))


def _say_failures(outcomes: "Outcomes") -> None:
    """Says which runs failed, and why."""
    from resnet_jax.sweep.children import last_line

    for child, how in outcomes.failed:
        line = f"{how}: {said}" if (said := last_line(child.log)) else how
        print(f"error: {child.name} failed, {line} (log: {child.log})", file=sys.stderr)


def _exit_code(outcomes: "Outcomes") -> int:
    """Returns the exit code of a sweep that no signal has ended; says which runs are to go on."""
    if outcomes.interrupted:
        names = abridge([child.name for child in outcomes.interrupted])
        print(f"interrupted: {names}; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if outcomes.failed else EXIT_DONE
