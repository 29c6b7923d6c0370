"""An image as transforms take it: its pixels are asked for, all of them or a part."""

from typing import Protocol

import numpy as np

# Left, top, right, bottom in pixels, the last two not included.
Box = tuple[int, int, int, int]


class DecodableImage(Protocol):
    """Gives a transform an image's size and pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    def pixels(self) -> np.ndarray:
        """Returns all of it: (H, W, C) uint8."""

    def region(self, box: Box, enough: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the pixels within `box`: (h, w, C) uint8; see `EncodedImage.region`."""


class ArrayImage:
    """An image in memory, (H, W, C) uint8."""

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
