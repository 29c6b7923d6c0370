"""One image, encoded or in memory: its size, and the pixels of all or of a part of it, checked for damage.

JPEGs are decoded by simplejpeg (libjpeg-turbo): the same pixels as Pillow's, without the interpreter lock, and unlike
Pillow and OpenCV it tells of damaged data. All else, CMYK included, is Pillow's.
"""

import io
import math
import re
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from resnet_jax.data.jpeg_header import JpegHeader, declare_rows, read_jpeg_header
from resnet_jax.errors import UserError

# Left, top, right, bottom in pixels, the last two not included.
Box = tuple[int, int, int, int]

REDUCTIONS = (8, 4, 2)  # that JPEG's transform can do while it decodes
_ORIENTATION_TAG = 0x0112
# More than 8 bits a channel: Pillow would cut their values off at 255.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# By which NumPy puts an image upright, for EXIF's orientations 2 to 8.
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
_thread = threading.local()
# What libjpeg says of bytes behind the data that it wanted: padding, if they are few; after damage they are many.
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_PADDING = 16


class BadImageError(UserError):
    """An image that cannot be decoded, or only in part; its message names the image and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name} cannot be read as an image ({reason}): replace or remove it")


class DecodableImage(Protocol):
    """What a transform makes an input of."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    def pixels(self) -> np.ndarray:
        """Returns all of it: (H, W, 3) uint8."""

    def region(self, box: Box, enough: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the pixels within `box`: (h, w, 3) uint8; see `EncodedImage.region`."""


class ArrayImage:
    """An image in memory, (H, W, 3) uint8."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._array.shape[1], self._array.shape[0]

    def pixels(self) -> np.ndarray:
        """Returns all of it."""
        return self._array

    def region(self, box: Box, enough: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the pixels within `box`, never reduced."""
        del enough
        left, top, right, bottom = box
        return self._array[top:bottom, left:right]


class EncodedImage:
    """An image file's bytes, decoded on demand; for one thread at a time."""

    def __init__(self, data: bytes, name: str | Callable[[], str], *, apply_exif_orientation: bool = False) -> None:
        """name: for messages, or what tells it. upright: apply EXIF's rotation (torchvision does not).

        `intact` may be set once the whole image has been decoded without complaint.

        Raises:
          BadImageError: if the data are no image.
        """
        self._data, self._name, self.intact = data, name, False
        if not data:
            raise BadImageError(self.name, "it is empty")
        self._jpeg, self._header = None, JpegHeader(0, True)
        if data[:2] == b"\xff\xd8":
            if data[6:11] == b"JFIF\0" and data[11:12] != b"\1":  # an odd version, of which libjpeg would warn alone
                self._data = data[:11] + b"\1" + data[12:]
            self._jpeg, self._header = self._jpeg_size(), read_jpeg_header(self._data)
        width, height = self._jpeg or self._pillow.size
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise BadImageError(self.name, f"Image size ({width * height} pixels) exceeds limit of {limit} pixels")
        self.orientation = self._read_orientation()  # EXIF's, from 1 (upright) to 8
        self._turn = self.orientation if apply_exif_orientation else 1

    @property
    def name(self) -> str:
        """The image's name in messages."""
        return self._name if isinstance(self._name, str) else self._name()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright if that is asked for."""
        width, height = self._jpeg or self._pillow.size
        return (height, width) if self._turn >= 5 else (width, height)

    @property
    def mode(self) -> str:
        """The mode of its pixels in the file, as Pillow calls it: RGB, L, CMYK, P …"""
        return self._pillow.mode

    def _read_orientation(self) -> int:
        if not self._header.has_exif or self._pillow.format == "TIFF":  # Pillow turns TIFFs by itself
            return 1
        try:
            value = self._pillow.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # EXIF data that cannot be parsed tell nothing, and change no pixel
            return 1
        return value if value in _UPRIGHT else 1

    def pixels(self) -> np.ndarray:
        """Returns all of it, as RGB: (H, W, 3) uint8.

        Raises:
          BadImageError: if the data are damaged or incomplete.
        """
        if self._jpeg:
            width, height = self._jpeg
            pixels = self._decode_jpeg(self._data, width, height)
        else:
            pixels = self._decode_by_pillow()
        return _UPRIGHT[self._turn](pixels) if self._turn > 1 else pixels

    def region(self, box: Box, enough: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the pixels within `box`, as RGB: (h, w, 3) uint8.

        They may lie in memory that this thread's next region overwrites.

        Args:
          enough: (width, height) that suffice; a JPEG is then decoded at a half, quarter or eighth of its size, if
            the region stays at least as large as that. Of an image that is known to be `intact`, rows below the region
            are not decoded.

        Raises:
          BadImageError: if the data are damaged or incomplete.
        """
        left, top, right, bottom = box
        if not self._jpeg:
            return self.pixels()[top:bottom, left:right]
        factor = 1
        if enough is not None:
            width, height = right - left, bottom - top
            factor = next((f for f in REDUCTIONS if width >= enough[0] * f and height >= enough[1] * f), 1)
        width, height = self._jpeg
        data: bytes | bytearray = self._data
        # One block of at most 16 rows more: smoothing between blocks looks at the next one's.
        rows = (bottom // 16 + 2) * 16
        if self.intact and self._turn == 1 and rows < height and self._header.height_at:
            data, height = declare_rows(self._data, self._header.height_at, rows), rows
        pixels = self._decode_jpeg(data, width, height, factor, _scratch)
        if self._turn > 1:
            pixels = _UPRIGHT[self._turn](pixels)
        if factor == 1:
            return pixels[top:bottom, left:right]
        left, top = left // factor, top // factor
        return pixels[top : top + (box[3] - box[1]) // factor, left : left + (box[2] - box[0]) // factor]

    def _jpeg_size(self) -> tuple[int, int] | None:
        """Returns (width, height) of a JPEG that libjpeg turns into RGB; None of CMYK."""
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(self._data)
        except ValueError as error:
            raise BadImageError(self.name, str(error)) from error
        return None if color in ("CMYK", "YCCK") else (width, height)

    @cached_property
    def _pillow(self) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._data))
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
            raise BadImageError(self.name, _reason(error)) from error

    def _decode_by_pillow(self) -> np.ndarray:
        if self._pillow.mode in _DEEP_MODES:
            raise BadImageError(self.name, f"more than 8 bits a channel, mode {self._pillow.mode}")
        try:
            if self._pillow.format == "JPEG":  # of CMYK; Pillow would not tell of damage
                simplejpeg.decode_jpeg(self._data, "CMYK")
            return np.array(self._pillow.convert("RGB"))
        except Exception as error:
            raise BadImageError(self.name, _reason(error)) from error

    def _decode_jpeg(
        self,
        data: bytes | bytearray,
        width: int,
        height: int,
        factor: int = 1,
        allocate: Callable[[tuple[int, int, int]], np.ndarray] = lambda shape: np.empty(shape, np.uint8),
    ) -> np.ndarray:
        """Returns (height / factor, width / factor, 3), rounded up."""
        height, width = math.ceil(height / factor), math.ceil(width / factor)
        pixels = allocate((height, width, 3))
        try:
            simplejpeg.decode_jpeg(data, min_height=height, min_width=width, buffer=pixels)
        except ValueError as error:  # raised after all is decoded; it tells the first warning
            left_over = _LEFT_OVER.search(str(error))
            expected = len(data) if data is not self._data else _PADDING
            if left_over is None or int(left_over[1]) > expected:
                raise BadImageError(self.name, str(error)) from error
        return pixels


def _scratch(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns an array in memory that the thread keeps: malloc would give it back to the system after each image."""
    size = math.prod(shape)
    memory = getattr(_thread, "memory", None)
    if memory is None or memory.size < size:
        memory = _thread.memory = np.empty(size, np.uint8)
    return memory[:size].reshape(shape)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    return str(error) or type(error).__name__
