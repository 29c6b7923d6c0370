"""The predict command: predicts, prints the predictions, draws the sheet."""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.exit_codes import EXIT_DONE, EXIT_USAGE
from resnet_jax.cli.options import AddCommand, add_trained_options, check_model_options, open_trained
from resnet_jax.errors import UserError, printable
from resnet_jax.filesystem import expand
from resnet_jax.formatting import csv_writer, format_json, format_percent

if TYPE_CHECKING:
    from resnet_jax.inference.predict import Prediction
    from resnet_jax.inference.predictor import TrainedModel
    from resnet_jax.plotting.contact_sheet import Cell

MAX_ON_SHEET = 60  # images
CLASSES_ON_SHEET = 3
SHARE_ON_SHEET = 0.005  # of a class's probability: what rounds to 0 % says nothing
NO_LABEL = "no label above the threshold"


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    predict = add("predict", run_predict, "the classes that a trained run, or imported weights, see in images",
                  "python -m resnet_jax predict photos --workdir runs/pets")  # fmt: skip
    predict.usage = "%(prog)s IMAGE... --workdir DIR [options]\n   or: %(prog)s IMAGE... --weights PATH [options]"
    predict.add_argument("images", nargs="*", metavar="IMAGE", help="a file, a folder, or - for standard input")
    add_trained_options(predict)
    predict.add_argument("--top", type=int, metavar="K", help="how many classes (default: 5)")
    predict.add_argument("--threshold", type=float, metavar="P", help="of several labels, those above (default: 0.5)")
    predict.add_argument("--batch_size", type=int, default=32, metavar="N", help="default: 32")
    predict.add_argument("--flip", action="store_true", help="average each image and its mirror")
    predict.add_argument("--to", metavar="PICTURE", help="write a sheet of the images with their classes there")
    predict.add_argument("--gradcam", action="store_true", help="on that sheet, where the network looks")
    written = predict.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print one JSON object")
    written.add_argument("--csv", action="store_true", help="print file,rank,label,class,probability")


def run_predict(arguments: argparse.Namespace) -> int:
    """Prints the classes that a network sees in images."""
    check_model_options(arguments)
    if arguments.gradcam and arguments.to is None:
        raise UserError("--gradcam is drawn on the sheet: name its file with --to, for example --to sheet.png")
    target = None if arguments.to is None else expand(arguments.to)
    from resnet_jax.data.image_files import find_images
    from resnet_jax.plotting.contact_sheet import READABLE, check_picture, check_replaced, draw_sheet, save_picture

    if target is not None:
        check_picture(target)
    for word in arguments.images if arguments.csv else ():
        if word.endswith(".csv") and not expand(word).exists():
            raise UserError(f"{word} does not exist: --csv prints the table, which goes into a file by > {word}")
    images = find_images(arguments.images, sys.stdin.buffer.read)
    if target is not None:
        check_replaced(target, [Path(image.name) for image in images])
    from resnet_jax.inference.predict import Failure, predict

    trained = open_trained(arguments)
    results = predict(
        trained, images, top=arguments.top, threshold=arguments.threshold, batch_size=arguments.batch_size,
        flip=arguments.flip, gradcam=arguments.gradcam,
    )  # fmt: skip
    printed: dict[str, Any] = {**trained.origin, "images": [], "failed": []}
    table = csv_writer(sys.stdout) if arguments.csv else None
    if table is not None:
        table.writerow(["file", "rank", "label", "class", "probability"])
    cells: list[Cell] = []
    num_answered = 0
    with closing(results):
        for result in results:
            if isinstance(result, Failure):
                printed["failed"].append(result._asdict())
                name = printable(result.file)
                print(f"{name} cannot be read as an image: {result.reason}", file=sys.stderr, flush=True)
                continue
            num_answered += 1
            predictions = _described(result, trained)
            if arguments.json:
                printed["images"].append({"file": result.file, "predictions": predictions})
            elif table is not None:
                table.writerows(
                    (result.file, rank, *prediction.values()) for rank, prediction in enumerate(predictions, 1)
                )
                if not predictions:
                    table.writerow((result.file, 0, "", "", ""))
            else:
                print(printable(result.file))
                if not predictions:
                    print(f"  {NO_LABEL}")
                for prediction in predictions:
                    print(f"  {100 * prediction['probability']:6.2f} %  {printable(prediction['class'])}")
            if target is not None and len(cells) < MAX_ON_SHEET:
                cells.append(_cell(result, predictions))
    if arguments.json:
        print(format_json(printed))
    if target is not None and cells:
        save_picture(draw_sheet(cells, READABLE), target)
        if num_answered > len(cells):
            print(f"{target} shows the first {len(cells)} of {num_answered} images", file=sys.stderr)
    return EXIT_USAGE if printed["failed"] else EXIT_DONE


def _described(result: "Prediction", trained: "TrainedModel") -> list[dict[str, Any]]:
    return [
        {"label": label, "class": trained.class_name(label), "probability": probability}
        for label, probability in zip(result.labels.tolist(), result.probabilities.tolist(), strict=True)
    ]


def _cell(result: "Prediction", predictions: list[dict[str, Any]]) -> "Cell":
    """Returns an image with its file's name, its Grad-CAM beside it if there is one, and its classes as bars."""
    import numpy as np

    from resnet_jax.inference.gradcam import overlay
    from resnet_jax.plotting.contact_sheet import Cell, Line, as_rgb

    pixels = as_rgb(result.pixels)
    if result.heat is not None:
        pixels = np.concatenate([pixels, overlay(pixels, result.heat)], axis=1)
    bars = [
        Line(prediction["class"], _percent(prediction["probability"]), prediction["probability"])
        for rank, prediction in enumerate(predictions[:CLASSES_ON_SHEET])
        if rank == 0 or prediction["probability"] >= SHARE_ON_SHEET
    ]
    return Cell(pixels, (Line(result.file.rpartition("/")[2]), *(bars or [Line(NO_LABEL)])))


def _percent(probability: float) -> str:
    return format_percent(probability, 0) if probability >= SHARE_ON_SHEET else "<1 %"
