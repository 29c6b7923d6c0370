"""A run's learning curves as one picture: loss, accuracy and learning rate by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.figures import new_figure, save_figure, style_axes

CURVES_FILE = "curves.png"

PANELS = {
    "loss": {
        "train_loss": "training",
        "val_loss": "validation",
        "val_ema_loss": "validation, average",
        "test_loss": "test",
        "test_ema_loss": "test, average",
    },
    "accuracy": {
        "train_accuracy": "training",
        "val_accuracy": "validation",
        "val_ema_accuracy": "validation, average",
        "test_accuracy": "test",
        "test_ema_accuracy": "test, average",
    },
    "learning rate": {"learning_rate": "learning rate"},
}
COLORS = {
    "training": "#7f7f7f",
    "validation": "#0b61a4",
    "test": "#c23b22",
    "validation, average": "#5fa8d3",
    "test, average": "#e39a86",
    "learning rate": "#444444",
}


def draw_curves(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Writes `path` (PNG) from the records of a metrics log; a field that no record has is left out."""
    figure = new_figure((12, 3.6), title)
    for axes, (panel, fields) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for field, name in fields.items():
            points = [(record["epoch"], record[field]) for record in records if field in record]
            if not points:
                continue
            last = f" {points[-1][1]:.2%}" if panel == "accuracy" else ""
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), label=name + last, color=COLORS[name], marker=marker, clip_on=False)
        trained = [record[f"train_{panel}"] for record in records if f"train_{panel}" in record]
        if panel == "loss" and trained:  # the first validations, with young statistics, would flatten all the rest
            axes.set_ylim(0.0, 1.1 * max(trained))
            for line in axes.lines:
                line.set_clip_on(True)
        style_axes(axes, xlabel="epoch", ylabel=panel)
    save_figure(figure, path)
