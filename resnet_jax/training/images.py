"""What a config says of images: which, how they are read, and what happens to them before the network sees them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.config import check_effects
from resnet_jax.data.encoded import BadImages, EncodedSource
from resnet_jax.data.source import ArraySource, Source
from resnet_jax.data.sources import DatasetOptions, Splits, load_source, load_splits, split_names
from resnet_jax.data.tfds.records import NoLabelsError
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.augment import augment, batch_key, cutout, erase, image_keys, mix, normalize
from resnet_jax.data.transforms.policies import POLICIES, ColorJitter
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.data.transforms.training import Operation, RandomResizedCrop, TrainingTransform
from resnet_jax.distributed.processes import warn_once
from resnet_jax.errors import UserError, check_choice
from resnet_jax.training.field_effects import KnownImages

Array = jax.Array

IMAGE_SIZE = 224  # of encoded images, where the config leaves it open
RESIZE_BY_CROP = 256 / 224


@dataclass(frozen=True)
class Normalization:
    """mean and std of the images in units of [0, 1], (C,) or (H, W, C) float64."""

    mean: np.ndarray
    std: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """As lists, for a checkpoint's position."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Normalization":
        """What `to_json` gave."""
        return cls(np.asarray(values["mean"]), np.asarray(values["std"]))


def make_dataset_options(config: ConfigDict) -> DatasetOptions:
    """How the config's images are read."""
    return DatasetOptions(
        config.data_dir,
        config.image_size,
        encoded_preprocess(config),
        config.exif_rotation,
        DecodeThreads(config.decode_threads),
        BadImages(config.max_bad_images),
    )


def encoded_preprocess(config: ConfigDict) -> Preprocess:
    """What evaluation makes of encoded images."""
    crop = config.image_size or IMAGE_SIZE
    resize = config.resize or round(crop * RESIZE_BY_CROP)
    return Preprocess(resize, crop, config.interpolation, config.mean, config.std)


def load_images(config: ConfigDict) -> Splits:
    """The config's images, those for training augmented on the host as it says; their classes as many as it says.

    Raises UserError (a ValueError) for a config that does not fit the data set.
    """
    make_transform(config)  # its own errors, before a data set is prepared for hours
    splits = load_splits(config.dataset, make_dataset_options(config), config.validation_fraction)
    _check_classes(config, splits.train)
    ineffective = check_effects(config, _known_images(splits))
    check_options(config, splits.train)
    if ineffective:
        warn_once(ineffective)
    whole = encoded_preprocess(config) if isinstance(splits.train, EncodedSource) else None
    return replace(splits, train=splits.train.transformed(make_transform(config, whole)))


def _known_images(splits: Splits) -> KnownImages:
    return KnownImages(
        encoded=isinstance(splits.train, EncodedSource),
        has_own_validation=splits.has_own_validation,
        has_validation=splits.validation is not None,
        has_test=splits.test is not None,
    )


def load_judging_images(config: ConfigDict, reading: DatasetOptions) -> tuple[Source, str]:
    """The images that a run is judged by, and their split: "test", or "validation" where there is none.

    Raises UserError (a ValueError) if the data set has neither.
    """
    names = split_names(config.dataset, config.data_dir)
    source: Source | None = None
    split = "test"
    if split in names:
        with contextlib.suppress(NoLabelsError):
            source = load_source(config.dataset, split, reading)
    if source is None:
        split = "validation"
        if split in names:
            source = load_source(config.dataset, split, reading)
        else:
            source = load_splits(config.dataset, reading, config.validation_fraction).validation
    if source is None:
        raise UserError(f"{config.dataset} has neither test nor validation images: name some with --data")
    _check_classes(config, source)
    return source, split


def _check_classes(config: ConfigDict, source: Source) -> None:
    if config.num_classes not in (0, source.num_classes):
        raise UserError(
            f"config.num_classes={config.num_classes} must be {source.num_classes}, the classes of "
            f"{config.dataset}, or 0 to take them from there"
        )


def augments(config: ConfigDict) -> bool:
    """Whether an image is another one each time it is trained on."""
    options = config.augment
    of_one = (options.crop_padding, options.flip, options.random_resized_crop, options.cutout_size)
    drawn = (*of_one, options.random_erasing, options.mixup, options.cutmix, *options.color_jitter)
    return any(drawn) or options.policy != "none"


def make_transform(config: ConfigDict, otherwise: Preprocess | None = None) -> TrainingTransform | None:
    """What the host does to a training image; None if nothing beyond what evaluation does.

    otherwise: how an image is cropped if not at random. Raises UserError (a ValueError) for options out of range.
    """
    options = config.augment
    try:
        operations = _make_operations(options)
        size = options.crop_size or config.image_size or IMAGE_SIZE
        interpolation = config.interpolation if options.random_resized_crop else "bilinear"
        crop = RandomResizedCrop(
            size, options.crop_scale, options.crop_ratio, options.resampler, interpolation, options.antialias
        )
    except UserError as error:
        raise UserError(f"config.augment: {error}") from error
    if options.random_resized_crop:
        return TrainingTransform(crop, operations)
    return TrainingTransform(otherwise, operations) if operations else None


def _make_operations(options: ConfigDict) -> tuple[Operation, ...]:
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


def check_options(config: ConfigDict, train: Source) -> None:
    """Raise UserError (a ValueError) for options that the training images do not allow."""
    options, side = config.augment, min(train.image_shape[:2])
    if options.random_resized_crop:
        side = options.crop_size or config.image_size or IMAGE_SIZE
    if options.crop_padding_mode == "reflect" and options.crop_padding >= side:
        raise UserError(f"config.augment.crop_padding={options.crop_padding} must be less than the image size, {side}")
    if options.cutout_size > side:
        raise UserError(f"config.augment.cutout_size={options.cutout_size} must be at most the image size, {side}")
    if config.repeated_augmentation > config.batch_size:
        raise UserError(
            f"config.repeated_augmentation={config.repeated_augmentation} must be at most the batch size, "
            f"{config.batch_size}"
        )
    if not isinstance(train, EncodedSource):
        return
    if config.normalize == "pixel":
        raise UserError("config.normalize='pixel' needs a set of small images of one size: use 'channel'")
    crop = config.image_size or IMAGE_SIZE
    if config.resize and config.resize < crop:
        raise UserError(f"config.resize={config.resize} must be at least the crop, {crop}")


def make_normalization(config: ConfigDict, train: Source) -> Normalization:
    """The config's, or the mean image of `train`."""
    std = np.asarray(config.std)
    if config.normalize == "pixel":
        assert isinstance(train, ArraySource)
        return Normalization(train.images.mean(axis=0, dtype=np.float64) / 255.0, std)
    return Normalization(np.asarray(config.mean), std)


def normalizer(normalization: Normalization, dtype: str) -> Callable[[Array], Array]:
    """Images are float64 for a float64 model and float32 for the others, which cast by themselves."""
    image_dtype = "float64" if dtype == "float64" else "float32"
    return lambda images: normalize(images, normalization.mean, normalization.std, image_dtype)


def augmenter(
    config: ConfigDict, normalization: Normalization, num_classes: int
) -> Callable[[dict[str, Array], Array], dict[str, Array]]:
    """(batch of `TrainBatches`, step) -> batch of `train_step`: what happens to images inside `jit`."""
    options, seed = config.augment, config.seed
    normalized = normalizer(normalization, config.dtype)

    def prepare(batch: dict[str, Array], step: Array) -> dict[str, Array]:
        keys = image_keys(seed, batch["epoch"], batch["sample"])
        images = augment(
            keys,
            batch["image"],
            crop_padding=options.crop_padding,
            crop_padding_mode=options.crop_padding_mode,
            flip=options.flip,
        )
        images, labels = normalized(images), batch["label"]
        if options.cutout_size:
            images = cutout(keys, images, options.cutout_size)
        if options.random_erasing:
            images = erase(keys, images, options.random_erasing)
        if options.mixup or options.cutmix:
            targets = jax.nn.one_hot(labels, num_classes, dtype=images.dtype)
            # Repetitions of an image are neighbours: so many places before it is another one.
            distance = config.repeated_augmentation
            images, labels = mix(batch_key(seed, step), images, targets, options.mixup, options.cutmix, distance)
        return {"image": images, "label": labels}

    return prepare
