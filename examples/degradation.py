"""Trains plain and residual networks of growing depth, and draws their errors in one picture.

    python examples/degradation.py --depths 20,56 [--workdir runs/degradation] [--config.field=value …]

Deeper plain networks train worse, not only generalise worse; shortcuts cure that (He et al. 2015, arXiv:1512.03385,
figures 1 and 6).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from resnet_jax.config import load_config
from resnet_jax.distributed.log_handler import install_log_handler
from resnet_jax.errors import Preempted, RunError, UserError, check_choice
from resnet_jax.formatting import format_percent
from resnet_jax.models import list_models
from resnet_jax.plotting.figures import new_figure, save_figure, style_axes
from resnet_jax.training.experiment import options_of
from resnet_jax.training.loop import RunResult
from resnet_jax.training.run import train

PICTURE_FILE = "degradation.png"
KINDS = {"plain": "plain networks", "resnet": "residual networks"}
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc2936", "#5e3c99", "#444444")

Records = Sequence[Mapping[str, Any]]


def degradation(
    config_name: str, overrides: Sequence[str], depths: Sequence[int], workdir: Path
) -> dict[str, RunResult]:
    """Trains plainD and resnetD for every depth D, each in `workdir`/NAME, and draws their errors when all have ended.

    Each run resumes as `train` does. The results are by name in order of training; the last one tells of an
    interruption, and then there is no picture yet.
    Raises UserError (a ValueError) for an unknown depth and what `train` refuses.
    """
    names = [f"{kind}{depth}" for depth in depths for kind in KINDS]
    known = list_models()
    for name in names:
        check_choice("model", name, known)
    if any(word.partition("=")[0] == "--config.model" for word in overrides):
        raise UserError("--config.model is set by --depths")
    configs = {name: load_config(config_name, [*overrides, f"--config.model={name}"]) for name in names}
    results: dict[str, RunResult] = {}
    for name, config in configs.items():
        results[name] = train(options_of(config), workdir / name, name)
        if results[name].interrupted_by:
            return results
    draw_degradation({name: result.records for name, result in results.items()}, workdir)
    return results


def draw_degradation(records: Mapping[str, Records], workdir: Path) -> Path:
    """Writes `workdir`/degradation.png: one panel a kind of network, one colour a depth, and returns its path.

    records: the metrics log of each network by its name. Thin lines are the training error, bold ones the test error.
    """
    figure = new_figure((10, 4.2), "Error by depth, without and with shortcuts")
    for axes, (kind, title) in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS.items(), strict=True):
        networks = {name: log for name, log in records.items() if name.startswith(kind)}
        for color, (name, log) in zip(COLORS, networks.items(), strict=False):
            depth = f"{name.removeprefix(kind)} layers"
            for field, label, line in (
                ("train_accuracy", f"{depth}, training", {"linewidth": 1.0, "linestyle": "--"}),
                ("test_accuracy", f"{depth}, test", {"linewidth": 2.2, "marker": "o", "markersize": 4}),
            ):
                points = [(record["epoch"], 100 * (1 - record[field])) for record in log if field in record]
                if points:
                    axes.plot(*zip(*points, strict=True), label=label, color=color, **line)
        axes.set_title(title)
        style_axes(axes, xlabel="epoch", ylabel="error, %")
    path = workdir / PICTURE_FILE
    save_figure(figure, path)
    return path


def main() -> int:
    """Trains, or continues, and prints the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", default="20,32,44,56", help="layers (default: %(default)s)")
    parser.add_argument("--config", default="degradation", help="how each is trained (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/degradation"), help="default: %(default)s")
    arguments, overrides = parser.parse_known_args()
    install_log_handler()
    try:
        depths = [int(depth) for depth in arguments.depths.split(",")]
        results = degradation(arguments.config, overrides, depths, arguments.workdir)
    except ValueError as error:
        parser.error(str(error))
    except RunError as error:
        parser.exit(EXIT_FAILED, f"{parser.prog}: error: {error}\n")
    except Preempted as error:
        parser.exit(EXIT_INTERRUPTED, f"interrupted by {error} before the first step; the same command starts again\n")
    for name, result in results.items():
        if result.interrupted_by:
            print(f"{name}: interrupted by {result.interrupted_by}; the same command continues", file=sys.stderr)
            return EXIT_INTERRUPTED
        final = {key: value for record in result.records for key, value in record.items()}
        errors = (f"{split} error {format_percent(1 - final[f'{split}_accuracy'])}" for split in ("train", "test"))
        print(name, *errors, sep="  ")
    print(arguments.workdir / PICTURE_FILE)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
