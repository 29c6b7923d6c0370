"""Prepares images before the network sees them: on the host, and in `jit`."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from resnet_jax.data.batches import BatchOptions
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.labels import balanced_class_weights
from resnet_jax.data.options import DatasetOptions, ImageOptions
from resnet_jax.data.source import ArraySource, Source
from resnet_jax.data.sources import Splits, load_source, load_splits, split_names
from resnet_jax.data.tfds.records import NoLabelsError
from resnet_jax.data.transforms.augment import (
    alternating_flips,
    augment,
    batch_key,
    cutout,
    erase,
    image_keys,
    mix,
    normalize,
)
from resnet_jax.data.transforms.policies import POLICIES, ColorJitter
from resnet_jax.data.transforms.preprocess import Preprocess, height_and_width
from resnet_jax.data.transforms.training import Operation, RandomResizedCrop, TrainingTransform
from resnet_jax.errors import UserError, check_choice, truncate
from resnet_jax.training.augment_options import AugmentOptions

Array = jax.Array


@dataclass(frozen=True)
class Normalization:
    """mean and std of the images in units of [0, 1], (C,) or (H, W, C) float64."""

    mean: np.ndarray
    std: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Returns it as lists, for a checkpoint's position."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Normalization":
        """Returns the normalisation from the result of `to_json`."""
        return cls(np.asarray(values["mean"]), np.asarray(values["std"]))


def load_judging_images(options: ImageOptions, reading: DatasetOptions) -> tuple[Source, str, Source | None]:
    """Returns the images that evaluate a run, their split, "test", or "validation" where there is none, and the
    training images out of which these are held, if they are.

    Raises:
      UserError: if the data set has neither.
    """
    names = split_names(options.dataset, reading)
    source: Source | None = None
    train: Source | None = None
    split = "test"
    if split in names:
        with contextlib.suppress(NoLabelsError):
            source = load_source(options.dataset, split, reading)
    if source is None:
        split = "validation"
        if split in names:
            source = load_source(options.dataset, split, reading)
        else:
            splits = load_splits(options.dataset, reading, options.validation_fraction, options.validation_split)
            train, source = splits.train, splits.validation
    if source is None:
        raise UserError(f"{options.dataset} has neither test nor validation images: name some with --data")
    check_classes(options, source)
    return source, split, train


def check_classes(options: ImageOptions, source: Source) -> None:
    """Raises UserError (a ValueError) unless `source` has as many classes as the options say."""
    if options.num_classes not in (0, source.num_classes):
        raise UserError(
            f"config.num_classes={options.num_classes} must be {source.num_classes}, the classes of "
            f"{options.dataset}, or 0 to take them from there"
        )


def check_labels(loss: str, splits: Splits) -> None:
    """Raises UserError (a ValueError) unless the splits' labels fit together, and the loss them.

    Args:
      loss: config.loss.
    """
    train = splits.train
    if train.multi_label and loss != "sigmoid":
        raise UserError(
            f"config.loss={loss!r} must be 'sigmoid' where an image may have several of {train.num_classes} labels: "
            "set --config.loss=sigmoid"
        )
    for split, source in (("validation", splits.validation), ("test", splits.test)):
        if source is None:
            continue
        if source.multi_label != train.multi_label:
            one, other = ("several labels", "one label") if train.multi_label else ("one label", "several labels")
            raise UserError(f"the training images have {one} each and the {split} images {other}: label them alike")
        if source.multi_label and source.labels is not None and not source.labels.any():
            raise UserError(
                f"not one {split} image has a label, and average precision needs some: choose others, or another "
                "config.validation_fraction"
            )


def make_class_weights(choice: str | tuple[float, ...], train: Source) -> tuple[float, ...]:
    """Returns config.class_weights as a number a class, of the training images; () for "none".

    Raises:
      UserError: for another number of them than classes, and if "balanced" cannot be computed.
    """
    if choice == "none":
        return ()
    if isinstance(choice, str):
        if train.labels is None:
            raise UserError(
                "config.class_weights='balanced' needs labels that are known before images are read, as a folder's, a "
                "table's or those of a set in memory: give numbers"
            )
        return balanced_class_weights(train.labels, train.class_names)
    if len(choice) != train.num_classes:
        raise UserError(
            f"config.class_weights={truncate(choice)} must be {train.num_classes} numbers, one a class, and are "
            f"{len(choice)}"
        )
    return tuple(map(float, choice))


def make_transform(
    options: AugmentOptions, images: ImageOptions, otherwise: Preprocess | None = None
) -> TrainingTransform | None:
    """Returns the host's transform of a training image; None if it does nothing beyond evaluation's.

    Args:
      otherwise: how an image is cropped if not at random; of encoded images.

    Raises:
      UserError: for options out of range.
    """
    try:
        _check_colors(options, images.channels)
        operations = _make_operations(options)
        size = options.crop_size or images.crop
        interpolation = images.interpolation if options.random_resized_crop else "bilinear"
        crop = RandomResizedCrop(
            size,
            options.crop_scale,
            options.crop_ratio,
            options.resampler,
            interpolation,
            options.antialias,
            images.channels,
        )
    except UserError as error:
        raise UserError(f"config.augment: {error}") from error
    if options.random_resized_crop:
        return TrainingTransform(crop, operations, otherwise if images.fit != "crop" else None)
    return TrainingTransform(otherwise, operations) if operations else None


def _check_colors(options: AugmentOptions, num_channels: int) -> None:
    """Raises UserError for operations on colours that images of so many channels do not have."""
    brightness, contrast, saturation, hue = options.color_jitter
    if num_channels == 1 and (saturation or hue):
        raise UserError(
            f"color_jitter={options.color_jitter} must have no saturation and no hue with config.channels=1: grey "
            f"images have neither; set --config.augment.color_jitter=({brightness}, {contrast}, 0.0, 0.0)"
        )
    if num_channels not in (1, 3) and any(options.color_jitter):
        raise UserError(
            f"color_jitter={options.color_jitter} must be zeros with config.channels={num_channels}: it is of grey and "
            "of RGB images"
        )
    if num_channels != 3 and options.policy != "none":
        raise UserError(
            f"policy={options.policy!r} must be 'none' with config.channels={num_channels}: policies are of RGB images"
        )


def _make_operations(options: AugmentOptions) -> tuple[Operation, ...]:
    operations: list[Operation] = []
    if any(options.color_jitter):
        operations.append(ColorJitter(*options.color_jitter))
    check_choice("policy", options.policy, ("none", *POLICIES))
    if options.policy in ("randaugment", "randaugment_increasing"):
        magnitude = options.policy_magnitude
        if options.policy == "randaugment":
            if magnitude % 1:
                raise UserError(f"policy_magnitude={magnitude} must be a whole number for randaugment")
            magnitude = int(magnitude)
        operations.append(POLICIES[options.policy](num_ops=options.policy_num_ops, magnitude=magnitude))
    elif options.policy != "none":
        operations.append(POLICIES[options.policy]())
    return tuple(operations)


def check_options(options: AugmentOptions, images: ImageOptions, batches: BatchOptions, train: Source) -> None:
    """Raises UserError (a ValueError) for options that the training images do not allow."""
    if options.random_resized_crop:
        side = min(height_and_width(options.crop_size or images.crop))
    else:
        side = min(train.image_shape[:2])
    if options.crop_padding_mode == "reflect" and options.crop_padding >= side:
        raise UserError(f"config.augment.crop_padding={options.crop_padding} must be less than the image size, {side}")
    if options.cutout_size > side:
        raise UserError(f"config.augment.cutout_size={options.cutout_size} must be at most the image size, {side}")
    if batches.repeated_augmentation > batches.batch_size:
        raise UserError(
            f"config.repeated_augmentation={batches.repeated_augmentation} must be at most the batch size, "
            f"{batches.batch_size}"
        )
    mixes, part = bool(options.mixup or options.cutmix), batches.part_size
    if mixes and part <= batches.repeated_augmentation:
        raise UserError(
            f"config.augment.mixup and cutmix need more images at a time than config.repeated_augmentation="
            f"{batches.repeated_augmentation}, and there are {part}: each would be mixed with itself"
        )
    if not isinstance(train, EncodedSource):
        return
    if images.normalize == "pixel":
        raise UserError("config.normalize='pixel' needs a set of small images of one size: use 'channel'")
    if images.resize and images.resize < max(height_and_width(images.crop)):
        raise UserError(f"config.resize={images.resize} must be at least the crop, {images.crop}")


def make_normalization(options: ImageOptions, train: Source) -> Normalization:
    """Returns the options' mean, or the mean image of `train`, and their std."""
    mean, std = (np.asarray(values) for values in options.statistics())
    if options.normalize == "pixel":
        assert isinstance(train, ArraySource)
        return Normalization(train.images.mean(axis=0, dtype=np.float64) / 255.0, std)
    return Normalization(mean, std)


def normalizer(normalization: Normalization, dtype: str) -> Callable[[Array], Array]:
    """Returns the function that normalises images: to float64 for a float64 model, else to float32."""
    image_dtype = "float64" if dtype == "float64" else "float32"
    return lambda images: normalize(images, normalization.mean, normalization.std, image_dtype)


def augmenter(
    options: AugmentOptions, batches: BatchOptions, normalization: Normalization, num_classes: int, dtype: str
) -> Callable[[dict[str, Array], Array], dict[str, Array]]:
    """Returns (batch of `TrainBatches`, step) -> batch of `train_step`: the augmentation inside `jit`."""
    seed, normalized = batches.seed, normalizer(normalization, dtype)
    # Elsewhere an epoch does not take each image once, and its number says nothing of one.
    takes_each_once = batches.sampling == "shuffle" and batches.repeated_augmentation == 1
    alternates = options.flip_alternates and takes_each_once

    def prepare(batch: dict[str, Array], step: Array) -> dict[str, Array]:
        keys = image_keys(seed, batch["epoch"], batch["sample"])
        images = augment(
            keys,
            batch["image"],
            crop_padding=options.crop_padding,
            crop_padding_mode=options.crop_padding_mode,
            flip=options.flip,
            flips=alternating_flips(seed, batch["epoch"], batch["sample"]) if alternates else None,
        )
        images, labels = normalized(images), batch["label"]
        if labels.ndim == 2:  # several an image, 0 or 1 each
            labels = labels.astype(images.dtype)
        if options.cutout_size:
            images = cutout(keys, images, options.cutout_size)
        if options.random_erasing:
            images = erase(keys, images, options.random_erasing)
        if options.mixup or options.cutmix:
            targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes, dtype=images.dtype)
            # Repetitions of an image are neighbours: so many places before it is another one.
            distance = batches.repeated_augmentation
            images, labels = mix(batch_key(seed, step), images, targets, options.mixup, options.cutmix, distance)
        return {"image": images, "label": labels}

    return prepare
