"""Resizing for training: torchvision's pixels by Pillow, or nearly those in a third of the time by OpenCV."""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from resnet_jax.data.transforms.preprocess import INTERPOLATIONS
from resnet_jax.errors import UserError, check_choice

RESAMPLERS = ("opencv", "pillow")
BLURRED_FROM = 1.1  # below that the taps are less than 0.02

# Decoder threads already use all cores.
cv2.setNumThreads(1)


def make_resize(resampler: str, interpolation: str, antialias: bool) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a function (pixels (h, w, 3) uint8, size) -> (size, size, 3) uint8.

    Args:
      resampler: "pillow" gives torchvision's pixels, always antialiased; "opencv" is bilinear and, if antialiased,
        0.7 of 255 away from them on average on ImageNet's crops.

    Raises:
      UserError: for what these cannot do.
    """
    check_choice("resampler", resampler, RESAMPLERS)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if resampler == "pillow":
        if not antialias:
            raise UserError("antialias=False needs resampler='opencv': Pillow always antialiases")
        return lambda pixels, size: np.asarray(
            Image.fromarray(pixels).resize((size, size), INTERPOLATIONS[interpolation])
        )
    if interpolation != "bilinear":
        raise UserError(f"interpolation={interpolation!r} needs resampler='pillow'")
    return resize_antialiased if antialias else resize_bilinear


def resize_bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Returns `pixels` (h, w, 3) uint8 at (size, size), each from its four nearest."""
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)


def resize_antialiased(pixels: np.ndarray, size: int) -> np.ndarray:
    """Returns `pixels` (h, w, 3) uint8 at (size, size), about as by the triangle that is Pillow's bilinear filter.

    What is to be made s times smaller, 1 < s < 2, is first blurred by three taps whose variance (s^2 - 1) / 6 makes up
    for what the triangle of width s has over bilinear interpolation's; larger s are halved before.
    """
    height, width = pixels.shape[:2]
    down, across = max(1, height // size), max(1, width // size)
    if down >= 2 or across >= 2:
        height //= 1 << (down.bit_length() - 1)
        width //= 1 << (across.bit_length() - 1)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if max(height, width) > BLURRED_FROM * size:
        pixels = cv2.sepFilter2D(
            pixels, -1, _taps(width / size), _taps(height / size), borderType=cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED
        )
    return resize_bilinear(pixels, size)


def _taps(scale: float) -> np.ndarray:
    side = max(0.0, scale * scale - 1.0) / 12.0
    return np.array([side, 1.0 - 2.0 * side, side], np.float32)
