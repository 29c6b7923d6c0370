"""Pixels of decoded images, kept in memory where all of a source's fit."""

import threading

import numpy as np

from resnet_jax.runtime import free_memory

# Images of one size are kept in memory if all of them take no more than this; larger sets are decoded as they go.
MEMORY_LIMIT = 2**30
# Decoded images take no more of the free memory: other splits, processes and the training itself need some.
MOST_OF_FREE_MEMORY = 1 / 8

Label = int | np.ndarray  # (K,) uint8 where an image may have several


class KeptPixels:
    """Keeps images as they are before anything is drawn for them, and their labels, for as long as the process lives.

    It keeps nothing if all images together would take more than MEMORY_LIMIT bytes, or than MOST_OF_FREE_MEMORY says.
    Several threads use it at once.
    """

    def __init__(self, num_images: int) -> None:
        self._present = np.zeros(num_images, bool)
        self._pixels: np.ndarray | None = None  # (N, ...) uint8
        self._labels: list[Label] = []
        self._fits = True
        self._lock = threading.Lock()

    def get(self, position: int) -> tuple[np.ndarray, Label] | None:
        """Returns an image's pixels, which are not to be written to, and its label; None if it is not kept."""
        if self._pixels is None or not self._present[position]:
            return None
        return self._pixels[position], self._labels[position]

    def put(self, position: int, pixels: np.ndarray, label: Label) -> None:
        """Keeps a copy of an image's pixels (...) uint8, if they have the first one's shape and all images fit."""
        if self._pixels is None and self._fits:
            with self._lock:
                if self._pixels is None:
                    self._make_room(pixels)
        if self._pixels is not None and pixels.shape == self._pixels.shape[1:]:
            self._pixels[position], self._labels[position] = pixels, label
            self._present[position] = True

    def _make_room(self, pixels: np.ndarray) -> None:
        """Allocates memory for all images if they are like this one; the system gives it as they come."""
        count, free = len(self._present), free_memory()
        most = MEMORY_LIMIT if free is None else min(MEMORY_LIMIT, int(free * MOST_OF_FREE_MEMORY))
        self._fits = pixels.nbytes * count <= most
        if self._fits:
            self._labels = [0] * count
            try:
                self._pixels = np.empty((count, *pixels.shape), np.uint8)
            except MemoryError:
                self._fits = False
