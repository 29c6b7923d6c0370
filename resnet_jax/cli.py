"""The commands: parse, call, print, exit codes.

Results go to standard output (with --json one object), progress and warnings to standard error. Exit codes: 0 done;
2 bad usage, config, data or file, told in one line; 75 interrupted and saved, run again to continue; 1 anything else.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from resnet_jax.errors import UserError, suggestion
from resnet_jax.process import prepare_process

EXIT_USAGE = 2
EXIT_INTERRUPTED = 75


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ('{self.prog} --help' shows the usage)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of `argv` (sys.argv's if None) and return its exit code."""
    prepare_process()
    try:
        arguments, rest = _parser().parse_known_args(argv)
        if rest and arguments.command != "train":
            raise UserError(f"{rest[0]!r} is no option of {arguments.command}")
        if arguments.command == "train":
            _refuse_unknown_options(rest)
            arguments.overrides = rest
        return arguments.run(arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # the reader of our output has gone, as in `… list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m resnet_jax", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example: {example}", allow_abbrev=False
        )
        command.set_defaults(run=run)
        return command

    train = add("train", _train, "train a network, or continue a run", "python -m resnet_jax train --config digits")
    train.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    train.add_argument("--workdir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument(
        "--config.FIELD", dest="ignored", metavar="VALUE", help="set a field, e.g. --config.learning_rate=0.05"
    )

    add("list", _list, "list the models", "python -m resnet_jax list")

    summary = add("summary", _summary, "shapes, parameters and MACs of a model",
                  "python -m resnet_jax summary --model resnet50")  # fmt: skip
    summary.add_argument("--model", required=True, metavar="NAME", help="a name of the list command")
    summary.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    summary.add_argument("--json", action="store_true", help="print one JSON object")

    evaluate = add("evaluate", _evaluate, "loss and accuracy of a trained run",
                   "python -m resnet_jax evaluate --workdir runs/digits")  # fmt: skip
    evaluate.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    evaluate.add_argument("--data", metavar="tfds:NAME[:SPLIT]", help="other images than the run's own test set")
    evaluate.add_argument(
        "--checkpoint", choices=("newest", "best"), default="newest", help="which weights (default: newest)"
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    benchmark = add("benchmark", _benchmark, "speed and memory of a network, also against torch",
                    "python -m resnet_jax benchmark --model resnet20 --against torch")  # fmt: skip
    benchmark.add_argument("--model", default="resnet20", metavar="NAME", help="a model, or resnext_block")
    benchmark.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: 128")
    benchmark.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    benchmark.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16, float64")
    what = benchmark.add_mutually_exclusive_group()
    what.add_argument("--inference", action="store_true", help="inference, batch norm folded, instead of training")
    what.add_argument("--loop", action="store_true", help="the training loop against its bare step")
    benchmark.add_argument("--against", metavar="torch", help="measure torch in turn")
    benchmark.add_argument("--pairs", type=int, default=7, metavar="N", help="measurements of each (default: 7)")
    benchmark.add_argument("--steps", type=int, metavar="N", help="steps in each (default: 3, with --loop 12)")
    benchmark.add_argument("--profile", metavar="DIR", help="write a trace there and list the costliest operations")
    benchmark.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _refuse_unknown_options(words: Sequence[str]) -> None:
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and not option.startswith("--config.") and not option[1:2].isdigit():
            raise UserError(f"{option!r} is no option of train{suggestion(option, ('--config', '--workdir'))}")


def _train(arguments: argparse.Namespace) -> int:
    from resnet_jax.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    name = Path(arguments.config).stem
    workdir = Path(arguments.workdir or f"runs/{name}").expanduser()

    from resnet_jax.training.interruption import InterruptedRunError
    from resnet_jax.training.loop import train
    from resnet_jax.training.recorder import NonFiniteError

    try:
        result = train(config, workdir, name)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except InterruptedRunError as error:
        print(f"interrupted by {error} before the first step; the same command starts again", file=sys.stderr)
        return EXIT_INTERRUPTED
    if result.interrupted_by:
        print(
            f"interrupted by {result.interrupted_by}: saved step {result.step} of {result.num_steps} in {workdir}; "
            "the same command continues",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    final: dict[str, Any] = {}
    for record in result.records:
        final.update(record)
    rows = [(key.replace("_", " "), _number(key, final[key])) for key in RESULT_FIELDS if key in final]
    best = max((record for record in result.records if "val_accuracy" in record),
               key=lambda record: record["val_accuracy"], default=None)  # fmt: skip
    if best is not None:
        rows.append(
            ("best val accuracy", f"{_number('val_accuracy', best['val_accuracy'])} at epoch {best['epoch']:g}")
        )
    rows += [("parameters, sha256", result.digest), ("curves", str(workdir / "curves.png"))]
    _print_table(rows)
    return 0


RESULT_FIELDS = (
    "step", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy",
    "test_count",
)  # fmt: skip


def _list(arguments: argparse.Namespace) -> int:
    del arguments
    from resnet_jax.models import list_models

    print("\n".join(list_models()))
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    from resnet_jax.summary import summarize

    result = summarize(arguments.model, arguments.image_size)
    if arguments.json:
        print(json.dumps(result))
        return 0
    _print_table([
        ("model", result["model"]),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}"),
        ("statistics", f"{result['statistics']:,}"),
        ("MACs", f"{result['macs']:,} ({result['macs'] / 1e9:.3f} G)"),
    ])  # fmt: skip
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from resnet_jax.evaluate import evaluate_run

    return _print_result(
        evaluate_run(Path(arguments.workdir).expanduser(), arguments.data, arguments.checkpoint), arguments.json
    )


def _benchmark(arguments: argparse.Namespace) -> int:
    if arguments.loop and (arguments.against or arguments.profile):
        raise UserError("--loop measures the loop alone: leave out --against and --profile")
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from resnet_jax.benchmark import benchmark, measure_loop

    shapes = (arguments.model, arguments.batch_size, arguments.image_size)
    if arguments.loop:
        return _print_result(measure_loop(*shapes, arguments.steps or 12, arguments.pairs), arguments.json)
    result = benchmark(
        *shapes,
        arguments.dtype,
        inference=arguments.inference,
        against=arguments.against,
        num_steps=arguments.steps or 3,
        num_pairs=arguments.pairs,
        profile_folder=Path(arguments.profile).expanduser() if arguments.profile else None,
    )
    if arguments.json:
        print(json.dumps(result))
        return 0
    operations = result.pop("operations", [])
    torch = result.pop("torch", {})
    result.update({f"torch {key}": value for key, value in torch.items()})
    if torch:
        ratios, result["ratio"] = result.pop("ratios"), result.pop("ratio")
        result["ratios"] = " ".join(f"{ratio:.2f}" for ratio in ratios)
    _print_result(result, as_json=False)
    if operations:
        print("\n      ms   share  operation                       place")
        for row in operations:
            print(f"{row['milliseconds']:8.2f}  {row['share']:6.1%}  {row['operation']:<30}  {row['place']}")
    return 0


def _print_result(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(result))
    else:
        _print_table([(key.replace("_", " "), _number(key, value)) for key, value in result.items()])
    return 0


def _number(key: str, value: Any) -> str:
    if key.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if key.endswith("loss"):
        return f"{value:.4f}"
    if key.endswith("memory"):
        return f"{value / 2**20:.0f} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_table(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")
