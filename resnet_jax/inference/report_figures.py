"""The figures of an evaluation's report: confusions, how far confidence can be trusted, average precision by label."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.errors import truncate
from resnet_jax.inference.classification_metrics import ClassificationMetrics
from resnet_jax.inference.multi_label_metrics import MultiLabelMetrics
from resnet_jax.plotting.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COUNTED = 15  # classes, up to which the cells hold numbers
MAX_NAMED = 60  # classes, up to which the axes name them
MAX_CELLS = 250  # a side that is still drawn cell by cell
NUM_PAIRS = 20  # of the most frequent confusions, listed where the cells hold no numbers
NAME_LENGTH, PAIR_LENGTH = 22, 19  # characters
LIGHT_BLUE, GREY, DARK, RED = "#9ec5e5", "#7f7f7f", "#333333", "#c23b22"


def draw_confusion(classification: ClassificationMetrics, path: Path, title: str) -> None:
    """Writes `path` (PNG): for each class, by rows, what its images were taken for.

    Shades are shares of the row, the faint ones strengthened. Of few classes the cells hold the counts; of more the
    most frequent confusions are listed beside the matrix, and of very many the axes have no names and a point stands
    for the largest share in a block of cells.
    """
    from matplotlib.colors import PowerNorm

    num_classes = len(classification.class_names)
    counted, named = num_classes <= MAX_COUNTED, num_classes <= MAX_NAMED
    names = [_short(name, NAME_LENGTH) for name in classification.class_names] if named else []
    margin = 0.075 * min(max(map(len, names), default=0), NAME_LENGTH) + 0.6
    side = np.clip(0.55 * num_classes if counted else 0.17 * num_classes, 3.2, 8.0)
    listed = 0.0 if counted else 4.6
    figure = new_figure((max(side + margin + listed + 0.3, 6.0), side + margin + 0.8), title)
    if counted:
        axes = figure.subplots()
    else:
        figure.set_layout_engine("compressed")  # which knows that cells are square
        axes, beside = figure.subplots(1, 2, width_ratios=(side + margin, listed))
        _list_pairs(classification, beside)
    shares = classification.confusion / np.maximum(classification.confusion.sum(axis=1, keepdims=True), 1)
    block = -(-num_classes // MAX_CELLS)
    extent = (-0.5, num_classes - 0.5, num_classes - 0.5, -0.5)
    axes.imshow(_largest_in(shares, block), "Blues", norm=PowerNorm(0.5, 0, 1), extent=extent, interpolation="nearest")
    axes.set(xlabel="taken for", ylabel="class")
    if named:
        axes.set_xticks(range(num_classes), names, rotation=90)
        axes.set_yticks(range(num_classes), names)
        axes.tick_params(length=0, labelsize=10 if num_classes <= 40 else 8)
    if counted:
        for (row, column), count in np.ndenumerate(classification.confusion):
            if count:
                color = "white" if shares[row, column] > 0.4 else "black"
                size = 11 if count < 10_000 else 8
                axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=size)
    save_figure(figure, path)


def draw_calibration(classification: ClassificationMetrics, path: Path, title: str) -> None:
    """Writes `path` (PNG): accuracy by confidence, and below how many images had it (Guo et al. 2017)."""
    figure = new_figure((5.6, 6.2), title)
    axes, below = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    bins = classification.calibration
    starts, width = np.array([bin["from"] for bin in bins]), bins[0]["to"] - bins[0]["from"]
    filled = [bin for bin in bins if bin["count"]]
    axes.bar(starts, [bin["accuracy"] for bin in bins], width, align="edge", color=LIGHT_BLUE, edgecolor="white")
    axes.plot([0, 1], [0, 1], color=DARK, linestyle="--", label="as confident as right")
    axes.plot(
        [bin["confidence"] for bin in filled], [bin["accuracy"] for bin in filled], "o", color=RED, markersize=5,
        label="a bin's mean confidence", clip_on=False,
    )  # fmt: skip
    axes.set_title(f"calibration error {100 * classification.calibration_error:.2f} %", fontsize=11)
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", edgecolor="none")
    below.bar(starts, [bin["count"] for bin in bins], width, align="edge", color=GREY, edgecolor="white")
    below.set(xlabel="confidence (the largest probability)", ylabel="images")
    below.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    for panel in (axes, below):
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_average_precision(metrics: MultiLabelMetrics, path: Path, title: str) -> None:
    """Writes `path` (PNG): each label's average precision as a bar, the best first, with how many images have it.

    Of more than MAX_NAMED labels the bars have no names. Labels that no image has are named last, without a bar.
    """
    classes = metrics.classes()
    rows = [classes[k] for k in np.argsort(-np.nan_to_num(metrics.average_precision, nan=-1.0), kind="stable")]
    named = len(rows) <= MAX_NAMED
    figure = new_figure((7.5, float(np.clip(0.24 * len(rows) + 1.2, 2.4, 16.0))), title)
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.barh(places, [row["average_precision"] or 0.0 for row in rows], color=LIGHT_BLUE, height=0.8 if named else 1.0)
    if named:
        axes.set_yticks(places, [_short(row["class"], NAME_LENGTH) for row in rows])
        for place, row in zip(places.tolist(), rows, strict=True):
            undefined = row["average_precision"] is None
            text = "no image: undefined" if undefined else f"{row['average_precision']:.3f} ({row['count']:,} images)"
            axes.text(0.01, place, text, va="center", fontsize=8, color=DARK)
    else:
        axes.set_yticks([])
    axes.set(xlabel="average precision", xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _list_pairs(classification: ClassificationMetrics, axes: "Axes") -> None:
    """Writes the most frequent confusions, as text in columns."""
    axes.axis("off")
    counts = classification.confusion.sum(axis=1)
    pairs = classification.confused_pairs()[:NUM_PAIRS]
    axes.set_title("most frequent confusions" if pairs else "no confusions", loc="left", fontsize=11)
    for i, (label, predicted, count) in enumerate(pairs):
        one, other = (_short(classification.class_names[k], PAIR_LENGTH) for k in (label, predicted))
        y = 1 - (i + 0.8) / NUM_PAIRS
        axes.text(0.0, y, f"{one} → {other}", transform=axes.transAxes, fontsize=10)
        axes.text(1.0, y, f"{count} of {counts[label]}", transform=axes.transAxes, fontsize=10, ha="right")


def _largest_in(shares: np.ndarray, block: int) -> np.ndarray:
    """Returns the largest of each block x block cells: a single confusion among a million cells is still to be seen."""
    if block == 1:
        return shares
    missing = -len(shares) % block
    padded = np.pad(shares, (0, missing))
    rows = len(padded) // block
    return padded.reshape(rows, block, rows, block).max(axis=(1, 3))


def _short(name: str, length: int) -> str:
    """Returns so much of the name, on one line."""
    name = truncate(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"
