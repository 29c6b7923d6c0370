"""A run's learning curves as one picture: loss, accuracy and learning rate by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CURVES_FILE = "curves.png"

PANELS = {
    "loss": {"train_loss": "training", "val_loss": "validation", "test_loss": "test"},
    "accuracy": {"train_accuracy": "training", "val_accuracy": "validation", "test_accuracy": "test"},
    "learning rate": {"learning_rate": "learning rate"},
}
COLORS = {"training": "#7f7f7f", "validation": "#0b61a4", "test": "#c23b22", "learning rate": "#444444"}


def draw_curves(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Writes `path` (PNG) from the records of a metrics log; a field that no record has is left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (panel, fields) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for field, label in fields.items():
            points = [(record["epoch"], record[field]) for record in records if field in record]
            if points:
                marker = "o" if len(points) == 1 else None
                axes.plot(*zip(*points, strict=True), label=label, color=COLORS[label], marker=marker, clip_on=False)
                if panel == "accuracy" and field != "train_accuracy":
                    axes.annotate(f"{points[-1][1]:.2%}", points[-1], textcoords="offset points", xytext=(-4, -14),
                                  ha="right", color=COLORS[label])  # fmt: skip
        axes.set(xlabel="epoch", ylabel=panel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(path)
