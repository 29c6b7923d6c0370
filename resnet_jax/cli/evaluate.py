"""The evaluate command: calls what evaluates, prints what it returns."""

import argparse
import sys
from typing import Any

import jax

from resnet_jax.cli.commands import given_model_args
from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.printing import print_result
from resnet_jax.errors import UserError, truncate
from resnet_jax.filesystem import expand

MAX_LISTED = 20  # classes, up to which each has its line


def run_evaluate(arguments: argparse.Namespace) -> int:
    """How well a trained run or imported weights judge labelled images."""
    check_model_options(arguments, "batch_size")
    from resnet_jax.inference.evaluate import evaluate_run, evaluate_weights
    from resnet_jax.weights.pretrained import find_weights

    report = None if arguments.report is None else expand(arguments.report)
    if arguments.workdir is not None:
        result = evaluate_run(
            expand(arguments.workdir),
            arguments.data,
            arguments.checkpoint or "newest",
            arguments.data_dir,
            ten_crop=arguments.ten_crop,
            average=not arguments.no_average,
            report=report,
        )
        return _print_evaluation(result, arguments.json)
    if arguments.data is None:
        raise UserError("--weights needs --data: a folder of class folders, or tfds:NAME[:SPLIT]")
    result = evaluate_weights(
        find_weights(arguments.weights, arguments.model),
        arguments.data,
        model_name=arguments.model,
        model_args=given_model_args(arguments),
        preprocess=arguments.preprocess,
        mean=arguments.mean,
        std=arguments.std,
        batch_size=arguments.batch_size,
        data_dir=arguments.data_dir,
        ten_crop=arguments.ten_crop,
        report=report,
    )
    return _print_evaluation(result, arguments.json)


def check_model_options(arguments: argparse.Namespace, *more: str) -> None:
    """Raise UserError (a ValueError) unless the options name either a run or weights, and belong to which they name.

    more: options that belong to weights, besides those of the model.
    """
    if (arguments.workdir is None) == (arguments.weights is None):
        raise UserError("give either --workdir, a run's folder, or --weights, a file or checkpoint directory")
    if arguments.workdir is not None:
        for option in ("model", "model_args", "num_classes", "preprocess", "mean", "std", *more):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option} belongs to --weights; a run tells its own")
        return
    if arguments.no_average:
        raise UserError("--no_average belongs to --workdir")
    if arguments.checkpoint is not None:
        raise UserError("--checkpoint belongs to --workdir: give the checkpoint's own directory to --weights")


def _print_evaluation(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return print_result(result, as_json=True)
    classes = result.pop("classes")
    print_result(result, as_json=False)
    if len(classes) > MAX_LISTED:
        if "report" not in result and jax.process_index() == 0:
            print(f"each of the {len(classes)} classes: --json, or --report DIR", file=sys.stderr)
        return EXIT_DONE
    width = max(len("class"), *(len(truncate(row["class"])) for row in classes))
    print(f"\n{'class':<{width}}  {'count':>7}  {'accuracy':>9}  {'precision':>9}")
    for row in classes:
        cells = (_percent(row["accuracy"]), _percent(row["precision"]))
        print(f"{truncate(row['class']):<{width}}  {row['count']:>7}  {cells[0]:>9}  {cells[1]:>9}")
    return EXIT_DONE


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
