"""What each command does with its parsed arguments: call one function, print what it returns, give the exit code."""

import argparse
import ast
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.errors import UserError, shown
from resnet_jax.paths import expand

if TYPE_CHECKING:
    from resnet_jax.training.loop import RunResult

EXIT_DONE = 0
EXIT_INTERRUPTED = 75


def run_train(arguments: argparse.Namespace) -> int:
    """Train a network, or continue a run."""
    from resnet_jax.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    name = Path(arguments.config).stem
    workdir = expand(arguments.workdir or f"runs/{name}")

    from resnet_jax.training.loop import train

    result = train(config, workdir, name)
    if result.interrupted_by:
        return _tell_interruption(result, workdir)
    final: dict[str, Any] = {}
    for record in result.records:
        final.update(record)
    rows = [(key.replace("_", " "), _number(key, final[key])) for key in RESULT_FIELDS if key in final]
    judged_by = "val_ema_accuracy" if "val_ema_accuracy" in final else "val_accuracy"
    best = max((record for record in result.records if judged_by in record),
               key=lambda record: record[judged_by], default=None)  # fmt: skip
    if best is not None:
        name = judged_by.replace("_", " ")
        rows.append((f"best {name}", f"{_number(judged_by, best[judged_by])} at epoch {best['epoch']:g}"))
    rows += [("parameters, sha256", result.digest), ("curves", str(workdir / "curves.png"))]
    _print_table(rows)
    return EXIT_DONE


def run_degradation(arguments: argparse.Namespace) -> int:
    """Train plain and residual networks and draw their errors in one picture."""
    from resnet_jax.degradation import PICTURE_FILE, degradation

    workdir = expand(arguments.workdir)
    results = degradation(arguments.config, arguments.overrides, arguments.depths, workdir)
    name, result = list(results.items())[-1]
    if result.interrupted_by:
        return _tell_interruption(result, workdir / name)
    rows = []
    for name, result in results.items():
        final = {key: value for record in result.records for key, value in record.items()}
        errors = [f"{split} error {_number('accuracy', 1 - final[f'{split}_accuracy'])}" for split in ("train", "test")]
        rows.append((name, "  ".join(errors)))
    _print_table([*rows, ("picture", str(workdir / PICTURE_FILE))])
    return EXIT_DONE


def run_preview(arguments: argparse.Namespace) -> int:
    """A picture of a batch as the network sees it."""
    from resnet_jax.preview import preview

    result = preview(
        arguments.config,
        arguments.overrides,
        expand(arguments.to),
        split=arguments.split,
        step=arguments.step,
        num_images=arguments.num_images,
    )
    return _print_result(result, as_json=False)


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
    from resnet_jax.summary import summarize

    result = summarize(arguments.model, arguments.image_size)
    if arguments.json:
        print(json.dumps(result))
        return EXIT_DONE
    _print_table([
        ("model", result["model"]),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}"),
        ("statistics", f"{result['statistics']:,}"),
        ("MACs", f"{result['macs']:,} ({result['macs'] / 1e9:.3f} G)"),
    ])  # fmt: skip
    return EXIT_DONE


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Loss and accuracy of a trained run or of imported weights."""
    if (arguments.workdir is None) == (arguments.weights is None):
        raise UserError("give either --workdir, a run's folder, or --weights, a file or checkpoint directory")
    from resnet_jax.evaluate import evaluate_run, evaluate_weights

    if arguments.workdir is not None:
        for option in ("model", "model_args", "num_classes", "mean", "std", "batch_size"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option} belongs to --weights; a run tells its own")
        result = evaluate_run(
            expand(arguments.workdir),
            arguments.data,
            arguments.checkpoint or "newest",
            arguments.data_dir,
            ten_crop=arguments.ten_crop,
            average=not arguments.no_average,
        )
        return _print_result(result, arguments.json)
    if arguments.no_average:
        raise UserError("--no_average belongs to --workdir")
    if arguments.checkpoint is not None:
        raise UserError("--checkpoint belongs to --workdir: give the checkpoint's own directory to --weights")
    if arguments.data is None:
        raise UserError("--weights needs --data: a folder of class folders, or tfds:NAME[:SPLIT]")
    result = evaluate_weights(
        expand(arguments.weights),
        arguments.data,
        model_name=arguments.model,
        model_args=_model_args(arguments),
        mean=arguments.mean,
        std=arguments.std,
        batch_size=arguments.batch_size,
        data_dir=arguments.data_dir,
        ten_crop=arguments.ten_crop,
    )
    return _print_result(result, arguments.json)


def run_convert(arguments: argparse.Namespace) -> int:
    """Weights from one format into another."""
    from resnet_jax.convert import convert
    from resnet_jax.data.transforms import Preprocess

    if (arguments.source is None) == (arguments.pretrained is None):
        raise UserError("give either --from, a file or checkpoint directory, or --pretrained, a published tag")
    if (arguments.mean is None) != (arguments.std is None):
        raise UserError("--mean and --std belong together: give both")
    if arguments.preprocess is not None and arguments.mean is not None:
        raise UserError("--preprocess tells the mean and std: leave out --mean and --std")
    source = _source(arguments)
    result = convert(
        source,
        expand(arguments.to),
        model_name=arguments.model,
        model_args=_model_args(arguments),
        head=arguments.head,
        layout=arguments.layout,
        preprocess=arguments.preprocess
        or (Preprocess(None, None, "bilinear", arguments.mean, arguments.std) if arguments.mean else None),
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


def _model_args(arguments: argparse.Namespace) -> dict[str, Any]:
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
        ("to", report["to"]),
        ("model", " ".join([report["model"], *(f"{key}={value}" for key, value in report["model_args"].items())])),
        ("loaded", f"{len(report['loaded'])} tensors, {sum(map(math.prod, report['loaded'].values())):,} numbers"),
    ]
    for key in ("reshaped", "zeroed", "reset", "missing", "unexpected"):
        shapes = [f"{shown(name)} {_shape(shape)}" for name, shape in report[key].items()]
        rows.append((key, f"{len(shapes)}{': ' if shapes else ''}{', '.join(shapes)}"))
    dropped = [shown(name) for name in report["dropped"]] + [f"{report['counters']} counters"] * bool(
        report["counters"]
    )
    rows.append(("dropped", ", ".join(dropped) or "0"))
    rows.append(
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in preprocess.items()) if preprocess else NO_PREPROCESS)
    )
    _print_table(rows)


NO_PREPROCESS = "none (--preprocess, or --mean and --std, attach it to a folder or .safetensors file)"


def _shape(shape: Any) -> str:
    """(2, 3) as 2x3; a pair of shapes as 2x3x1x1 -> 2x3."""
    if shape and isinstance(shape[0], tuple):
        return " -> ".join(map(_shape, shape))
    return "x".join(map(str, shape)) or "1"


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Speed and memory of a network."""
    alone = next((name for name in ("loop", "data", "collectives", "scaling") if getattr(arguments, name)), None)
    if alone and (arguments.against or arguments.profile):
        raise UserError(f"--{alone} measures nothing else: leave out --against and --profile")
    if arguments.num_devices is not None and not arguments.collectives:
        raise UserError("--num_devices belongs to --collectives; training takes all devices")
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from resnet_jax.benchmark import benchmark, measure_data, measure_loop, measure_step_cost, scaling

    if arguments.scaling:
        return _print_scaling({name: scaling(name) for name in ("global", "local")}, arguments.json)
    if arguments.data:
        result = measure_data(
            expand(arguments.data), arguments.image_size, arguments.batch_size, arguments.pairs, arguments.steps or 6
        )
        return _print_data_rates(result) if not arguments.json else _print_result(result, as_json=True)
    shapes = (arguments.model, arguments.batch_size, arguments.image_size)
    if arguments.collectives:
        num_devices = 8 if arguments.num_devices is None else arguments.num_devices
        return _print_step_cost(measure_step_cost(*shapes, arguments.dtype, num_devices), arguments.json)
    if arguments.loop:
        return _print_result(measure_loop(*shapes, arguments.steps or 12, arguments.pairs), arguments.json)
    result = benchmark(
        *shapes,
        arguments.dtype,
        inference=arguments.inference,
        against=arguments.against,
        num_steps=arguments.steps or 3,
        num_pairs=arguments.pairs,
        profile_folder=expand(arguments.profile) if arguments.profile else None,
    )
    if arguments.json:
        print(json.dumps(result))
        return EXIT_DONE
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
    return EXIT_DONE


def _print_data_rates(result: dict[str, Any]) -> int:
    rows = [(key.replace("_", " "), str(value)) for key, value in result.items() if not isinstance(value, dict)]
    for key, rates in result.items():
        if isinstance(rates, dict):
            cells = [f"{name} {rate:.0f}/s" for name, rate in rates.items() if not name.startswith("ratio")]
            ratios = [f"{name} {ratio:.2f}" for name, ratio in rates.items() if name.startswith("ratio")]
            rows.append((key.replace("_", " "), "  ".join([*cells, *ratios]).replace("_", " ")))
    _print_table(rows)
    return EXIT_DONE


def _print_step_cost(result: dict[str, Any], as_json: bool) -> int:
    if not as_json:
        totals = result.pop("collectives")
        shown_totals = {name: f"{total['count']}, {total['bytes']:,} bytes" for name, total in totals.items()}
        result = {name: f"{value:,}" if isinstance(value, int) else value for name, value in result.items()}
        result.update(shown_totals)
    return _print_result(result, as_json)


def _print_scaling(results: dict[str, list[dict[str, Any]]], as_json: bool) -> int:
    """Where each recipe stops, with either batch norm, then every step with global statistics."""
    if as_json:
        return _print_result(results, as_json=True)
    print("recipe          batch norm  scales to  then bound by    what to do")
    for one, other in zip(results["global"], results["local"], strict=True):
        for row in (one, other):
            print(
                f"{row['name']:<15} {row['batch_norm']:<11} {row['scales_to']:>9}  {row['bound'] or '-':<15}  "
                f"{row['advice'] or '-'}"
            )
    print(
        "\nglobal batch norm  GPUs  images/GPU  compute  gradients  statistics  input  step ms  efficiency  hours  "
        "bound"
    )
    for recipe in results["global"]:
        for row in recipe["rows"]:
            place = f"{recipe['name']:<17} {row['num_gpus']:>5}  {row['images_per_gpu']:>10g}"
            if "step_ms" in row:
                place += (
                    f"  {row['compute_ms']:7.1f}  {row['gradient_ms']:9.1f}  {row['statistics_ms']:10.1f}"
                    f"  {row['input_ms']:5.1f}  {row['step_ms']:7.1f}  {row['efficiency']:10.0%}  {row['hours']:5.2f}"
                )
            else:
                place += " " * 70
            print(f"{place}  {row['bound']}")
    return EXIT_DONE


def _print_result(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(result))
    else:
        _print_table([(key.replace("_", " "), _number(key, value)) for key, value in result.items()])
    return EXIT_DONE


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
