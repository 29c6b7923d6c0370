"""Images of more than 8 bits a channel: refused with the range of their values, or scaled to 8 bits by choice."""

import numpy as np
from PIL import Image

HIGH_BIT_DEPTH = ("error", "scale")
# Pillow would cut their values off at 255. (Of 16-bit RGB it reads the upper 8 bits of each value itself.)
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
DEEP_MODES = ("I", "F", *SIXTEEN_BIT_MODES)
_SIXTEEN_BIT_FORMATS = ("PPM", "PNG")  # whose mode "I" holds values from 0 to 65535
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2  # of TIFF


def to_eight_bits(image: Image.Image, high_bit_depth: str) -> Image.Image:
    """Returns an image of one of DEEP_MODES as one of 8 bits, mode "L", its full range scaled to 0 to 255 and rounded.

    The full range belongs to the stored type: 0 to 65535, -32768 to 32767 where TIFF says signed, and 0 to 1 of
    floating point.

    Args:
      high_bit_depth: "error" | "scale".

    Raises:
      ValueError: for "error", and for values of another range, with the range that was found.
    """
    values = np.asarray(image)
    found = f"more than 8 bits a channel, mode {image.mode} with values from {values.min()} to {values.max()}"
    if high_bit_depth == "error":
        raise ValueError(
            f"{found}: config.high_bit_depth='scale' of a run makes 8 bits of them; otherwise save them with 8 bits"
        )
    low, high = _full_range(image)
    if high == low or not (low <= values.min() and values.max() <= high):
        raise ValueError(f"{found}, which config.high_bit_depth='scale' cannot scale: it takes 16 bits, or 0.0 to 1.0")
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _full_range(image: Image.Image) -> tuple[int, int]:
    """Returns the lowest and highest value that the image's stored type has; (0, 0) if it defines no picture."""
    if image.mode in SIXTEEN_BIT_MODES:
        return 0, 2**16 - 1
    if image.mode == "F":
        return 0, 1
    if image.format in _SIXTEEN_BIT_FORMATS:
        return 0, 2**16 - 1
    tags = getattr(image, "tag_v2", {})
    if tags.get(_BITS_PER_SAMPLE) == (16,):
        return (-(2**15), 2**15 - 1) if tags.get(_SAMPLE_FORMAT) == (_SIGNED,) else (0, 2**16 - 1)
    return 0, 0
