"""An evaluation's report: a folder of pictures and tables that show what a network confuses, and how it errs."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.source import Source
from resnet_jax.filesystem import write_text
from resnet_jax.formatting import csv_writer, format_json, format_percent
from resnet_jax.inference.classification_metrics import ClassificationMetrics
from resnet_jax.inference.multi_label_metrics import MultiLabelMetrics
from resnet_jax.inference.report_figures import draw_average_precision, draw_calibration, draw_confusion
from resnet_jax.plotting.contact_sheet import READABLE, Cell, Line, draw_sheet, save_picture

REPORT_FILE = "report.json"  # which identifies a report's folder
NUM_MISTAKES = 24
CENTRE_VIEW = 4  # of ten crops
# What only a report of one label an image has, and what only one of several.
OF_ONE_LABEL = ("confusion.csv", "confusion.png", "calibration.png", "mistakes.csv", "mistakes.png")
OF_SEVERAL = ("average_precision.png",)


def write_report(folder: Path, result: dict[str, Any], classification: ClassificationMetrics, source: Source) -> None:
    """Writes an evaluation's report into `folder`, made if missing; files there are replaced one by one, each at once.

    confusion.csv and classes.csv, a row a class; mistakes.csv, a row for each wrong image, the most confident first;
    report.json: `result`, each class with its most frequent confusion, the bins of the calibration and the most
    confident mistakes; confusion.png, calibration.png, and mistakes.png, which is not there where all was right.

    Args:
      result: of `evaluate_run` or `evaluate_weights`.
      source: the images.

    Raises:
      RunError: UserError (a ValueError) or OSError if something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, classes = classification.class_names, classification.classes()
    all_mistakes = classification.mistakes(len(classification.label))
    mistakes = all_mistakes[:NUM_MISTAKES]
    details = {
        **result,
        "classes": classes,
        "calibration": classification.calibration,
        "mistakes": [_mistake(classification, int(row), source) for row in mistakes],
    }
    # First: a folder that has it is known to be a report's, also where this one is broken off.
    write_text(folder / REPORT_FILE, format_json(details, indent=1) + "\n")
    counts = ((name, *row) for name, row in zip(names, classification.confusion.tolist(), strict=True))
    _write_csv(folder / "confusion.csv", ["class", *names], counts)
    header = ["class", "count", "correct", "accuracy", "precision", "most_frequent_confusion"]
    _write_csv(folder / "classes.csv", header, (row.values() for row in classes))
    rows = (_mistake(classification, int(row), source).values() for row in all_mistakes)
    _write_csv(folder / "mistakes.csv", ["image", "class", "predicted", "confidence"], rows)
    title = f"{100 * result['accuracy']:.2f} % of {result['count']:,} images right"
    _remove(folder, OF_SEVERAL)
    draw_confusion(classification, folder / "confusion.png", title)
    draw_calibration(classification, folder / "calibration.png", title)
    if len(mistakes):
        _draw_mistakes(classification, mistakes, source, folder / "mistakes.png")
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)


def write_multi_label_report(folder: Path, result: dict[str, Any], metrics: MultiLabelMetrics) -> None:
    """Writes the report of an evaluation on images of several labels into `folder`, made if missing.

    classes.csv and average_precision.png, a row and a bar a label; report.json: `result`. Nothing is confused with
    another where no label excludes another, so there is no matrix of that; an earlier report's is removed.

    Args:
      result: of `evaluate_run` or `evaluate_weights`.

    Raises:
      RunError: UserError (a ValueError) or OSError if something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / REPORT_FILE, format_json(result, indent=1) + "\n")
    _remove(folder, OF_ONE_LABEL)
    classes = metrics.classes()
    _write_csv(folder / "classes.csv", list(classes[0]), (row.values() for row in classes))
    title = f"mean average precision {format_percent(result['map'])} of {result['count']:,} images"
    draw_average_precision(metrics, folder / "average_precision.png", title)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _draw_mistakes(classification: ClassificationMetrics, mistakes: np.ndarray, source: Source, path: Path) -> None:
    """Writes a sheet of the images of the rows `mistakes`, as the network was given them."""
    images = source.read(classification.index[mistakes]).image
    if images.ndim == 5:
        images = images[:, CENTRE_VIEW]
    names = classification.class_names
    cells = []
    for row, image in zip(mistakes.tolist(), images, strict=True):
        index = int(classification.index[row])
        file = source.name(index).rpartition("/")[2] if isinstance(source, EncodedSource) else f"image {index}"
        predicted = (
            f"predicted: {names[classification.predicted[row]]}",
            f"{format_percent(classification.confidence[row], 0)}",
        )
        cells.append(Cell(image, (Line(file), Line(f"class: {names[classification.label[row]]}"), Line(*predicted))))
    total = int(np.sum(classification.rank > 0))
    title = f"The {len(cells)} most confident of {total:,} mistakes" if total > len(cells) else f"Mistakes: {total}"
    save_picture(draw_sheet(cells, READABLE, title), path)


def _mistake(classification: ClassificationMetrics, row: int, source: Source) -> dict[str, Any]:
    index = int(classification.index[row])
    return {
        "image": source.name(index) if isinstance(source, EncodedSource) else index,
        "class": classification.class_names[classification.label[row]],
        "predicted": classification.class_names[classification.predicted[row]],
        "confidence": float(classification.confidence[row]),
    }


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv_writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
