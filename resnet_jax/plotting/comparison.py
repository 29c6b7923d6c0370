"""The curves of several runs in one picture: a line for each group, its runs' mean, in a band of their deviation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.plotting.figures import new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]

PANELS = {"train_loss": "training loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy",
          "val_map": "validation map", "test_accuracy": "test accuracy"}  # fmt: skip
MOST_IN_LEGEND = 10  # as there are colours
MOST_CHARACTERS = 60
LOGARITHMIC = 30.0  # times its least that a loss's largest is, on an axis of powers of ten


def draw_comparison(groups: Mapping[str, Sequence[Records]], path: Path, title: str) -> None:
    """Writes `path` (PNG): training loss, validation and test by epoch, for each group by its label.

    Of a run that keeps a moving average of its weights, the evaluations are the average's, by which its best is chosen.
    A panel that no group has a curve for is left out. The legend names the first ten groups.
    """
    panels = [field for field in PANELS if _num_points(groups, field) > 1] or ["train_loss"]
    figure = new_figure((4.2 * len(panels), 4.4), title)
    for i, (axes, field) in enumerate(zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True)):
        for k, (label, runs) in enumerate(groups.items()):
            _draw_group(axes, runs, field, _shorten(label) if k < MOST_IN_LEGEND else "_", f"C{k % 10}")
        style_axes(axes, xlabel="epoch", ylabel=PANELS[field])
        if field.endswith("loss") and _spans_powers_of_ten(axes):
            axes.set_yscale("log", nonpositive="clip")
        if legend := axes.get_legend():
            legend.remove()
        if i == 0:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize="small")
    save_figure(figure, path)


def _spans_powers_of_ten(axes: "Axes") -> bool:
    """Returns whether the lines of a panel, all above 0, are too far apart in height for a plain axis."""
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    heights = heights[np.isfinite(heights)]
    return heights.size > 0 and heights.min() > 0 and heights.max() > LOGARITHMIC * heights.min()


def _num_points(groups: Mapping[str, Sequence[Records]], field: str) -> int:
    """Returns how many records of `field` the run has that has the most."""
    return max(len(_curve(run, field)) for runs in groups.values() for run in runs)


def _curve(run: Records, field: str) -> dict[float, float]:
    """Returns a run's numbers by epoch; of an evaluation the moving average's, if it has one."""
    split, _, metric = field.partition("_")
    average = f"{split}_ema_{metric}"
    return {
        record["epoch"]: record.get(average, record.get(field))
        for record in run
        if average in record or field in record
    }


def _draw_group(axes: "Axes", runs: Sequence[Records], field: str, label: str, color: str) -> None:
    """Draws the mean of the runs that have come as far as an epoch, in between their records too, and its band."""
    curves = [curve for run in runs if (curve := _curve(run, field))]
    if not curves:
        axes.plot([], [], color=color, label=label)  # the first panel has the legend
        return
    epochs = np.array(sorted(set().union(*curves)), float)
    known = np.array([(min(curve) <= epochs) & (epochs <= max(curve)) for curve in curves])
    values = np.array([np.interp(epochs, sorted(curve), [curve[epoch] for epoch in sorted(curve)]) for curve in curves])
    count = known.sum(axis=0)
    mean = np.where(known, values, 0).sum(axis=0) / count
    axes.plot(epochs, mean, color=color, label=label, linewidth=1.2, marker="." if len(epochs) < 20 else None)
    several = count > 1
    if several.any():
        squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
        deviation = np.sqrt(squares / np.maximum(count - 1, 1))
        low, high = mean - deviation, mean + deviation
        axes.fill_between(epochs, low, high, where=several.tolist(), color=color, alpha=0.2, linewidth=0)


def _shorten(label: str) -> str:
    """Returns a label for the legend: of a long one the beginning, and the end, where it is told from others."""
    half = MOST_CHARACTERS // 2
    return label if len(label) <= MOST_CHARACTERS else f"{label[: half - 1]}…{label[-half:]}"
