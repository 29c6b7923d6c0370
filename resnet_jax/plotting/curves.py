"""A run's learning curves as one picture: loss, accuracy and learning rate by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.plotting.figures import new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"
FEW_POINTS = 20  # of a curve, which are then marked

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
    "mean average precision": {
        "val_map": "validation",
        "val_ema_map": "validation, average",
        "test_map": "test",
        "test_ema_map": "test, average",
    },
    "learning rate": {"learning_rate": "learning rate"},
}
OF_SEVERAL_LABELS = "mean average precision"  # a panel that is there only where an image has several
SHARES = ("accuracy", OF_SEVERAL_LABELS)
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
    has_map = any(field in record for record in records for field in PANELS[OF_SEVERAL_LABELS])
    panels = {panel: fields for panel, fields in PANELS.items() if has_map or panel != OF_SEVERAL_LABELS}
    figure = new_figure((4 * len(panels), 3.6), title)
    last_epoch = max((record["epoch"] for record in records), default=0.0)
    for axes, (panel, fields) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for field, name in fields.items():
            points = [(record["epoch"], record[field]) for record in records if field in record]
            if not points:
                continue
            last = f" {points[-1][1]:.2%}" if panel in SHARES else ""
            marker = "o" if len(points) == 1 else "." if len(points) <= FEW_POINTS else None
            axes.plot(*zip(*points, strict=True), label=name + last, color=COLORS[name], marker=marker, clip_on=False)
        if panel == "loss":
            _cut_axis(axes, max((record["train_loss"] for record in records if "train_loss" in record), default=0.0))
        if last_epoch:
            axes.set_xlim(0.0, 1.02 * last_epoch)
        style_axes(axes, xlabel="epoch", ylabel=panel)
    save_figure(figure, path)


def _cut_axis(axes: "Axes", largest_train_loss: float) -> None:
    """Ends the axis of losses a little above the training losses, and says so if others go beyond.

    The first validations, with young statistics, would flatten all the rest.
    """
    if not largest_train_loss:
        return
    end = 1.1 * largest_train_loss
    axes.set_ylim(0.0, end)
    beyond = {}
    for line in axes.lines:
        line.set_clip_on(True)
        losses = np.asarray(line.get_ydata(), float)
        largest = np.max(losses, where=np.isfinite(losses), initial=0.0)
        if largest > end:
            beyond[str(line.get_label())] = largest
    if beyond:
        values = ", ".join(f"{name} reaches {loss:.3g}" for name, loss in beyond.items())
        axes.set_title(f"axis cut at {end:.3g}: {values}", fontsize="small", color=COLORS["learning rate"])
