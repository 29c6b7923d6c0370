"""Pixels of decoded images, kept in memory where all of a source's fit."""

import threading

import numpy as np

# Images of one size are kept in memory if all of them take no more than this; larger sets are decoded as they go.
MEMORY_LIMIT = 2**30

Label = int | np.ndarray  # (K,) uint8 where an image may have several


class KeptPixels:
    """Keeps images as they are before anything is drawn for them, and their labels, for as long as the process lives.

    It keeps nothing where all images together would take more than MEMORY_LIMIT bytes. Several threads use it at once.
    """

    def __init__(self, num_images: int) -> None:
        self._present = np.zeros(num_images, bool)
        self._pixels: np.ndarray | None = None  # (N, ...) uint8
        self._labels: list[Label] = []
        self._lock = threading.Lock()

    def get(self, position: int) -> tuple[np.ndarray, Label] | None:
        """Returns an image's pixels, which are not to be written to, and its label; None if it is not kept."""
        if not self._present[position]:
            return None
        assert self._pixels is not None
        return self._pixels[position], self._labels[position]

    def put(self, position: int, pixels: np.ndarray, label: Label) -> None:
        """Keeps a copy of an image's pixels (...) uint8, if they have the first one's shape and all images fit."""
        count = len(self._present)
        if pixels.nbytes * count > MEMORY_LIMIT:
            return
        with self._lock:
            if self._pixels is None:
                self._labels = [0] * count
                self._pixels = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape == self._pixels.shape[1:]:
            self._pixels[position], self._labels[position] = pixels, label
            self._present[position] = True
