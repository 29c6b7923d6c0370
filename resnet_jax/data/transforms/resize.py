"""Resizing for training: torchvision's pixels by Pillow, or nearly those in a third of the time by OpenCV."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from resnet_jax.data.transforms.pictures import resize_pictures, to_pictures, to_pixels
from resnet_jax.data.transforms.preprocess import INTERPOLATIONS
from resnet_jax.errors import UserError, check_choice

RESAMPLERS = ("opencv", "pillow")
MOST_CHANNELS = 4  # that all of OpenCV's functions take at once
Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
BLURRED_FROM = 1.1  # below that the taps are less than 0.02

# Decoder threads already use all cores.
cv2.setNumThreads(1)


def make_resize(resampler: str, interpolation: str, antialias: bool) -> Resize:
    """Returns a function (pixels (h, w, C) uint8, (height, width)) -> (height, width, C) uint8.

    Args:
      resampler: "pillow" gives torchvision's pixels, always antialiased; "opencv" is bilinear and, if antialiased,
        0.7 of 255 away from them on average on ImageNet's crops.

    Raises:
      UserError: if these cannot do it.
    """
    check_choice("resampler", resampler, RESAMPLERS)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if resampler == "pillow":
        if not antialias:
            raise UserError("antialias=False needs resampler='opencv': Pillow always antialiases")
        return partial(resize_by_pillow, interpolation=interpolation)
    if interpolation != "bilinear":
        raise UserError(f"interpolation={interpolation!r} needs resampler='pillow'")
    return resize_antialiased if antialias else resize_bilinear


def resize_by_pillow(pixels: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Returns `pixels` (h, w, C) uint8 at size = (height, width) as torchvision resizes, always antialiased."""
    pictures = to_pictures(pixels, pixels.shape[2])
    return to_pixels(resize_pictures(pictures, size[::-1], INTERPOLATIONS[interpolation]))


def resize_bilinear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns `pixels` (h, w, C) uint8 at size = (height, width), each from its four nearest."""
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, -1)  # OpenCV drops an axis of one channel


def resize_antialiased(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns `pixels` (h, w, C) uint8 at size = (height, width), about as by the triangle that is Pillow's bilinear
    filter.

    What is to be made s times smaller, 1 < s < 2, is first blurred by three taps whose variance (s^2 - 1) / 6 makes up
    for what the triangle of width s has over bilinear interpolation's; larger s are halved before.
    """
    if pixels.shape[2] > MOST_CHANNELS:
        parts = [resize_antialiased(pixels[..., i : i + 1], size) for i in range(pixels.shape[2])]
        return np.concatenate(parts, axis=-1)
    height, width = pixels.shape[:2]
    down, across = max(1, height // size[0]), max(1, width // size[1])
    if down >= 2 or across >= 2:
        height //= 1 << (down.bit_length() - 1)
        width //= 1 << (across.bit_length() - 1)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if height > BLURRED_FROM * size[0] or width > BLURRED_FROM * size[1]:
        pixels = cv2.sepFilter2D(
            pixels,
            -1,
            _taps(width / size[1]),
            _taps(height / size[0]),
            borderType=cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED,
        )
    return resize_bilinear(pixels, size)


def _taps(scale: float) -> np.ndarray:
    side = max(0.0, scale * scale - 1.0) / 12.0
    return np.array([side, 1.0 - 2.0 * side, side], np.float32)
