"""The predict command: the classes that a network sees in image files."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.decoding import BadImageError, EncodedImage
from resnet_jax.data.image_files import ImageFile
from resnet_jax.data.prefetch import prefetch
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.distributed.mesh import data_sharding, replicated, shard_batch
from resnet_jax.distributed.processes import warn_once
from resnet_jax.errors import NonFiniteError, UserError
from resnet_jax.inference.gradcam import explain
from resnet_jax.inference.multi_label_metrics import THRESHOLD, check_threshold
from resnet_jax.inference.predictor import TrainedModel
from resnet_jax.inference.ready.apply import ready_apply
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.training.images import normalizer

Array = jax.Array

TOP = 5  # classes that are named where an image has one


class Prediction(NamedTuple):
    """A network's prediction for an image: labels (k,) int32 and their probabilities (k,), the most probable first.

    If an image may have several labels, these are all with a probability above the threshold: perhaps none.

    Attributes:
      pixels: (H, W, C) uint8, the network's input.
      heat: (H, W) in [0, 1], its Grad-CAM for the first label; None if not asked for.
    """

    file: str
    labels: np.ndarray
    probabilities: np.ndarray
    pixels: np.ndarray
    heat: np.ndarray | None


class Failure(NamedTuple):
    """An image that cannot be read, and why."""

    file: str
    reason: str


def predict(
    trained: TrainedModel,
    images: Sequence[ImageFile],
    *,
    top: int | None = None,
    threshold: float | None = None,
    batch_size: int = 32,
    flip: bool = False,
    gradcam: bool = False,
) -> Generator[Prediction | Failure, None, None]:
    """Yields the prediction of `trained` for each of `images`, in their order, as soon as it is known.

    Args:
      top: how many classes, at most all there are; 5 if None. If an image may have several labels, at most so
        many of those above the threshold; all if None.
      threshold: in (0, 1), 1/2 if None: a label is named if its probability is above it, its logit's sigmoid. If
        imported weights do not say that an image may have several labels, a threshold does.
      batch_size: at most so many images at once, rounded up to a multiple of the devices; whatever the number of
        images, the network is compiled once.
      flip: the logits of an image and its mirror are averaged.

    Raises:
      UserError: if a number is out of range; NonFiniteError if the network's answer is not finite.
    """
    check_threshold(threshold)
    if threshold is not None and not trained.multi_label and trained.options is not None:
        raise UserError(f"threshold={threshold} belongs to runs on images of several labels: leave it out")
    multi_label = trained.multi_label or threshold is not None
    if multi_label and threshold is None:
        threshold = THRESHOLD
    if top is None:
        top = trained.num_classes if multi_label else TOP
    if top < 1 or batch_size < 1:
        raise UserError(f"top={top} and batch_size={batch_size} must be at least 1")
    return _predict(trained, images, min(top, trained.num_classes), threshold, batch_size, flip, gradcam)


def _predict(
    trained: TrainedModel,
    images: Sequence[ImageFile],
    top: int,
    threshold: float | None,
    batch_size: int,
    flip: bool,
    gradcam: bool,
) -> Generator[Prediction | Failure, None, None]:
    if not (trained.size_is_known or trained.preprocess.changes_pixels):
        height, width, _ = trained.input_shape
        side = f"{height}" if height == width else f"{height}x{width}"
        way = f" (--resize {side} --crop {side})" if trained.options is None else ""
        warn_once(f"nothing tells how large the network's images are: they are made {height}x{width}{way}")
    num_rows = _num_rows(len(images), batch_size, trained.mesh.devices.size)
    threads, bad_images = DecodeThreads(), BadImages(has_config=False)
    predict_fn = _compile(trained, top, flip, gradcam, multi_label=threshold is not None)

    def prepare(start: int) -> tuple[np.ndarray, list[str | None], Any]:
        """Returns the pixels of the images from `start` on, why they cannot be read (None: they can), and all on the
        mesh.
        """
        files = images[start : start + num_rows]
        pixels = np.zeros((num_rows, *trained.input_shape), np.uint8)
        reasons: list[str | None] = [None] * len(files)

        def read(i: int) -> None:
            try:
                pixels[i] = _read(files[i], trained, bad_images)
            except BadImageError as error:
                reasons[i] = error.reason
            except OSError as error:
                reasons[i] = error.strerror or str(error)

        threads.for_each(read, len(files))
        readable = any(reason is None for reason in reasons)
        return pixels, reasons, shard_batch({"image": pixels}, trained.mesh) if readable else None

    def finish(
        start: int, pixels: np.ndarray, reasons: list[str | None], result: Any
    ) -> Iterator[Prediction | Failure]:
        fetched = {} if result is None else jax.device_get(result)
        for i, reason in enumerate(reasons):
            name = images[start + i].name
            if reason is not None:
                yield Failure(name, reason)
            elif not np.all(np.isfinite(fetched["probability"][i])):
                raise NonFiniteError(f"{name}: the logits are not finite: the weights are not, or are another model's")
            else:
                heat = fetched["heat"][i] if gradcam else None
                labels, probabilities = fetched["label"][i], fetched["probability"][i]
                if threshold is not None:
                    above = probabilities > threshold
                    labels, probabilities = labels[above], probabilities[above]
                yield Prediction(name, labels, probabilities, pixels[i], heat)

    starts = range(0, len(images), num_rows)
    previous: Iterator[Prediction | Failure] = iter(())
    with closing(prefetch(prepare, starts)) as batches:
        for start, (pixels, reasons, batch) in zip(starts, batches, strict=True):
            result = None if batch is None else predict_fn(trained.state.variables, batch)
            yield from previous  # of the batch before, while this one is computed
            previous = finish(start, pixels, reasons, result)
    yield from previous


def _num_rows(num_images: int, batch_size: int, num_devices: int) -> int:
    """Returns how many rows a batch has: few images are not padded to batch_size, but to a power of two."""
    rows = min(batch_size, 1 << (num_images - 1).bit_length())
    return -(-rows // num_devices) * num_devices


def _read(file: ImageFile, trained: TrainedModel, bad_images: BadImages) -> np.ndarray:
    image = EncodedImage(
        file.read(), file.name, options=trained.decode, apply_exif_orientation=trained.apply_exif_orientation
    )
    if not trained.apply_exif_orientation and image.orientation != 1:
        bad_images.warn_exif_rotation(file.name)
    return trained.pixels(image.pixels())


def _compile(
    trained: TrainedModel, top: int, flip: bool, gradcam: bool, *, multi_label: bool
) -> Callable[[Any, Any], dict[str, Array]]:
    """Returns (variables, {"image": (B, H, W, 3) uint8}) -> {"label", "probability" (B, top); with gradcam "heat" (B,
    H, W)}.

    One program: normalisation, network, made ready for inference or batch norm folded, and map.
    """
    ready = ready_apply(trained.model, trained.state.variables, trained.mesh.devices.size)
    normalized = normalizer(trained.normalization, trained.model.dtype)
    fold = trained.model.batch_norm != "folded"

    def predict_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        images = batch["image"]
        views = normalized(jnp.stack([images, images[:, :, ::-1]] if flip else [images], axis=1))  # (B, V, H, W, C)
        if gradcam:
            model, folded = fold_batch_norm(trained.model, variables) if fold else (trained.model, variables)
            logits, maps = explain(model, folded, views)
            heat = {"heat": jax.image.resize(maps, images.shape[:3], "bilinear")}
        else:
            logits, heat = ready(variables, views.reshape(-1, *views.shape[2:]), train=False), {}
            logits = logits.reshape(*views.shape[:2], -1).mean(axis=1)
        probabilities, labels = jax.lax.top_k(jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits), top)
        return {"label": labels, "probability": probabilities, **heat}

    whole, rows = replicated(trained.mesh), data_sharding(trained.mesh)
    return jax.jit(predict_step, in_shardings=(whole, rows), out_shardings=rows)
