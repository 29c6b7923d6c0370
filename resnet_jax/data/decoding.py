"""One image, encoded or in memory: its size, and the pixels of all or of a part of it, checked for damage.

JPEGs are decoded by simplejpeg (libjpeg-turbo): the same pixels as Pillow's, without the interpreter lock, and unlike
Pillow and OpenCV it reports damaged data. All else, CMYK included, is Pillow's. Where libjpeg complains of what stands
before the scans, no pixel is lost, and the image is read as Pillow reads it; where it complains of the scans, pixels
are, and the image is refused although Pillow would show it.
"""

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simplejpeg
from PIL import Image

from resnet_jax.data.decodable_image import Box
from resnet_jax.data.high_bit_depth import DEEP_MODES, to_eight_bits
from resnet_jax.data.jpeg_header import JpegHeader, declare_rows, read_jpeg_header, without_header_junk
from resnet_jax.data.other_formats import MODES, NPY_START, load_npy, open_by_pillow, reason_of
from resnet_jax.errors import UserError

Allocate = Callable[[tuple[int, int, int]], np.ndarray]

REDUCTIONS = (8, 4, 2)  # that JPEG's transform can do while it decodes
_ORIENTATION_TAG = 0x0112
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


def exif_orientation(picture: Image.Image, on_damaged: Callable[[], object] = lambda: None) -> int:
    """Returns 2 to 8 where EXIF says so, else 1; of a TIFF 1 too, as Pillow turns these itself.

    Args:
      on_damaged: is called if EXIF's data cannot be parsed: looking for them may have decoded the image in part.
    """
    if picture.format == "TIFF":
        return 1
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # data that cannot be parsed are ignored: no pixel changes
        on_damaged()
        return 1
    return value if value in _UPRIGHT else 1


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an image (H, W, C) turned as EXIF's orientation asks."""
    return _UPRIGHT[orientation](pixels) if orientation > 1 else pixels


# What libjpeg says of bytes behind the data that it wanted: padding, if they are few; after damage they are many.
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_PADDING = 16


@dataclass(frozen=True)
class DecodeOptions:
    """How an image file becomes pixels.

    Attributes:
      channels: of the pixels: 1 is grey, 3 RGB, 4 RGBA, as Pillow converts to them; a .npy file of uint8 (H, W, C) may
        have any number.
      high_bit_depth: "error" | "scale": for more than 8 bits a channel, see `to_eight_bits`.
      max_pixels: larger images are refused; 0: none are; None: Pillow's own limit.
    """

    channels: int = 3
    high_bit_depth: str = "error"
    max_pixels: int | None = None


class BadImageError(UserError):
    """An image that cannot be decoded, or only in part; its message names the image and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name} cannot be read as an image ({reason}): replace or remove it")


class EncodedImage:
    """An image file's bytes, decoded on demand; for one thread at a time."""

    def __init__(
        self,
        data: bytes,
        name: str | Callable[[], str],
        options: DecodeOptions | None = None,
        *,
        apply_exif_orientation: bool = False,
    ) -> None:
        """Reads the header; `intact` may be set once the whole image has been decoded without complaint.

        Args:
          name: for messages, or a function that returns it.
          options: None: RGB as Pillow has it.
          apply_exif_orientation: apply EXIF's rotation (torchvision does not).

        Raises:
          BadImageError: if the data are no image, or of more pixels than allowed.
        """
        self._file, self._data = data, data  # for Pillow, and for libjpeg, which sees less of an odd header
        self._name, self.intact = name, False
        self._options = options or DecodeOptions()
        if not data:
            raise BadImageError(self.name, "it is empty")
        self._jpeg, self._header = None, JpegHeader(0, True)
        self._array = self._load_array() if data.startswith(NPY_START) else None
        if data[:2] == b"\xff\xd8":
            if data[6:11] == b"JFIF\0" and data[11:12] != b"\1":  # an odd version, of which libjpeg would warn alone
                self._data = data[:11] + b"\1" + data[12:]
            self._header = read_jpeg_header(self._data)
            self._jpeg = self._jpeg_size()
        self._check_num_pixels()
        self.orientation = self._read_orientation()  # EXIF's, from 1 (upright) to 8
        self._turn = self.orientation if apply_exif_orientation else 1

    @property
    def name(self) -> str:
        """The image's name in messages."""
        return self._name if isinstance(self._name, str) else self._name()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright if that is asked for."""
        width, height = self._stored_size
        return (height, width) if self._turn >= 5 else (width, height)

    @property
    def mode(self) -> str:
        """The mode of its pixels in the file, as Pillow calls it: RGB, L, CMYK, P …; or "npy"."""
        return "npy" if self._array is not None else self._pillow.mode

    @property
    def _stored_size(self) -> tuple[int, int]:
        if self._array is not None:
            return self._array.shape[1], self._array.shape[0]
        return self._jpeg or self._pillow.size

    def _check_num_pixels(self) -> None:
        width, height = self._stored_size
        count, limit = width * height, self._options.max_pixels
        if limit and count > limit:
            raise BadImageError(self.name, f"it has {count} pixels, more than config.max_pixels={limit}")
        limit = Image.MAX_IMAGE_PIXELS
        if self._options.max_pixels is None and limit is not None and count > limit:
            raise BadImageError(self.name, f"Image size ({count} pixels) exceeds limit of {limit} pixels")

    def _load_array(self) -> np.ndarray:
        try:
            return load_npy(self._file, self._options.channels)
        except ValueError as error:
            raise BadImageError(self.name, str(error)) from error

    def _read_orientation(self) -> int:
        if self._array is not None:
            return 1
        if not self._header.has_exif:
            return 1
        return exif_orientation(self._pillow, on_damaged=lambda: self.__dict__.pop("_pillow", None))

    def pixels(self) -> np.ndarray:
        """Returns all of it: (H, W, C) uint8.

        Raises:
          BadImageError: if the data are damaged or incomplete, or have no such channels.
        """
        width, height = self._stored_size
        return self._turned(self._decode(width, height))

    def region(self, box: Box, enough: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the pixels within `box`: (h, w, C) uint8.

        They may lie in memory that this thread's next region overwrites.

        Args:
          enough: (width, height) that suffice; a JPEG is then decoded at a half, quarter or eighth of its size, if
            the region stays at least as large as that. Of an image that is known to be `intact`, rows below the region
            are not decoded.

        Raises:
          BadImageError: if the data are damaged or incomplete, or have no such channels.
        """
        left, top, right, bottom = box
        if not self._jpeg:
            return self.pixels()[top:bottom, left:right]
        factor = 1
        if enough is not None:
            width, height = right - left, bottom - top
            factor = next((f for f in REDUCTIONS if width >= enough[0] * f and height >= enough[1] * f), 1)
        width, height = self._jpeg
        # One block of at most 16 rows more: smoothing between blocks looks at the next one's.
        rows = (bottom // 16 + 2) * 16
        if self.intact and self._turn == 1 and rows < height and self._header.height_at:
            height = rows
        pixels = self._turned(self._decode(width, height, factor, _scratch))
        if factor == 1:
            return pixels[top:bottom, left:right]
        left, top = left // factor, top // factor
        return pixels[top : top + (box[3] - box[1]) // factor, left : left + (box[2] - box[0]) // factor]

    def _turned(self, pixels: np.ndarray) -> np.ndarray:
        return turned_upright(pixels, self._turn)

    def _decode(self, width: int, num_rows: int, factor: int = 1, allocate: Allocate | None = None) -> np.ndarray:
        """Returns the first num_rows rows of a JPEG, or all, as stored: (num_rows / factor, width / factor, C), rounded
        up.
        """
        if self._array is not None:
            return self._array
        mode = MODES.get(self._options.channels)
        if mode is None:
            channels = self._options.channels
            raise BadImageError(
                self.name,
                f"config.channels={channels} needs .npy files of uint8 (H, W, {channels}): image files give 1, 3 or 4",
            )
        if self._jpeg:
            data: bytes | bytearray = self._data
            if num_rows < self._jpeg[1]:
                data = declare_rows(self._data, self._header.height_at, num_rows)
            pixels = self._decode_jpeg(data, width, num_rows, factor, allocate or _new)
            if mode != "RGB":
                pixels = np.asarray(Image.fromarray(pixels).convert(mode))
        else:
            pixels = self._decode_by_pillow(mode)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def _drop_header_junk(self) -> bool:
        """Leaves out what before the scans decides no pixel, and returns whether there was any."""
        cleaned = without_header_junk(self._data)
        if cleaned == self._data:
            return False
        self._data, self._header = cleaned, read_jpeg_header(cleaned)._replace(has_exif=self._header.has_exif)
        return True

    def _jpeg_size(self) -> tuple[int, int] | None:
        """Returns (width, height) of a JPEG that libjpeg turns into RGB; None of CMYK."""
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(self._data)
        except ValueError as error:
            if self._drop_header_junk():
                return self._jpeg_size()
            raise BadImageError(self.name, str(error)) from error
        return None if color in ("CMYK", "YCCK") else (width, height)

    @cached_property
    def _pillow(self) -> Image.Image:
        try:
            return open_by_pillow(self._file, self._options.max_pixels)
        except ValueError as error:
            raise BadImageError(self.name, str(error)) from error

    def _decode_by_pillow(self, mode: str) -> np.ndarray:
        try:
            image = self._pillow
            if image.format == "JPEG":  # of CMYK; Pillow would not report damage
                simplejpeg.decode_jpeg(self._data, "CMYK")
            if image.mode in DEEP_MODES:
                image = to_eight_bits(image, self._options.high_bit_depth)
            return np.array(image.convert(mode))
        except BadImageError:
            raise
        except Exception as error:
            raise BadImageError(self.name, reason_of(error)) from error

    def _decode_jpeg(
        self, data: bytes | bytearray, width: int, height: int, factor: int, allocate: Allocate
    ) -> np.ndarray:
        """Returns (height / factor, width / factor, 3), rounded up."""
        height, width = math.ceil(height / factor), math.ceil(width / factor)
        pixels = allocate((height, width, 3))
        try:
            simplejpeg.decode_jpeg(data, min_height=height, min_width=width, buffer=pixels)
        except ValueError as error:  # raised after all is decoded; it names the first warning
            left_over = _LEFT_OVER.search(str(error))
            expected = len(data) if data is not self._data else _PADDING
            if left_over is None or int(left_over[1]) > expected:
                raise BadImageError(self.name, str(error)) from error
        return pixels


def _new(shape: tuple[int, int, int]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def _scratch(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns an array in memory that the thread keeps: malloc would give it back to the system after each image."""
    size = math.prod(shape)
    memory = getattr(_thread, "memory", None)
    if memory is None or memory.size < size:
        memory = _thread.memory = np.empty(size, np.uint8)
    return memory[:size].reshape(shape)
