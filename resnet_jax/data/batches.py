"""Order and batches: which images belong to step k, asked for directly.

A run's position in its data is its step number alone: nothing else has to be saved to resume exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from resnet_jax.errors import UserError

Batch = dict[str, np.ndarray]


class Images(Protocol):
    """Images (N, H, W, C) uint8, in memory or decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""

    def __getitem__(self, indices: np.ndarray, /) -> np.ndarray:
        """Those at `indices` (n,) int: (n, H, W, C)."""


class ImageSource(Protocol):
    """What batches are drawn from: images (N, H, W, C) uint8 and labels (N,) int32."""

    @property
    def images(self) -> Images:
        """All images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""

    @property
    def labels(self) -> np.ndarray:
        """Their labels."""


@dataclass(frozen=True)
class LazySource:
    """Labelled images that are made when they are asked for, where a `Source` has them in memory."""

    images: Images
    labels: np.ndarray  # (N,) int32 in [0, num_classes)
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""
        return len(self.class_names)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The permutation of range(n) in which epoch `epoch` visits the images, (n,) int64.

    A function of its arguments alone, on every machine and NumPy version: images are sorted by the raw 64-bit output
    of Philox keyed by (seed, epoch), a stream that NumPy keeps fixed (`Generator.permutation` is not promised to be).
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(keys, kind="stable")


@dataclass
class TrainBatches:
    """The training batches by step: `batches[step]` for any step >= 0.

    An epoch is `num_images // batch_size` batches; the tail of its permutation is dropped. Each process of
    `num_processes` gets its own rows of the global batch: process p those from p * B / num_processes on.
    Raises UserError (a ValueError) if batch_size is not in [1, num_images] or not divisible by num_processes.
    """

    source: ImageSource
    batch_size: int
    seed: int
    process_index: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        num_images = len(self.source.labels)
        if not 1 <= self.batch_size <= num_images:
            raise UserError(f"batch_size={self.batch_size} must be from 1 to the {num_images} training images")
        if self.batch_size % self.num_processes:
            raise UserError(f"batch_size={self.batch_size} must be divisible by the {self.num_processes} processes")
        self.steps_per_epoch = num_images // self.batch_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Batch:
        """Batch of step `step`, from 0.

        "image" (b, H, W, C) uint8, "label" (b,) int32, "index" (b,) int32 and "epoch" (b,) int32, where
        b = batch_size / num_processes; index and epoch key the augmentation.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.seed, epoch, len(self.source.labels))
        rows = self.batch_size // self.num_processes
        start = position * self.batch_size + self.process_index * rows
        indices = self._order[start : start + rows]
        return {
            "image": self.source.images[indices],
            "label": self.source.labels[indices],
            "index": indices.astype(np.int32),
            "epoch": np.full(rows, epoch, np.int32),
        }


def eval_batches(
    source: ImageSource, batch_size: int, process_index: int = 0, num_processes: int = 1
) -> Iterator[Batch]:
    """Every image once, in order, in batches of one shape.

    The last batch is filled up with images whose "mask" is 0. Yields "image" (b, H, W, C) uint8, "label" (b,) int32
    and "mask" (b,) float32 in {0, 1}, where b = batch_size / num_processes; all processes yield equally often.
    """
    rows = batch_size // num_processes
    num_images = len(source.labels)
    for start in range(0, num_images, batch_size):
        positions = start + process_index * rows + np.arange(rows)
        indices = np.minimum(positions, num_images - 1)
        yield {
            "image": source.images[indices],
            "label": source.labels[indices],
            "mask": (positions < num_images).astype(np.float32),
        }
