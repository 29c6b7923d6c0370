"""Encoded images by index, decoded by threads when a batch asks for them; bad ones raise, or are counted.

Small sets are decoded once: `KeptPixels` says which.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from resnet_jax.data.bad_images import NO_GOOD_IMAGE, BadImages
from resnet_jax.data.decodable_image import ArrayImage, DecodableImage
from resnet_jax.data.decoding import BadImageError, DecodeOptions, EncodedImage
from resnet_jax.data.digest import digest_of
from resnet_jax.data.kept_pixels import KeptPixels, Label
from resnet_jax.data.labels import check_multi_label, is_multi_label
from resnet_jax.data.source import Examples, Keys, Transform
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.preprocess import Preparation
from resnet_jax.errors import UserError


class EncodedImages(Protocol):
    """Where encoded images lie: in files, in tars, in TFDS's records.

    Several threads read at once.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int32, or (N, K) uint8 if an image may have several; None if only reading an image gives its label."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, Label]:
        """Returns an image's bytes and its label; of several, the row of `labels`."""

    def name(self, index: int) -> str:
        """Returns its name for messages."""

    def digest(self) -> str:
        """Returns a hash that identifies these images: of their names and labels, as far as these are known."""


@dataclass(frozen=True)
class EncodedSource:
    """Encoded images, decoded when they are asked for.

    Attributes:
      encoded: where they lie, of which `indices` (N,) are these.
      preprocess: how evaluation prepares them, to one size.
      transform: training applies it; None: as evaluation. apply_exif_orientation: rotate as EXIF says.
      class_names: the labels' names; `relabel` (K,) int32 maps stored labels to these, for one label an image.
      decode: how files become pixels.
    """

    encoded: EncodedImages
    indices: np.ndarray
    class_names: tuple[str, ...]
    preprocess: Preparation
    threads: DecodeThreads
    bad_images: BadImages
    transform: Transform | None = None
    apply_exif_orientation: bool = False
    relabel: np.ndarray | None = None
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    intact: np.ndarray = field(init=False, repr=False)  # of `encoded`: which have been decoded as a whole
    kept_training: KeptPixels = field(init=False, repr=False)
    kept_evaluation: KeptPixels = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "intact", np.zeros(len(self.encoded), bool))
        object.__setattr__(self, "kept_training", KeptPixels(len(self)))
        object.__setattr__(self, "kept_evaluation", KeptPixels(len(self)))
        check_multi_label(self.encoded.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""
        return len(self.class_names)

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Does as `Source.labels`."""
        stored = self.encoded.labels
        if stored is None:
            return None
        chosen = stored[self.indices]
        return chosen if self.relabel is None else self.relabel[chosen]

    @property
    def multi_label(self) -> bool:
        """True if an image has any number of labels."""
        return is_multi_label(self.encoded.labels)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of evaluation's images; if nothing is cropped, it decodes the first good image."""
        if self.preprocess.image_shape is not None:
            return self.preprocess.image_shape
        for position in range(len(self)):
            try:
                return self._decode(position, None)[0].shape
            except BadImageError as error:
                self.bad_images.take(error)
        raise UserError(NO_GOOD_IMAGE)

    def read(self, indices: np.ndarray, keys: Keys | None = None) -> Examples:
        """Does as `Source.read`.

        In training the next good image takes the place of one that cannot be decoded; in evaluation that one is not
        valid.

        Raises:
          UserError: naming the image, when that happens more often than `bad_images` allows, and where images that
            are not cropped differ in size.
        """
        if keys is not None:
            shape = (self.transform and self.transform.image_shape) or self.image_shape
            return self._fill(
                indices,
                shape,
                lambda i: self._transformed(int(indices[i]), KeyedRandom(keys.seed, keys.epoch, int(keys.samples[i]))),
            )
        # Evaluation fills its last batch up with one image, again and again.
        wanted, inverse = np.unique(indices, return_inverse=True)
        examples = self._fill(wanted, self.image_shape, lambda i: self._prepared(int(wanted[i])))
        return Examples(*(part[inverse] for part in examples))

    def take(self, indices: np.ndarray) -> Self:
        """Does as `Source.take`."""
        return replace(self, indices=self.indices[indices])

    def transformed(self, transform: Transform | None) -> Self:
        """Does as `Source.transformed`."""
        return replace(self, transform=transform)

    def digest(self) -> str:
        """Does as `Source.digest`."""
        return digest_of(self.encoded.digest(), *self.class_names, self.indices.tobytes())

    def name(self, position: int) -> str:
        """Returns the image's name for messages."""
        return self.encoded.name(int(self.indices[position]))

    def _fill(
        self, positions: np.ndarray, shape: tuple[int, ...], make: Callable[[int], tuple[np.ndarray, Label] | None]
    ) -> Examples:
        """Returns the images and labels that make(i) returns for each of `positions`; those with None are not valid."""
        count = len(positions)
        labels = np.zeros((count, self.num_classes), np.uint8) if self.multi_label else np.zeros(count, np.int32)
        examples = Examples(np.zeros((count, *shape), np.uint8), labels, np.zeros(count, bool))

        def fill(i: int) -> None:
            made = make(i)
            if made is None:
                return
            image, examples.label[i] = made
            if image.shape != shape:
                raise self._other_size(int(positions[i]), image.shape, shape)
            examples.image[i], examples.valid[i] = image, True

        self.threads.for_each(fill, count)
        return examples

    def _prepared(self, position: int) -> tuple[np.ndarray, Label] | None:
        """Returns the image for evaluation and its label; None if it is bad."""
        try:
            return self._decode(position, None)
        except BadImageError as error:
            self.bad_images.take(error)
            return None

    def _transformed(self, position: int, rng: KeyedRandom) -> tuple[np.ndarray, Label]:
        """Returns the image for training, or the next good one's, and its label."""
        for following in range(len(self)):
            try:
                return self._decode((position + following) % len(self), rng)
            except BadImageError as error:
                self.bad_images.take(error)
        raise UserError(NO_GOOD_IMAGE)

    def _decode(self, position: int, rng: KeyedRandom | None) -> tuple[np.ndarray, Label]:
        """Returns the image for training, if `rng` draws for it, or for evaluation, and its label."""
        kept = self.kept_evaluation if rng is None else self.kept_training
        if (found := kept.get(position)) is not None:
            fixed, label = found
            return self._drawn(ArrayImage(fixed), rng), label
        image, label = self._open(position)
        made = self._fixed(image, rng)
        if made is not None and (rng is not None or image.intact):  # most evaluations read each image but once
            kept.put(position, made, label)
        pixels = self._drawn(image if made is None else ArrayImage(made), rng)
        self.intact[self.indices[position]] = True
        return pixels, label

    def _fixed(self, image: EncodedImage, rng: KeyedRandom | None) -> np.ndarray | None:
        """Returns what the image is before anything is drawn for it; None if it is drawn which part is decoded."""
        if rng is None or self.transform is None:
            return self.preprocess.pixels(image.pixels())
        return self.transform.fixed(image)

    def _drawn(self, image: DecodableImage, rng: KeyedRandom | None) -> np.ndarray:
        return image.pixels() if rng is None or self.transform is None else self.transform.drawn(image, rng)

    def _open(self, position: int) -> tuple[EncodedImage, Label]:
        """Returns the image, to be decoded, and its label."""
        index = int(self.indices[position])
        data, label = self.encoded.read(index)
        image = EncodedImage(
            data,
            lambda: self.name(position),
            options=self.decode,
            apply_exif_orientation=self.apply_exif_orientation,
        )
        image.intact = bool(self.intact[index])
        if not self.apply_exif_orientation and image.orientation != 1:
            self.bad_images.warn_exif_rotation(image.name)
        return image, label if self.relabel is None else int(self.relabel[label])

    def _other_size(self, position: int, shape: tuple[int, ...], expected: tuple[int, ...]) -> UserError:
        (height, width), (first_height, first_width) = shape[:2], expected[:2]
        return UserError(
            f"{self.name(position)} has {width}x{height} pixels and {self.name(0)} {first_width}x{first_height}: "
            "images of different sizes need a crop"
        )
