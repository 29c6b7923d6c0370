"""What each command does with its parsed arguments: call one function, print what it returns, give the exit code."""

import argparse
import ast
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from resnet_jax.cli.options import run_folder
from resnet_jax.cli.printing import print_result, print_table
from resnet_jax.errors import UserError, truncate
from resnet_jax.filesystem import expand
from resnet_jax.formatting import format_number

if TYPE_CHECKING:
    from resnet_jax.training.loop import RunResult
    from resnet_jax.weights.state_dict import RunCheckpoint


def run_train(arguments: argparse.Namespace) -> int:
    """Train a network, or continue a run; or tell what that would take."""
    from resnet_jax.config import load_config

    if arguments.json and not arguments.dry_run:
        raise UserError("--json belongs to --dry_run; a run writes its numbers to metrics.jsonl")

    config = load_config(arguments.config, arguments.overrides)
    name = Path(arguments.config).stem
    workdir = run_folder(arguments.workdir, arguments.config)
    if arguments.dry_run:
        from resnet_jax.cli.dry_run import run_dry

        return run_dry(config, workdir, arguments.json)

    from resnet_jax.training.run import train

    result = train(config, workdir, name)
    if result.interrupted_by:
        return _tell_interruption(result, workdir)
    final: dict[str, Any] = {}
    for record in result.records:
        final.update(record)
    rows = [(key.replace("_", " "), format_number(key, final[key])) for key in RESULT_FIELDS if key in final]
    judged_by = "val_ema_accuracy" if "val_ema_accuracy" in final else "val_accuracy"
    best = max((record for record in result.records if judged_by in record),
               key=lambda record: record[judged_by], default=None)  # fmt: skip
    if best is not None:
        name = judged_by.replace("_", " ")
        rows.append((f"best {name}", f"{format_number(judged_by, best[judged_by])} at epoch {best['epoch']:g}"))
    rows += [("parameters, sha256", result.digest), ("curves", str(workdir / "curves.png"))]
    print_table(rows)
    return EXIT_DONE


def run_degradation(arguments: argparse.Namespace) -> int:
    """Train plain and residual networks and draw their errors in one picture."""
    from resnet_jax.cli.degradation import PICTURE_FILE, degradation

    workdir = expand(arguments.workdir)
    results = degradation(arguments.config, arguments.overrides, arguments.depths, workdir)
    name, result = list(results.items())[-1]
    if result.interrupted_by:
        return _tell_interruption(result, workdir / name)
    rows = []
    for name, result in results.items():
        final = {key: value for record in result.records for key, value in record.items()}
        errors = [
            f"{split} error {format_number('accuracy', 1 - final[f'{split}_accuracy'])}" for split in ("train", "test")
        ]
        rows.append((name, "  ".join(errors)))
    print_table([*rows, ("picture", str(workdir / PICTURE_FILE))])
    return EXIT_DONE


def run_preview(arguments: argparse.Namespace) -> int:
    """A picture of a batch as the network sees it."""
    from resnet_jax.inference.preview import preview

    result = preview(
        arguments.config,
        arguments.overrides,
        expand(arguments.to),
        split=arguments.split,
        step=arguments.step,
        num_images=arguments.num_images,
    )
    return print_result(result, as_json=False)


def _tell_interruption(result: "RunResult", workdir: Path) -> int:
    if jax.process_index() == 0:
        print(
            f"interrupted by {result.interrupted_by}: saved step {result.step} of {result.num_steps} in {workdir}; "
            "the same command continues",
            file=sys.stderr,
        )
    return EXIT_INTERRUPTED


RESULT_FIELDS = (
    "step", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_ema_loss", "val_ema_accuracy",
    "test_loss", "test_accuracy", "test_ema_loss", "test_ema_accuracy", "test_count",
)  # fmt: skip


def run_list(arguments: argparse.Namespace) -> int:
    """List the models."""
    del arguments
    from resnet_jax.models import list_models

    print("\n".join(list_models()))
    return EXIT_DONE


def run_summary(arguments: argparse.Namespace) -> int:
    """Shapes, parameters and MACs of a model."""
    from resnet_jax.models.summary import summarize

    result = summarize(arguments.model, arguments.image_size)
    if arguments.json:
        print(json.dumps(result))
        return EXIT_DONE
    print_table([
        ("model", result["model"]),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}"),
        ("statistics", f"{result['statistics']:,}"),
        ("MACs", f"{result['macs']:,} ({result['macs'] / 1e9:.3f} G)"),
    ])  # fmt: skip
    return EXIT_DONE


def run_convert(arguments: argparse.Namespace) -> int:
    """Weights from one format into another."""
    from resnet_jax.data.transforms.preprocess import Preprocess
    from resnet_jax.weights.convert import convert

    if (arguments.source is None) == (arguments.pretrained is None):
        raise UserError("give either --from, a file or checkpoint directory, or --pretrained, a published tag")
    if arguments.pretrained is not None and (arguments.checkpoint is not None or arguments.no_average):
        raise UserError("--checkpoint and --no_average belong to a run's folder: leave them out with --pretrained")
    if (arguments.mean is None) != (arguments.std is None):
        raise UserError("--mean and --std belong together: give both")
    if arguments.preprocess is not None and arguments.mean is not None:
        raise UserError("--preprocess tells the mean and std: leave out --mean and --std")
    source = _source(arguments)
    result = convert(
        source,
        expand(arguments.to),
        model_name=arguments.model,
        model_args=given_model_args(arguments),
        head=arguments.head,
        layout=arguments.layout,
        preprocess=arguments.preprocess
        or (Preprocess(None, None, "bilinear", arguments.mean, arguments.std) if arguments.mean else None),
        which=arguments.checkpoint,
        average=not arguments.no_average,
    )
    if arguments.json:
        print(json.dumps(result))
        return EXIT_DONE
    _print_report(result)
    return EXIT_DONE


def _source(arguments: argparse.Namespace) -> Path:
    from resnet_jax.weights import fetch_pretrained

    if arguments.pretrained is None:
        return expand(arguments.source)
    if arguments.model is None:
        raise UserError("--pretrained needs --model, the name of a published network")
    return fetch_pretrained(arguments.model, arguments.pretrained)


def given_model_args(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model's arguments from --model_args and --num_classes."""
    values: dict[str, Any] = {}
    for word in arguments.model_args or ():
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--model_args {word!r} must be NAME=VALUE, for example stride_in=1x1")
        if name in values:
            raise UserError(f"--model_args gives {name} twice")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    if arguments.num_classes is not None:
        if "num_classes" in values:
            raise UserError("num_classes is given twice, by --num_classes and by --model_args")
        values["num_classes"] = arguments.num_classes
    return values


def _print_report(report: dict[str, Any]) -> None:
    """The report on an import as a table: counts, and by name what is not simply loaded."""
    preprocess = report["preprocess"]
    rows = [
        ("from", f"{report['path']} ({report['format']}, names of {report['layout']})"),
        *([("checkpoint", str(_run_checkpoint(report)))] if "checkpoint" in report else []),
        ("to", report["to"]),
        ("model", " ".join([report["model"], *(f"{key}={value}" for key, value in report["model_args"].items())])),
        ("loaded", f"{len(report['loaded'])} tensors, {sum(map(math.prod, report['loaded'].values())):,} numbers"),
    ]
    for key in ("reshaped", "zeroed", "reset", "missing", "unexpected"):
        shapes = [f"{truncate(name)} {_shape(shape)}" for name, shape in report[key].items()]
        rows.append((key, f"{len(shapes)}{': ' if shapes else ''}{', '.join(shapes)}"))
    dropped = [truncate(name) for name in report["dropped"]] + [f"{report['counters']} counters"] * bool(
        report["counters"]
    )
    rows.append(("dropped", ", ".join(dropped) or "0"))
    rows.append(
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in preprocess.items()) if preprocess else NO_PREPROCESS)
    )
    print_table(rows)


def _run_checkpoint(report: dict[str, Any]) -> "RunCheckpoint":
    from resnet_jax.weights.state_dict import RunCheckpoint

    return RunCheckpoint(report["checkpoint"], report["step"], report["average"])


NO_PREPROCESS = "none (--preprocess, or --mean and --std, attach it to a folder or .safetensors file)"


def _shape(shape: Any) -> str:
    """(2, 3) as 2x3; a pair of shapes as 2x3x1x1 -> 2x3."""
    if shape and isinstance(shape[0], tuple):
        return " -> ".join(map(_shape, shape))
    return "x".join(map(str, shape)) or "1"
