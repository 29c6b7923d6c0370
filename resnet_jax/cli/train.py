"""The train command: trains, or estimates what a run would take."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from resnet_jax.cli.options import AddCommand, add_process_options, run_folder
from resnet_jax.cli.printing import print_result, print_table
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_bytes, format_duration, format_number
from resnet_jax.storage import open_workdir, read_run

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Options
    from resnet_jax.training.loop import RunResult

RESULT_FIELDS = (
    "step", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_ema_loss", "val_ema_accuracy",
    "val_map", "val_ema_map", "test_loss", "test_accuracy", "test_ema_loss", "test_ema_accuracy", "test_map",
    "test_ema_map", "test_count",
)  # fmt: skip
SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    train = add("train", run_train, "train a network, or continue a run", "python -m resnet_jax train --config digits")
    train.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    train.add_argument("--workdir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, e.g. --config.learning_rate=0.05")
    train.add_argument(
        "--dry_run", action="store_true", help="time ten steps, tell what a run takes; writes at most compiled programs"
    )
    train.add_argument("--json", action="store_true", help="with --dry_run: print one JSON object")
    add_process_options(train)


def run_train(arguments: argparse.Namespace) -> int:
    """Trains a network, or continues a run; or prints an estimate of its cost."""
    from resnet_jax.config import load_config
    from resnet_jax.training.experiment import options_of

    if arguments.json and not arguments.dry_run:
        raise UserError("--json belongs to --dry_run; a run writes its numbers to metrics.jsonl")

    options = options_of(load_config(arguments.config, arguments.overrides))
    name = Path(arguments.config).stem
    workdir = run_folder(arguments.workdir, arguments.config)
    if arguments.dry_run:
        return _print_dry_run(options, workdir, arguments.json)

    from resnet_jax.training.run import train
    from resnet_jax.training.validation_score import best_validation, score_field

    with open_workdir(workdir) as place:
        result = train(options, place, name)
    if result.interrupted_by:
        return _say_interruption(result, place.address)
    final: dict[str, Any] = {}
    for record in result.records:
        final.update(record)
    rows = [(key.replace("_", " "), format_number(key, final[key])) for key in RESULT_FIELDS if key in final]
    if result.step < result.num_steps:
        patience = options.periods.early_stopping_patience
        rows.insert(1, ("stopped early", f"of {result.num_steps} steps: no better validation in the last {patience}"))
    best = best_validation(result.records)
    if best is not None:
        judged_by = score_field(best, "val_")
        name = judged_by.replace("_", " ")
        rows.append((f"best {name}", f"{format_number(judged_by, best[judged_by])} at epoch {best['epoch']:g}"))
    rows += [("parameters, sha256", result.digest), ("curves", f"{place.address}/curves.png")]
    print_table(rows)
    return EXIT_DONE


def _say_interruption(result: "RunResult", workdir: str) -> int:
    if jax.process_index() == 0:
        print(
            f"interrupted by {result.interrupted_by}: saved step {result.step} of {result.num_steps} in {workdir}; "
            "the same command continues",
            file=sys.stderr,
        )
    return EXIT_INTERRUPTED


def _print_dry_run(options: "Options", workdir: str, as_json: bool) -> int:
    """Prints what a run of `options` in `workdir` would take, as a table or one JSON object."""
    from resnet_jax.preflight.dry_run import dry_run

    result = dry_run(options, read_run(workdir, may_be_new=True))
    if as_json:
        return print_result(result, as_json=True)
    print_table([*_network(result), *_memory(result), *_length(result), *_time(result)])
    return EXIT_DONE


def _network(result: dict[str, Any]) -> list[tuple[str, str]]:
    frozen = "" if result["trainable"] == result["parameters"] else f", {result['trainable']:,} of them trained"
    return [
        ("model", f"{result['model']}, images {' x '.join(map(str, result['image_shape']))}"),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}{frozen}"),
        ("MACs", f"{result['macs']:,} an image, forward"),
    ]


def _memory(result: dict[str, Any]) -> list[tuple[str, str]]:
    memory, program = result["memory"], result["memory"]["program"]
    kinds = ("parameters", "statistics", "average", "optimizer", "gradients", "activations", "images")
    estimated = sum(memory[kind] for kind in kinds)
    parts = ", ".join(f"{kind} {format_bytes(memory[kind])}" for kind in kinds if memory[kind])
    rows = [("memory, estimated", f"{format_bytes(estimated)} a device: {parts}")]
    if program is not None:
        parts = ", ".join(
            f"{name} {format_bytes(program[kind])}"
            for name, kind in (("arguments", "argument"), ("outputs", "output"), ("temporaries", "temp"))
        )
        shared = f", {format_bytes(program['alias'])} of which are shared" if program["alias"] else ""
        rows.append(("memory, compiled", f"{format_bytes(program['total'])} a device: {parts}{shared}"))
    return [*rows, ("checkpoint", format_bytes(memory["checkpoint"]))]


def _length(result: dict[str, Any]) -> list[tuple[str, str]]:
    counts = ", ".join(f"{result['images'][split]:,} {name}" for split, name in SPLITS.items())
    epochs = result["num_steps"] / result["steps_per_epoch"]
    done, due, every = result["continues_after"], result["due"], result["every"]
    rows = [
        ("images", f"{counts}; {result['num_classes']} classes"),
        ("steps", f"{result['num_steps']:,}: {epochs:.4g} epochs of {result['steps_per_epoch']:,}"),
    ]
    if result["has_stopped_early"]:
        rows.append(("continues", f"nothing is left: this run has stopped early, after step {done:,}"))
    elif done == result["num_steps"]:
        rows.append(("continues", "nothing is left: this run is finished"))
    elif done:
        rows.append(("continues", f"after step {done:,}"))
    for name, kind in (("validations", "validation"), ("tests", "test"), ("checkpoints", "checkpoint")):
        if every[kind] is None:
            rows.append((name, f"none: there are no {kind} images"))
        else:
            rhythm = f"every {every[kind]:,} steps, and at the end" if every[kind] else "at the end"
            rows.append((name, f"{due[kind]:,}, {rhythm}"))
    return rows


def _time(result: dict[str, Any]) -> list[tuple[str, str]]:
    seconds, num_timed = result["seconds"], result["num_timed"]
    evaluations = ", ".join(f"{format_duration(taken)} {split}" for split, taken in seconds["evaluation"].items())
    rate = result["batch_size"] / seconds["step"]
    rows = [
        ("compiling", format_duration(seconds["compile"])),
        ("a step", f"{1000 * seconds['step']:.1f} ms, {rate:.1f} images/s (of {num_timed} steps)"),
    ]
    if evaluations:
        rows.append(("an evaluation", evaluations))
    what = "compiling, steps and evaluations, without saving"
    if result["on_features"]:
        what = "compiling, and the frozen network's features; the steps on them, of the head alone, take little"
    return [*rows, ("in all", f"{format_duration(seconds['compile'] + seconds['rest'])}: {what}")]
