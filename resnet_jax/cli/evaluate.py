"""The evaluate command: evaluates, and prints the result."""

import argparse
import sys
from typing import Any

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import (
    AddCommand,
    add_process_options,
    add_trained_options,
    check_model_options,
    given_adjustment,
    given_model_args,
)
from resnet_jax.cli.printing import print_result
from resnet_jax.errors import UserError, truncate
from resnet_jax.filesystem import expand
from resnet_jax.formatting import format_percent
from resnet_jax.storage.run_files import read_run

MAX_LISTED = 20  # classes, up to which each has its line


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    evaluate = add("evaluate", run_evaluate, "how well a trained run, or imported weights, judge labelled images",
                   "python -m resnet_jax evaluate --workdir runs/digits --report report")  # fmt: skip
    evaluate.usage = "%(prog)s --workdir DIR [options]\n   or: %(prog)s --weights PATH --data DIR [options]"
    add_trained_options(evaluate)
    evaluate.add_argument("--data", metavar="DIR|tfds:NAME", help="images, or DIR:SPLIT (default: the run's test set)")
    evaluate.add_argument("--data_dir", metavar="DIR", help="of TFDS (default: the run's, or ~/tensorflow_datasets)")
    evaluate.add_argument("--batch_size", type=int, metavar="N", help="with --weights (default: 128)")
    evaluate.add_argument("--ten_crop", action="store_true", help="average the corners, the centre and their mirrors")
    evaluate.add_argument("--flip", action="store_true", help="average each image with its mirror")
    evaluate.add_argument("--threshold", type=float, metavar="P", help="of several labels an image (default: 0.5)")
    evaluate.add_argument("--report", metavar="DIR", help="write pictures and tables of what is confused there")
    add_process_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Prints how well a trained run or imported weights classify labelled images."""
    check_model_options(arguments, "batch_size")
    from resnet_jax.inference.evaluate import evaluate_run, evaluate_weights
    from resnet_jax.weights.pretrained import find_weights

    report = None if arguments.report is None else expand(arguments.report)
    if arguments.workdir is not None:
        result = evaluate_run(
            read_run(arguments.workdir),
            arguments.data,
            arguments.checkpoint or "newest",
            arguments.data_dir,
            ten_crop=arguments.ten_crop,
            flip=arguments.flip,
            average=not arguments.no_average,
            threshold=arguments.threshold,
            report=report,
        )
        return _print_evaluation({**result, "workdir": arguments.workdir}, arguments.json)
    if arguments.data is None:
        raise UserError("--weights needs --data: a folder of class folders, or tfds:NAME[:SPLIT]")
    result = evaluate_weights(
        find_weights(arguments.weights, arguments.model),
        arguments.data,
        model_name=arguments.model,
        model_args=given_model_args(arguments),
        preprocess=arguments.preprocess,
        adjustment=given_adjustment(arguments),
        batch_size=arguments.batch_size,
        data_dir=arguments.data_dir,
        ten_crop=arguments.ten_crop,
        flip=arguments.flip,
        threshold=arguments.threshold,
        report=report,
    )
    return _print_evaluation(result, arguments.json)


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
    columns = [key for key in classes[0] if key not in ("class", "count")]  # shares of 1
    heads = [key.replace("_", " ") for key in columns]
    print(f"\n{'class':<{width}}  {'count':>7}{''.join(f'  {head:>9}' for head in heads)}")
    for row in classes:
        cells = (f"  {format_percent(row[key]):>{max(9, len(head))}}" for key, head in zip(columns, heads, strict=True))
        print(f"{truncate(row['class']):<{width}}  {row['count']:>7}{''.join(cells)}")
    return EXIT_DONE
