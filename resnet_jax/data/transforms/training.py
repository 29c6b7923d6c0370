"""Transforms a training image on the host: a random-resized crop and a policy, drawn by the image's own key."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnet_jax.data.decodable_image import ArrayImage, Box, DecodableImage
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.pictures import to_pictures, to_pixels
from resnet_jax.data.transforms.preprocess import Preprocess, Side, height_and_width
from resnet_jax.data.transforms.resize import make_resize
from resnet_jax.errors import UserError

ATTEMPTS = 10

Operation = Callable[[Image.Image, KeyedRandom], Image.Image]


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of an image of random area and shape, resized (Szegedy et al. 2014, arXiv:1409.4842), as torchvision's.

    Attributes:
      size: of the result in pixels, one side or (height, width).
      scale: the part's share of the area, uniform between two numbers in (0, 1].
      ratio: its width by its height, uniform in the logarithm.
      resampler, interpolation, antialias: as in `make_resize`.
      num_channels: of the images.

    Raises:
      UserError: for values outside these.
    """

    size: Side
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resampler: str = "opencv"
    interpolation: str = "bilinear"
    antialias: bool = True
    num_channels: int = 3

    def __post_init__(self) -> None:
        if min(height_and_width(self.size)) < 1:
            raise UserError(f"crop size={self.size} must be at least 1 pixel")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"crop_scale={self.scale} must be two growing numbers in (0, 1]")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"crop_ratio={self.ratio} must be two growing positive numbers")
        object.__setattr__(self, "_resize", make_resize(self.resampler, self.interpolation, self.antialias))

    def __call__(self, image: DecodableImage, rng: KeyedRandom) -> np.ndarray:
        """Returns the part, resized: (height, width, C) uint8."""
        box = self.box(*image.size, rng)
        height, width = height_and_width(self.size)
        # Reducing while decoding is fast and antialiased, but not what Pillow does.
        enough = (width, height) if self.resampler == "opencv" and self.antialias else None
        return self._resize(image.region(box, enough), (height, width))  # type: ignore[attr-defined]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of the result."""
        return (*height_and_width(self.size), self.num_channels)

    def box(self, width: int, height: int, rng: KeyedRandom) -> Box:
        """Returns the part of an image of width x height pixels: (left, top, right, bottom).

        If none of ten drawn ones lies within the image, the largest central one of an allowed ratio.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(ATTEMPTS):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.integer(width - w + 1), rng.integer(height - h + 1)
                return left, top, left + w, top + h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclass(frozen=True)
class TrainingTransform:
    """All that the host does: a crop, then operations on the cropped image.

    Attributes:
      crop: random; or a `Preprocess`, whose resize and crop are as in evaluation; or None, the image as it is.
      operations: a colour jitter, a policy, each called as operation(image, draws); for images of 1, 3 or 4 channels.
      fitted: how the image is fitted before a random crop; None: it stays as it is.
    """

    crop: RandomResizedCrop | Preprocess | None = None
    operations: tuple[Operation, ...] = ()
    fitted: Preprocess | None = None

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape of the result; None if it depends on the image."""
        return None if self.crop is None else self.crop.image_shape

    def __call__(self, image: DecodableImage, rng: KeyedRandom) -> np.ndarray:
        """Returns the training image, (H, W, C) uint8."""
        fixed = self.fixed(image)
        return self.drawn(image if fixed is None else ArrayImage(fixed), rng)

    def fixed(self, image: DecodableImage) -> np.ndarray | None:
        """Returns the image after all that comes first and is the same in every epoch; None if nothing is.

        (H, W, C) uint8; `drawn` makes the training image of it.
        """
        if isinstance(self.crop, RandomResizedCrop):
            return None if self.fitted is None else self.fitted.pixels(image.pixels())
        return image.pixels() if self.crop is None else self.crop.pixels(image.pixels())

    def drawn(self, image: DecodableImage, rng: KeyedRandom) -> np.ndarray:
        """Returns the training image, (H, W, C) uint8, of what `fixed` returned, or of the image where that is None."""
        pixels = self.crop(image, rng) if isinstance(self.crop, RandomResizedCrop) else image.pixels()
        if not self.operations:
            return pixels
        (picture,) = to_pictures(pixels, pixels.shape[2])
        for operation in self.operations:
            picture = operation(picture, rng)
        return to_pixels([picture])
