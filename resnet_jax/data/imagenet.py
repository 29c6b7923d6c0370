"""ImageNet as it lies on disks: validation images in one folder, whose labels TFDS's list says."""

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np

from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing
from resnet_jax.errors import UserError

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_WORDNET_ID = re.compile(r"n\d{8}")
NUM_VALIDATION = 50_000


def label_flat_validation(
    root: Path, listing: Listing, folder: str, classes: tuple[str, ...]
) -> tuple[LabelledFiles, str] | None:
    """Returns (ImageNet's validation images, labelled by TFDS's list of them; a note); None if the folder is another.

    Args:
      folder: the images', from the root.
      classes: WordNet ids, as the training images' folders or a model's classes are called.

    Raises:
      UserError: if these classes are not ImageNet's.
    """
    files = sorted(file for file in listing.files if not folder or file.path.startswith(f"{folder}/"))
    numbers = [_NAME.fullmatch(file.path.rpartition("/")[2]) for file in files]
    if not files or not all(numbers):
        return None
    listed = _validation_labels()
    chosen = [listed[int(number[1]) - 1] for number in numbers if number]
    unknown = {*chosen} - {*classes}
    if unknown:
        raise UserError(
            f"{root / folder} holds ImageNet's validation images, and the training images, or the model, lack "
            f"{len(unknown)} of their classes, such as {min(unknown)}: both must be whole"
        )
    positions = {name: i for i, name in enumerate(classes)}
    labels = np.array([positions[name] for name in chosen], np.int32)
    note = f"the {len(files):,} images in {folder or root} are labelled by ImageNet's list of them, which TFDS ships"
    return LabelledFiles(folder, classes, files, labels, listing.tars), note


def wordnet_ids(names: Iterable[str]) -> tuple[str, ...]:
    """Returns those of a model's class names that are called like WordNet's ids, n01440764."""
    return tuple(name for name in names if _WORDNET_ID.fullmatch(name))


def _validation_labels() -> list[str]:
    """Returns the WordNet ids of the 50,000 validation images, in the order of their numbers."""
    package = "tensorflow_datasets.datasets.imagenet2012"
    try:
        path = resources.files("tensorflow_datasets") / "datasets/imagenet2012/validation_labels.txt"
        labels = path.read_text().split()
    except (ModuleNotFoundError, OSError) as error:
        raise UserError(f"ImageNet's list of validation labels is in {package}, which is not there: {error}") from error
    if len(labels) != NUM_VALIDATION:
        raise UserError(f"{package} lists {len(labels)} validation labels instead of {NUM_VALIDATION}")
    return labels
