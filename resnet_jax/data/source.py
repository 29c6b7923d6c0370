"""Labelled images by index, as batches are drawn from them: the protocol of a source, and images in memory."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol, Self

import numpy as np

from resnet_jax.data.decodable_image import ArrayImage, DecodableImage
from resnet_jax.data.digest import digest_of
from resnet_jax.data.labels import check_multi_label, is_multi_label
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.preprocess import Preparation


class Transform(Protocol):
    """Transforms a training image, by random choices that are keyed by the run, the epoch and the image."""

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(H, W, C) of the result; None: the image's own shape."""

    def __call__(self, image: DecodableImage, rng: KeyedRandom) -> np.ndarray:
        """Returns the training image."""

    def fixed(self, image: DecodableImage) -> np.ndarray | None:
        """Returns the image after all that comes first and is the same in every epoch; None if nothing is."""

    def drawn(self, image: DecodableImage, rng: KeyedRandom) -> np.ndarray:
        """Returns the training image of what `fixed` returned, or of the image where that is None."""


class Examples(NamedTuple):
    """Some images: image (n, H, W, 3) uint8, label (n,) int32, valid (n,) bool: False for one that is damaged.

    Of a source that is `multi_label` label is (n, K) uint8: 1 where the image has the label.
    """

    image: np.ndarray
    label: np.ndarray
    valid: np.ndarray


class Keys(NamedTuple):
    """The keys of the random choices for some images: a seed, an epoch, and sample numbers (n,)."""

    seed: int
    epoch: int
    samples: np.ndarray


class Source(Protocol):
    """Labelled images, by index."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""

    @property
    def labels(self) -> np.ndarray | None:
        """The images' labels in their order, as `read` gives them; None if only reading an image gives its label."""

    @property
    def multi_label(self) -> bool:
        """True if an image has any number of labels: `class_names` are theirs."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of the images of `read` in evaluation; (V, H, W, C) of V views."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, keys: Keys | None = None) -> Examples:
        """Returns those at `indices` (n,): transformed for training if there are keys, else prepared for evaluation."""

    def take(self, indices: np.ndarray) -> Self:
        """Returns the images at `indices`, in that order, as a source."""

    def transformed(self, transform: Transform | None) -> Self:
        """Returns the same images, transformed so in training."""

    def digest(self) -> str:
        """Returns a hash that identifies these images, their classes and their order."""


@dataclass(frozen=True)
class ArraySource:
    """Images in memory: images (N, H, W, C) uint8, labels (N,) int32 in [0, num_classes), or (N, K) uint8 of 0 and 1.

    Attributes:
      preprocess, transform: `read` applies them in evaluation and in training; None: nothing.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    preprocess: Preparation | None = None
    transform: Transform | None = None
    threads: DecodeThreads = field(default_factory=DecodeThreads)

    def __post_init__(self) -> None:
        check_multi_label(self.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """True if an image has any number of labels."""
        return is_multi_label(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""
        return len(self.class_names)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of evaluation's images."""
        return self._prepare(self.images[0]).shape

    def read(self, indices: np.ndarray, keys: Keys | None = None) -> Examples:
        """Does as `Source.read`."""
        images = self.images[indices]
        if keys is not None and self.transform is not None:
            transform, (seed, epoch, samples) = self.transform, keys

            def make(i: int) -> None:
                results[i] = transform(ArrayImage(images[i]), KeyedRandom(seed, epoch, int(samples[i])))

            results = np.empty((len(indices), *(transform.image_shape or images.shape[1:])), np.uint8)
            self.threads.for_each(make, len(indices))
            return Examples(results, self.labels[indices], np.ones(len(indices), bool))
        if keys is None and self.preprocess is not None:
            images = np.stack([self._prepare(image) for image in images])
        return Examples(images, self.labels[indices], np.ones(len(indices), bool))

    def take(self, indices: np.ndarray) -> Self:
        """Does as `Source.take`."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def transformed(self, transform: Transform | None) -> Self:
        """Does as `Source.transformed`."""
        return replace(self, transform=transform)

    def digest(self) -> str:
        """Does as `Source.digest`."""
        return digest_of(*self.class_names, self.labels.tobytes(), self.images[:: max(1, len(self) // 100)].tobytes())

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        return image if self.preprocess is None else self.preprocess.pixels(image)
