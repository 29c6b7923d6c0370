"""Images of all formats but JPEG: opened by Pillow with a limit of our own, and NumPy's files."""

import io
import threading

import numpy as np
from PIL import Image, UnidentifiedImageError

NPY_START = b"\x93NUMPY"
# Pillow's modes by the number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_pillow_limit = threading.Lock()  # Pillow's limit of pixels is one of the process


def open_by_pillow(data: bytes, max_pixels: int | None) -> Image.Image:
    """Returns the image, of which nothing is decoded yet.

    Args:
      max_pixels: above which Pillow's own limit may be exceeded; 0: without any limit; None: Pillow's own.

    Raises:
      ValueError: with the reason why Pillow does not open it.
    """
    try:
        if max_pixels is None or (Image.MAX_IMAGE_PIXELS is not None and 0 < max_pixels <= Image.MAX_IMAGE_PIXELS):
            return Image.open(io.BytesIO(data))
        with _pillow_limit:
            pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = pillows
    except Image.DecompressionBombError as error:
        remedy = "" if max_pixels is None else f"; config.max_pixels={max_pixels} may be more, or 0"
        raise ValueError(f"{error}{remedy}") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ValueError(reason_of(error)) from error


def load_npy(data: bytes, num_channels: int) -> np.ndarray:
    """Returns the pixels of a .npy file: (H, W, C) uint8; of one channel also from (H, W).

    Raises:
      ValueError: with the reason, if it holds anything else.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy raises ValueError, EOFError, SyntaxError and more
        raise ValueError(reason_of(error)) from error
    if array.ndim == 2 and num_channels == 1:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != num_channels or 0 in array.shape:
        raise ValueError(
            f"it holds {array.dtype} {array.shape}, and config.channels={num_channels} needs uint8 (H, W, "
            f"{num_channels})"
        )
    return array


def reason_of(error: Exception) -> str:
    """Returns why an image cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    return str(error) or type(error).__name__
