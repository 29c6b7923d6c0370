"""What each command does with its parsed arguments: call one function, print what it returns, give the exit code."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.errors import UserError

if TYPE_CHECKING:
    from resnet_jax.training.loop import RunResult

EXIT_DONE = 0
EXIT_INTERRUPTED = 75


def run_train(arguments: argparse.Namespace) -> int:
    """Train a network, or continue a run."""
    from resnet_jax.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    name = Path(arguments.config).stem
    workdir = Path(arguments.workdir or f"runs/{name}").expanduser()

    from resnet_jax.training.loop import train

    result = train(config, workdir, name)
    if result.interrupted_by:
        return _tell_interruption(result, workdir)
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
    return EXIT_DONE


def run_degradation(arguments: argparse.Namespace) -> int:
    """Train plain and residual networks and draw their errors in one picture."""
    from resnet_jax.degradation import PICTURE_FILE, degradation

    workdir = Path(arguments.workdir).expanduser()
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


def _tell_interruption(result: "RunResult", workdir: Path) -> int:
    print(
        f"interrupted by {result.interrupted_by}: saved step {result.step} of {result.num_steps} in {workdir}; "
        "the same command continues",
        file=sys.stderr,
    )
    return EXIT_INTERRUPTED


RESULT_FIELDS = (
    "step", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy",
    "test_count",
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
    """Loss and accuracy of a trained run."""
    from resnet_jax.evaluate import evaluate_run

    return _print_result(
        evaluate_run(Path(arguments.workdir).expanduser(), arguments.data, arguments.checkpoint), arguments.json
    )


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Speed and memory of a network."""
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
