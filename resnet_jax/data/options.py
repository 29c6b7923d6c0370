"""How images are read, whatever the set: a run's options, and what the readers take of them."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.decoding import DecodeOptions
from resnet_jax.data.encoded import EncodedImages, EncodedSource
from resnet_jax.data.high_bit_depth import HIGH_BIT_DEPTH
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.preprocess import (
    FITS,
    PREPROCESS,
    Preparation,
    Preprocess,
    Side,
    as_side,
    height_and_width,
)
from resnet_jax.errors import UserError
from resnet_jax.ranges import (
    FRACTION,
    IMAGE_SIZE,
    NOT_NEGATIVE,
    ONE_OR_MORE_NUMBERS,
    POSITIVE,
    POSITIVE_NUMBERS,
    OneOf,
    at_most,
)

VALIDATION_SPLITS = ("random", "stratified")
CROP = 224  # of encoded images, where the options leave it open
MOST_CHANNELS = 1024
RESIZE_BY_CROP = 256 / 224


@dataclass(frozen=True)
class DatasetOptions:
    """How images are read, whatever the set.

    Attributes:
      data_dir: the folder of the images, or the folder in which TFDS keeps its sets; "" is TFDS's own default,
        ~/tensorflow_datasets.
      image_size: of images in memory, the side in pixels wanted, or (height, width): multiples of their size, to
        which each pixel is repeated; 0 keeps them.
      preprocess: how evaluation prepares encoded images. apply_exif_orientation: rotate these as EXIF says. threads
        decode; bad_images says how many may be damaged.
      split_folders, table: of a folder, which of its folders are the splits, and which table says the labels.
      decode: how encoded images become pixels.
    """

    data_dir: str = ""
    image_size: Side = 0
    preprocess: Preparation = PREPROCESS["IMAGENET1K_V1"]
    apply_exif_orientation: bool = False
    threads: DecodeThreads = field(default_factory=DecodeThreads)
    bad_images: BadImages = field(default_factory=BadImages)
    split_folders: SplitFolders = field(default_factory=SplitFolders)
    table: TableOptions = field(default_factory=TableOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)

    def source(self, encoded: EncodedImages) -> EncodedSource:
        """Returns all of `encoded`, read so."""
        return EncodedSource(
            encoded,
            np.arange(len(encoded)),
            encoded.class_names,
            self.preprocess,
            self.threads,
            self.bad_images,
            apply_exif_orientation=self.apply_exif_orientation,
            decode=self.decode,
        )


@dataclass(frozen=True)
class ImageOptions:
    """Which images a run has, how they are read, and how they are normalised."""

    dataset: str
    data_dir: str
    num_classes: Annotated[int, NOT_NEGATIVE]  # 0: as many as the data set has
    image_size: Annotated[int | tuple[int, int], IMAGE_SIZE]  # 0: as they are, or CROP
    fit: Annotated[str, OneOf(FITS)]
    resize: Annotated[int, NOT_NEGATIVE, at_most(8192)]
    interpolation: str
    channels: Annotated[int, POSITIVE, at_most(MOST_CHANNELS)]
    exif_rotation: bool
    high_bit_depth: Annotated[str, OneOf(HIGH_BIT_DEPTH)]
    max_pixels: Annotated[int, NOT_NEGATIVE]  # 0: without a limit
    max_bad_images: Annotated[int, NOT_NEGATIVE]
    decode_threads: Annotated[int, NOT_NEGATIVE, at_most(1024)]
    validation_fraction: Annotated[float, FRACTION]
    validation_split: Annotated[str, OneOf(VALIDATION_SPLITS)]
    normalize: Annotated[str, OneOf(("channel", "pixel"))]
    mean: Annotated[tuple[float, ...], ONE_OR_MORE_NUMBERS]
    std: Annotated[tuple[float, ...], ONE_OR_MORE_NUMBERS, POSITIVE_NUMBERS]

    @property
    def crop(self) -> Side:
        """The size in pixels to which evaluation brings encoded images: a side, or (height, width) if they differ."""
        return as_side(*height_and_width(self.image_size or CROP))

    def preprocess(self) -> Preprocess:
        """Returns how evaluation prepares encoded images.

        Raises:
          UserError: if that is impossible.
        """
        crop = self.crop
        resize: Side | None = None
        if self.fit == "crop":
            resize = self.resize or _scaled(crop)
        return Preprocess(resize, crop, self.interpolation, *self.statistics(), self.fit, self.high_bit_depth)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and std of each channel; one number stands for all channels.

        Raises:
          UserError: for another number of them than there are channels, unless they have no effect.
        """
        mean = self._of_each_channel("mean") if self.normalize == "channel" else (0.0,) * self.channels
        return mean, self._of_each_channel("std")

    def _of_each_channel(self, name: str) -> tuple[float, ...]:
        values = getattr(self, name)
        if len(values) not in (1, self.channels):
            raise UserError(
                f"config.{name}={values} must be {self.channels} numbers, one for each of config.channels="
                f"{self.channels}, or one for all: set --config.{name}=({values[0]},)"
            )
        return values if len(values) == self.channels else values * self.channels

    def decode(self) -> DecodeOptions:
        """Returns how encoded images become pixels."""
        return DecodeOptions(self.channels, high_bit_depth=self.high_bit_depth, max_pixels=self.max_pixels)

    def reading(self) -> DatasetOptions:
        """Returns how the images are read, with separate threads and a separate count of bad images."""
        return DatasetOptions(
            self.data_dir,
            self.image_size,
            self.preprocess(),
            self.exif_rotation,
            DecodeThreads(self.decode_threads),
            BadImages(self.max_bad_images),
            decode=self.decode(),
        )


def _scaled(crop: Side) -> Side:
    """Returns the size to which images are resized before a crop, where the options leave it open."""
    if isinstance(crop, tuple):
        return round(crop[0] * RESIZE_BY_CROP), round(crop[1] * RESIZE_BY_CROP)
    return round(crop * RESIZE_BY_CROP)
