"""Brings images to the size that a network was trained with, as training with images in memory does."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnet_jax.data.transforms.pictures import to_pictures, to_pixels
from resnet_jax.data.transforms.preprocess import Preprocess, Side, height_and_width


@dataclass(frozen=True)
class Sized:
    """Brings an image to a size as training with images in memory does.

    One whose sides divide it is enlarged pixel by pixel, others are resized and cropped.

    Attributes:
      preprocess: does the latter; where it has no crop, the size is its resize and crop.
      size: one side or (height, width).
    """

    preprocess: Preprocess
    size: Side

    @property
    def changes_pixels(self) -> bool:
        """Always: it may."""
        return True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of the result of `pixels`."""
        return (*height_and_width(self.size), self.preprocess.num_channels)

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns the image: (height, width, C) uint8."""
        height, width, _ = self.image_shape
        pixels = image if isinstance(image, np.ndarray) else self.read(image)
        own_height, own_width = pixels.shape[:2]
        divides = height % own_height == 0 and width % own_width == 0
        if not self.preprocess.changes_pixels and divides and (own_height == own_width or height != width):
            return pixels.repeat(height // own_height, axis=0).repeat(width // own_width, axis=1)
        preprocess = self.preprocess
        if preprocess.crop is None:
            preprocess = dataclasses.replace(preprocess, resize=self.size, crop=self.size)
        return preprocess.pixels(pixels)

    def read(self, image: Image.Image) -> np.ndarray:
        """Returns a picture's pixels as they are: (H, W, C) uint8."""
        return to_pixels(to_pictures(image, self.preprocess.num_channels, self.preprocess.high_bit_depth))
