"""Data sets by name: `load_splits` returns the images and labels that batches are drawn from by index."""

import contextlib
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import numpy as np

from resnet_jax.data.batches import epoch_order
from resnet_jax.data.image_set import ImageSet
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.kept_pixels import MEMORY_LIMIT
from resnet_jax.data.labels import check_one_known_label, class_counts, stratified_share
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.other_formats import MODES
from resnet_jax.data.source import ArraySource, Source
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.tfds import records as tfds
from resnet_jax.data.tfds.builder import UnknownSetError, set_names
from resnet_jax.data.transforms.preprocess import Side, as_side, height_and_width
from resnet_jax.errors import UserError, check_choice, suggestion
from resnet_jax.storage.image_folder import local_folder

DIGITS_NAMES = tuple("0123456789")
# The held-out validation images are the same whatever the run's seed, so that runs can be compared.
VALIDATION_SEED = 0
SPLITS = ("train", "validation", "test")
MOST_CLASSES_NAMED = 5


@dataclass(frozen=True)
class Splits:
    """A data set's images; None for a split that it does not have.

    Attributes:
      has_own_validation: the validation images are a split of the set, not held out of its training images.
      layout: of a folder, how it was understood (`ImageSet.describe`).
    """

    train: Source
    validation: Source | None
    test: Source | None
    has_own_validation: bool = False
    layout: dict[str, Any] = field(default_factory=dict)


def load_digits(split: str, num_channels: int = 3) -> ArraySource:
    """Returns the 1,797 handwritten 8x8 digits of scikit-learn's load_digits, shipped with the package.

    "test" is every fifth image (360), "train" the others (1,437). Grey levels 0 to 16 become 0 to 255, in one channel,
    three equal ones, or these and an opaque fourth.

    Raises:
      UserError: for another number of channels.
    """
    _check_channels("digits", num_channels)
    with resources.files("resnet_jax.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int32)
    grey = np.round(images * (255.0 / 16.0)).astype(np.uint8)
    held_out = np.arange(len(labels)) % 5 == 0
    chosen = held_out if split == "test" else ~held_out
    images = np.repeat(grey[chosen][..., None], min(num_channels, 3), axis=-1)
    if num_channels == 4:
        images = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
    return ArraySource(images, labels[chosen], DIGITS_NAMES)


def load_splits(
    name: str, reading: DatasetOptions, validation_fraction: float = 0.0, validation_split: str = "random"
) -> Splits:
    """Returns the images of a data set: "digits", "folder", or any image classification set of TFDS.

    Args:
      validation_fraction: of the training images held out for validation, if the set has no validation images itself.
      validation_split: how those are chosen, as `hold_out` takes it.

    Raises:
      UserError: for an unknown name, an impossible size, and data that cannot be had.
    """
    if name == "folder":
        found = _open(reading)
        layout = found.describe()
        if not found.splits:
            train, validation = hold_out(reading.source(found.images()), validation_fraction, validation_split)
            return Splits(train, validation, None, layout=layout)
        sources: dict[str, Source] = {}
        names: tuple[str, ...] | None = None
        for split in found.splits:
            sources[split] = reading.source(found.images(split, class_names=names))
            names = sources[split].class_names
    else:
        sources, layout = {}, {}
        for split in split_names(name, reading):
            with contextlib.suppress(tfds.NoLabelsError):  # ImageNet's test images are no use here
                sources[split] = load_source(name, split, reading)
    if "train" not in sources:
        raise UserError(f"{_where(name, reading)} has no training images: its splits are {', '.join(sources)}")
    if "validation" in sources:
        validation, test = sources["validation"], sources.get("test")
        return Splits(sources["train"], validation, test, has_own_validation=True, layout=layout)
    train, validation = hold_out(sources["train"], validation_fraction, validation_split)
    return Splits(train, validation, sources.get("test"), layout=layout)


def split_names(name: str, reading: DatasetOptions | None = None) -> tuple[str, ...]:
    """Returns which of "train", "validation" and "test" a data set has."""
    reading = reading or DatasetOptions()
    if name == "digits":
        return "train", "test"
    if name == "folder":
        return tuple(_open(reading).splits)
    try:
        stored = tfds.split_names(name, reading.data_dir)
        return tuple(split for split in SPLITS if tfds.stored_name(split, stored) in stored)
    except UnknownSetError as error:
        near = suggestion(name.lower(), ("digits", "folder", *set_names()))
        raise UserError(f"dataset={name!r} must be one of digits, folder and the sets of TFDS{near}") from error


def load_source(name: str, split: str, reading: DatasetOptions | None = None) -> Source:
    """Returns the named data set's images of one split: of "digits" or a set of TFDS.

    Raises as `load_splits` does.
    """
    reading = reading or DatasetOptions()
    if name == "digits":
        check_choice("split", split, split_names(name))
        source = replace(load_digits(split, reading.decode.channels), threads=reading.threads)
    elif name == "folder":
        found = _open(reading)
        check_choice("split", split, found.splits)
        names = found.images("train").class_names if "train" in found.splits else None
        return reading.source(found.images(split, class_names=names))
    else:
        records = tfds.open_records(name, split, reading.data_dir)
        shape = records.fixed_shape
        if shape is None or len(records) * int(np.prod(shape)) > MEMORY_LIMIT:
            return reading.source(records)
        _check_channels(name, reading.decode.channels)
        arrays = tfds.load_arrays(name, split, reading.data_dir, MODES[reading.decode.channels])
        source = ArraySource(*arrays, threads=reading.threads)
        _check_labels(name, source)
    return _enlarge(name, source, reading.image_size)


def hold_out(source: Source, fraction: float, split: str = "random") -> tuple[Source, Source | None]:
    """Returns `source` split into (training, validation) images; validation is None if `fraction` is 0.

    Args:
      split: "random": a fixed permutation decides, so the held-out images depend on `fraction` and the number of images
        alone. "stratified": of each class so many as `stratified_quotas` says, the first of that permutation.

    Raises:
      UserError: if fraction is outside [0, 1) or would leave either side empty, and for a stratified split of images
        whose labels are not known, or that have several.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"validation_fraction={fraction} must be in [0, 1)")
    if fraction == 0.0:
        return source, None
    num_held_out = round(len(source) * fraction)
    if not 0 < num_held_out < len(source):
        raise UserError(f"validation_fraction={fraction} of {len(source)} images leaves training or validation empty")
    order = epoch_order(VALIDATION_SEED, 0, len(source))
    if split == "stratified":
        option = "config.validation_split='stratified'"
        labels = check_one_known_label(option, source.labels, "use 'random'")
        held_out = stratified_share(labels, source.num_classes, fraction, order)
        if not held_out.any():
            raise UserError(f"{option} of {len(source)} images holds none out: each class keeps one for training")
        return source.take(np.flatnonzero(~held_out)), source.take(np.flatnonzero(held_out))
    return source.take(np.sort(order[num_held_out:])), source.take(np.sort(order[:num_held_out]))


def missing_classes(train: Source, validation: Source | None, *, held_out: bool) -> list[str]:
    """Returns a line for each of the two in which some class has no image, which names them; [] if all classes have.

    It ignores a source whose labels are known only by reading its images, as with TFDS.

    Args:
      held_out: the validation images are a fraction of the training images.
    """
    advice = "add images, or choose another config.validation_fraction" if held_out else "add images"
    if held_out and not train.multi_label:
        advice = f"{advice} or config.validation_split='stratified'"
    lines = []
    for split, source in (("training", train), ("validation", validation)):
        if source is None or source.labels is None:
            continue
        counts = class_counts(source.labels, source.num_classes)
        if counts.all():
            continue
        names = [name for name, count in zip(source.class_names, counts, strict=True) if not count]
        some = ", ".join(names[:MOST_CLASSES_NAMED]) + (", …" if len(names) > MOST_CLASSES_NAMED else "")
        lines.append(f"no {split} image of {len(names)} of the {source.num_classes} classes ({some}): {advice}")
    return lines


def _check_channels(name: str, num_channels: int) -> None:
    if num_channels not in MODES:
        raise UserError(
            f"config.channels={num_channels} must be 1, 3 or 4 for the images of {name}: others are .npy files in a "
            "folder"
        )


def _check_labels(name: str, source: ArraySource) -> None:
    low, high = int(source.labels.min()), int(source.labels.max())
    if low < 0 or high >= source.num_classes:
        raise UserError(f"dataset={name!r} has labels from {low} to {high} but {source.num_classes} classes")


def _enlarge(name: str, source: ArraySource, image_size: Side) -> ArraySource:
    own_size = source.images.shape[1:3]
    size = height_and_width(image_size) if image_size else own_size
    if size == own_size:
        return source
    if any(side < own or side % own for side, own in zip(size, own_size, strict=True)):
        own_side = as_side(*own_size)
        raise UserError(f"image_size={image_size} must be a multiple of {own_side}, the size of {name}'s images")
    down, across = size[0] // own_size[0], size[1] // own_size[1]
    return replace(source, images=source.images.repeat(down, axis=1).repeat(across, axis=2))


def _open(reading: DatasetOptions) -> ImageSet:
    if not reading.data_dir:
        raise UserError("dataset='folder' needs data_dir, the folder of the class folders or of train/ and val/")
    found = open_image_set(local_folder(reading.data_dir), reading.split_folders, reading.table)
    _check_table_is_read(found, reading.table)
    reading.bad_images.root = str(found.root)
    return found


def _check_table_is_read(found: ImageSet, table: TableOptions) -> None:
    """Raises UserError if options of a table are given and the set's folders are its classes."""
    given = [f"config.table.{name}={value!r}" for name, value in table.of_columns().items() if value]
    if given and not found.has_table:
        raise UserError(
            f"{given[0]} has no effect: the folders in {found.root} are the classes; name the table as well "
            f"(config.table.file), or leave out {given[0].partition('=')[0]}"
        )


def _where(name: str, reading: DatasetOptions) -> str:
    return reading.data_dir if name == "folder" else name
