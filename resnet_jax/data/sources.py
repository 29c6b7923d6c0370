"""Data sets by name: `load_source` returns images and labels that batches are drawn from by index."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from resnet_jax.data import tfds
from resnet_jax.data.batches import epoch_order
from resnet_jax.errors import UserError, choose

DIGITS_NAMES = tuple("0123456789")
# The held-out validation images are the same whatever the run's seed, so that runs can be compared.
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Source:
    """Labelled images in memory: images (N, H, W, 3) uint8, labels (N,) int32 in [0, num_classes)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""
        return len(self.class_names)

    def take(self, indices: np.ndarray) -> "Source":
        """The images at `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def load_digits(split: str, data_dir: str) -> Source:
    """The 1,797 handwritten 8x8 digits of scikit-learn's load_digits, shipped with the package.

    "test" is every fifth image (360), "train" the others (1,437). Grey levels 0 to 16 become 0 to 255, in three equal
    channels. `data_dir` is not used.
    """
    del data_dir
    with resources.files("resnet_jax.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int32)
    grey = np.round(images * (255.0 / 16.0)).astype(np.uint8)
    held_out = np.arange(len(labels)) % 5 == 0
    chosen = held_out if split == "test" else ~held_out
    return Source(np.repeat(grey[chosen][..., None], 3, axis=-1), labels[chosen], DIGITS_NAMES)


def load_cifar10(split: str, data_dir: str) -> Source:
    """CIFAR-10 (Krizhevsky 2009) through TFDS: 50,000 and 10,000 images of 32x32, prepared on first use."""
    return Source(*tfds.load_arrays("cifar10", split, data_dir))


def load_cifar100(split: str, data_dir: str) -> Source:
    """CIFAR-100 (Krizhevsky 2009) through TFDS: 50,000 and 10,000 images of 32x32, prepared on first use."""
    return Source(*tfds.load_arrays("cifar100", split, data_dir))


SOURCES: dict[str, Callable[[str, str], Source]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}


def load_source(name: str, split: str, *, data_dir: str = "", image_size: int = 0) -> Source:
    """The named data set's "train" or "test" images.

    data_dir: where TFDS keeps prepared data sets; "" is TFDS's own default, ~/tensorflow_datasets.
    image_size: the side in pixels wanted, a multiple of the images' own, to which each pixel is repeated; 0 keeps it.
    Raises UserError (a ValueError) for an unknown name or split, an impossible size, and data that cannot be had.
    """
    choose("dataset", name, SOURCES)
    choose("split", split, ("train", "test"))
    source = SOURCES[name](split, str(Path(data_dir).expanduser()) if data_dir else "")
    _check_labels(name, source)
    return _enlarge(name, source, image_size)


def hold_out(source: Source, fraction: float) -> tuple[Source, Source | None]:
    """`source` split into (training, validation) images; validation is None if `fraction` is 0.

    A fixed permutation decides, so the held-out images depend on `fraction` and the number of images alone.
    Raises UserError (a ValueError) if fraction is outside [0, 1) or would leave either side empty.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"validation_fraction={fraction} must be in [0, 1)")
    if fraction == 0.0:
        return source, None
    num_held_out = round(len(source) * fraction)
    if not 0 < num_held_out < len(source):
        raise UserError(f"validation_fraction={fraction} of {len(source)} images leaves training or validation empty")
    order = epoch_order(VALIDATION_SEED, 0, len(source))
    return source.take(np.sort(order[num_held_out:])), source.take(np.sort(order[:num_held_out]))


def _check_labels(name: str, source: Source) -> None:
    low, high = int(source.labels.min()), int(source.labels.max())
    if low < 0 or high >= source.num_classes:
        raise UserError(f"dataset={name!r} has labels from {low} to {high} but {source.num_classes} classes")


def _enlarge(name: str, source: Source, image_size: int) -> Source:
    own_size = source.images.shape[1]
    if image_size in (0, own_size):
        return source
    if image_size < own_size or image_size % own_size:
        raise UserError(f"image_size={image_size} must be a multiple of {own_size}, the size of {name}'s images")
    factor = image_size // own_size
    return replace(source, images=source.images.repeat(factor, axis=1).repeat(factor, axis=2))
