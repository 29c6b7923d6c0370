"""Images of any number of channels as Pillow's, which have 1, 3 or 4: others as several of one channel each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from resnet_jax.data.high_bit_depth import DEEP_MODES, to_eight_bits
from resnet_jax.data.other_formats import MODES
from resnet_jax.errors import UserError


def to_pictures(image: Image.Image | np.ndarray, num_channels: int, high_bit_depth: str = "error") -> list[Image.Image]:
    """Returns the image as pictures of "L", "RGB" or "RGBA": one, or one a channel.

    Args:
      image: of any mode, or pixels (H, W, C) uint8 with C = num_channels.
      high_bit_depth: for modes of more than 8 bits a channel, see `to_eight_bits`.

    Raises:
      UserError: for such modes where that says so, and for a picture where other than 1, 3 or 4 channels are needed.
    """
    mode = MODES.get(num_channels)
    if isinstance(image, Image.Image):
        if mode is None:
            raise UserError(f"a picture has 1, 3 or 4 channels: {num_channels} need an array (H, W, {num_channels})")
        if image.mode in DEEP_MODES:
            try:
                image = to_eight_bits(image, high_bit_depth)
            except ValueError as error:
                raise UserError(str(error)) from error
        return [image.convert(mode)]
    if mode is None:
        return [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(num_channels)]
    return [Image.fromarray(image[..., 0] if num_channels == 1 else image)]


def resize_pictures(
    pictures: Sequence[Image.Image], size: tuple[int, int], resampling: Image.Resampling
) -> list[Image.Image]:
    """Returns pictures resized to size = (width, height), each channel by itself.

    Pillow would weigh the colours of "RGBA" by the fourth channel, which may be none of opacity.
    """
    channels = [one for picture in pictures for one in (picture.split() if picture.mode == "RGBA" else (picture,))]
    return [picture.resize(size, resampling) for picture in channels]


def to_pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Returns the pixels (H, W, C) uint8 of the result of `to_pictures`."""
    if len(pictures) > 1:
        return np.stack([np.asarray(picture) for picture in pictures], axis=-1)
    pixels = np.array(pictures[0])
    return pixels if pixels.ndim == 3 else pixels[..., None]
