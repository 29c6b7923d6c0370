"""Images of any number of channels as Pillow's, which have 1, 3 or 4: others as several of one channel each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from resnet_jax.data.other_formats import MODES


def to_pictures(image: Image.Image | np.ndarray, num_channels: int) -> list[Image.Image]:
    """Returns the image as pictures of "L", "RGB" or "RGBA": one, or one a channel.

    Args:
      image: of any mode, or pixels (H, W, C) uint8 with C = num_channels.
    """
    mode = MODES.get(num_channels)
    if isinstance(image, Image.Image):
        return [image.convert(mode)]
    if mode is None:
        return [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(num_channels)]
    return [Image.fromarray(image[..., 0] if num_channels == 1 else image)]


def to_pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Returns the pixels (H, W, C) uint8 of what `to_pictures` gave."""
    if len(pictures) > 1:
        return np.stack([np.asarray(picture) for picture in pictures], axis=-1)
    pixels = np.array(pictures[0])
    return pixels if pixels.ndim == 3 else pixels[..., None]
