"""The evaluate command: measures a trained run or imported weights on labelled images."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import Source
from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import Preparation, TenCrop
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.distributed.processes import warn
from resnet_jax.distributed.sync import assert_equal_across_processes, sync_errors
from resnet_jax.errors import NonFiniteError, RunError, UserError
from resnet_jax.filesystem import check_folder
from resnet_jax.inference.classification_metrics import ClassificationMetrics
from resnet_jax.inference.evaluation_images import open_images
from resnet_jax.inference.multi_label_metrics import THRESHOLD, MultiLabelMetrics, check_threshold
from resnet_jax.inference.predictor import TrainedModel, open_run, open_weights
from resnet_jax.inference.ready.apply import ready_apply
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.images import load_judging_images
from resnet_jax.training.jit_steps import jit_per_example_eval_step

MOST_CLASSES_NAMED = 5


def evaluate_run(
    workdir: Path,
    data: str | None = None,
    which: str = "newest",
    data_dir: str | None = None,
    *,
    ten_crop: bool = False,
    flip: bool = False,
    average: bool = True,
    threshold: float | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Returns how well a run's weights classify: `ClassificationMetrics.summary`, and where they come from.

    If an image may have several labels, it is `MultiLabelMetrics.summary`. The origin has the keys
    "workdir", "checkpoint", "step", "average", "data", ....

    Args:
      data: a folder, tar or table of images, "PATH[:SPLIT]", or "tfds:NAME[:SPLIT]", of the run's classes; None is the
        run's own test set, or its validation images if it has none.
      which: "newest" or "best" (on the validation images).
      data_dir: where the run's images or TFDS's sets are, None: where the run had them.
      ten_crop: average ten views (`TenCrop`).
      flip: average the logits of each image and its mirror.
      average: take the moving average of the weights, if the run keeps one.
      threshold: of the probability of one of several labels, 1/2 if None.
      report: the folder for `write_report`.

    Raises:
      UserError: if there is no such run, checkpoint or data, or the report cannot be written.
    """
    _check_report(report)
    check_threshold(threshold)
    _check_views(ten_crop, flip)
    trained = open_run(workdir, which, average=average)
    options, mean = trained.options, trained.normalization.mean
    assert options is not None
    images = options.images if data_dir is None else replace(options.images, data_dir=data_dir)
    size = (
        images.image_size if not trained.preprocess.changes_pixels else 0
    )  # to which only images in memory are enlarged
    preprocess = TenCrop(trained.preprocess) if ten_crop else trained.preprocess
    reading = replace(
        options.reading(),
        data_dir=images.data_dir,
        image_size=size,
        preprocess=preprocess,
        bad_images=BadImages(images.max_bad_images, has_config=False),
    )
    if data is None:
        source, split, train = load_judging_images(images, reading)
        data = f"{images.dataset}:{split}"
        if source.class_names != trained.class_names:
            raise UserError(
                f"{data} has the classes {', '.join(source.class_names[:3])} …, the run in {workdir} "
                f"{', '.join(trained.class_names[:3])} …: they must be the same"
            )
        if isinstance(train, EncodedSource) and trained.trained_on not in ("", train.digest()):
            raise UserError(
                f"the training images of {images.dataset} are not those of the run, which was trained on most of what "
                "would be held out now: bring them back as they were, or name others with --data"
            )
    else:
        prepared = _prepared(trained, ten_crop=ten_crop)
        if prepared != preprocess:
            reading = replace(reading, image_size=0, preprocess=prepared)
        source = open_images(data, trained.class_names, len(trained.class_names), reading)
    if mean.ndim == 3 and mean.shape != source.image_shape:
        raise UserError(
            f"the run in {workdir} subtracts a mean image of shape {mean.shape}; "
            f"--data {data} has images of shape {source.image_shape}"
        )
    return _evaluate(trained, source, data, options.batches.part_size, threshold, report, flip=flip)


def evaluate_weights(
    weights: Path,
    data: str,
    *,
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    adjustment: Adjustment | None = None,
    batch_size: int | None = None,
    data_dir: str | None = None,
    ten_crop: bool = False,
    flip: bool = False,
    threshold: float | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Returns {"model", "weights", "data", ...} and `ClassificationMetrics.summary` of imported weights.

    Args:
      weights, model_name, model_args, preprocess, adjustment: as for `open_weights`.
      data: as for `evaluate_run`.
      batch_size: 128 if None.
      data_dir: where TFDS's sets are, None: its own default.
      ten_crop: average ten views (`TenCrop`).
      flip: average the logits of each image and its mirror.
      threshold, report: as for `evaluate_run`.

    Raises:
      UserError: if the weights do not fit, or nothing says how images are prepared; NonFiniteError if the loss is
        not finite.
    """
    batch_size = 128 if batch_size is None else batch_size
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    _check_report(report)
    check_threshold(threshold)
    _check_views(ten_crop, flip)
    trained = open_weights(
        weights, model_name=model_name, model_args=model_args, preprocess=preprocess, adjustment=adjustment
    )
    reading = DatasetOptions(
        data_dir or "",
        preprocess=_prepared(trained, ten_crop=ten_crop),
        apply_exif_orientation=trained.apply_exif_orientation,
        bad_images=BadImages(has_config=False),
        decode=trained.decode,
    )
    source = open_images(data, trained.class_names, trained.num_classes, reading)
    if not (trained.size_is_known or trained.preprocess.changes_pixels or source.image_shape == trained.input_shape):
        height, width, _ = trained.input_shape
        warn(
            f"nothing tells how large the network's images are: these stay as they are; predict makes {height}x{width}"
        )
    return _evaluate(trained, source, data, batch_size, threshold, report, flip=flip)


def _prepared(trained: TrainedModel, *, ten_crop: bool) -> Preparation:
    """Returns how images that the network was not trained with are prepared: as `predict` prepares them.

    A mean image is subtracted from images of its own size alone.
    """
    if ten_crop:
        return TenCrop(trained.preprocess)
    is_sized = trained.preprocess.changes_pixels or not trained.size_is_known or trained.normalization.mean.ndim > 1
    return trained.preprocess if is_sized else trained.sized


def _check_views(ten_crop: bool, flip: bool) -> None:
    if ten_crop and flip:
        raise UserError("--ten_crop averages mirrors already: leave --flip out")


def _evaluate(
    trained: TrainedModel, source: Source, data: str, batch_size: int, threshold: float | None, report: Path | None,
    *, flip: bool = False,
) -> dict[str, Any]:  # fmt: skip
    multi_label = source.multi_label
    if trained.multi_label and not multi_label:
        raise UserError(f"the network is of several labels an image, and {data} has one each: give such images")
    if trained.options is not None and multi_label and not trained.multi_label:
        raise UserError(f"the run is of one label an image, and {data} has several each: give images of one")
    if threshold is not None and not multi_label:
        raise UserError(f"--threshold {threshold} belongs to images of several labels: leave it out")
    assert_equal_across_processes("the images", sync_errors(source.digest))
    num_devices = trained.mesh.devices.size
    batch_size = -(-batch_size // num_devices) * num_devices  # a run may have had other devices
    batches = EvalBatches(source, batch_size, jax.process_index(), jax.process_count())
    preemption = PreemptionGuard(jax.process_count())
    normalization, dtype, mesh = trained.normalization, trained.model.dtype, trained.mesh
    apply = ready_apply(trained.model, trained.state.variables, num_devices)
    judge_fn = jit_per_example_eval_step(normalization, dtype, mesh, apply, multi_label=multi_label, flip=flip)
    rows: list[dict[str, np.ndarray]] = []
    sums = evaluate(preemption.with_stop_flag(judge_fn, mesh), trained.state, batches, mesh, preemption, rows.append)
    if not math.isfinite(sums["loss"]):
        raise NonFiniteError(f"the loss is {sums['loss']}: the weights are not finite, or not those of this model")
    names = trained.class_names or source.class_names
    metrics: ClassificationMetrics | MultiLabelMetrics
    if multi_label:
        metrics = MultiLabelMetrics.of_rows(rows, names, THRESHOLD if threshold is None else threshold)
        _warn_of_undefined(metrics)
    else:
        metrics = ClassificationMetrics.of_rows(rows, names)
    result = {**trained.origin, "data": data, **metrics.summary(sums)}
    if report is not None:
        sync_errors(lambda: _try_report(report, result, metrics, source) if jax.process_index() == 0 else None)
        result["report"] = str(report)
    return result


def _try_report(
    report: Path, result: dict[str, Any], metrics: ClassificationMetrics | MultiLabelMetrics, source: Source
) -> None:
    """Writes the report; an error of the disk has the numbers behind it, which were hours of work."""
    try:
        _write_report(report, result, metrics, source)
    except (OSError, RunError, UserError) as error:
        numbers = ", ".join(f"{key} {value:.6g}" for key, value in result.items() if isinstance(value, int | float))
        raise RunError(f"{error}; it would hold {numbers}") from error


def _write_report(
    report: Path, result: dict[str, Any], metrics: ClassificationMetrics | MultiLabelMetrics, source: Source
) -> None:
    from resnet_jax.inference.report import write_multi_label_report, write_report

    if isinstance(metrics, MultiLabelMetrics):
        write_multi_label_report(report, result, metrics)
    else:
        write_report(report, result, metrics, source)


def _warn_of_undefined(metrics: MultiLabelMetrics) -> None:
    """Warns of the labels whose average precision is undefined."""
    names = metrics.without_positives()
    if names:
        some = ", ".join(names[:MOST_CLASSES_NAMED]) + (", …" if len(names) > MOST_CLASSES_NAMED else "")
        warn(
            f"no image has {len(names)} of the {len(metrics.class_names)} labels ({some}): their average precision is "
            "undefined and left out of the mean"
        )


def _check_report(report: Path | None) -> None:
    """Raises UserError (a ValueError), in all processes, unless process 0 can write into the folder `report`, and
    what lies there is a report, or nothing.
    """

    def check(folder: Path) -> None:
        from resnet_jax.inference.report import REPORT_FILE

        check_folder(folder)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT_FILE).exists():
            raise UserError(f"--report {folder} holds other files and no {REPORT_FILE}: name a new or an empty folder")

    if report is not None:
        sync_errors(lambda: check(report) if jax.process_index() == 0 else None)
