"""Order and batches: which images belong to step k, asked for directly.

A run's position in its data is its step number alone: nothing else has to be saved to resume exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Annotated

import numpy as np

from resnet_jax.data.labels import check_one_known_label
from resnet_jax.data.source import Keys, Source
from resnet_jax.errors import UserError
from resnet_jax.ranges import POSITIVE, SEED, OneOf

Batch = dict[str, np.ndarray]

SAMPLING = ("shuffle", "balanced")


@dataclass(frozen=True)
class BatchOptions:
    """How images make batches, and the seed of their order and of all else that is drawn."""

    batch_size: Annotated[int, POSITIVE]  # over all devices
    accumulation_steps: Annotated[int, POSITIVE]  # the parts of a batch that pass one after the other
    repeated_augmentation: Annotated[int, POSITIVE]  # how often an epoch takes each of its images
    sampling: Annotated[str, OneOf(SAMPLING)]
    seed: Annotated[int, SEED]

    @property
    def part_size(self) -> int:
        """Images that the network sees at once, over all devices: a batch, or each of its parts."""
        return self.batch_size // self.accumulation_steps


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the permutation of range(n) in which epoch `epoch` visits the images, (n,) int64.

    A function of its arguments alone, on every machine and NumPy version: images are sorted by the raw 64-bit output of
    Philox keyed by (seed, epoch), a stream that NumPy keeps fixed (`Generator.permutation` is not promised to be).
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(keys, kind="stable")


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """Returns the images that epoch `epoch` draws where classes are to be equally likely, (N,) int64.

    Each is drawn with replacement: a class among those that occur, then one of its images. A function of its arguments
    alone, as `epoch_order`, by the raw 64-bit output of Philox.

    Args:
      labels: (N,) int.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    by_class, starts = np.argsort(labels, kind="stable"), np.cumsum(counts) - counts
    raw = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(2 * len(labels))
    class_draws, image_draws = (raw >> np.uint64(11)).reshape(2, -1) * 2.0**-53  # in [0, 1)
    drawn = (class_draws * len(counts)).astype(np.int64)
    return by_class[starts[drawn] + (image_draws * counts[drawn]).astype(np.int64)]


# The batches that are prepared at one time lie in two epochs at most.
_cached_order = lru_cache(maxsize=2)(epoch_order)


@dataclass(frozen=True)
class TrainBatches:
    """The training batches by step: `batches[step]` for any step >= 0, from any thread.

    An epoch is `num_images // batch_size` batches; the tail of its permutation is dropped. With num_repeats > 1 an
    epoch takes the first 1 / num_repeats of the permutation, each image so often in a row, with new augmentation each
    time (Hoffer et al. 2019, arXiv:1901.09335). Each process of `num_processes` gets its own rows of each of the
    batch's `num_parts` equal parts: process p those from p * B / num_parts / num_processes on. sampling: "shuffle", or
    "balanced", where `balanced_order` takes the permutation's place.

    Raises:
      UserError: if batch_size is not in [1, num_images] or not divisible by num_parts * num_processes, and for balanced
        sampling of images whose labels are not known, or that have several.
    """

    source: Source
    batch_size: int
    seed: int
    process_index: int = 0
    num_processes: int = 1
    num_repeats: int = 1
    num_parts: int = 1
    sampling: str = "shuffle"

    def __post_init__(self) -> None:
        num_images = len(self.source)
        if not 1 <= self.batch_size <= num_images:
            raise UserError(f"batch_size={self.batch_size} must be from 1 to the {num_images} training images")
        if self.batch_size % (self.num_parts * self.num_processes):
            parts = f" times the {self.num_parts} accumulation steps" if self.num_parts > 1 else ""
            raise UserError(
                f"batch_size={self.batch_size} must be divisible by the {self.num_processes} processes{parts}"
            )
        if self.sampling == "balanced":
            self._labels()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.source) // self.batch_size

    @property
    def part_size(self) -> int:
        """Images that the network sees at once, of all processes: a batch, or each of its parts."""
        return self.batch_size // self.num_parts

    def __getitem__(self, step: int) -> Batch:
        """Returns the batch of step `step`, from 0.

        "image" (b, H, W, C) uint8, "label" (b,) int32, "sample" (b,) int32 and "epoch" (b,) int32, where b = batch_size
        / num_processes, the rows of the first part first; label (b, K) uint8 of images with several. A sample is an
        image's index, of balanced sampling its place in the epoch, plus num_images for each repetition before; it and
        the epoch key the augmentation.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        num_images, rows = len(self.source), self.batch_size // self.num_processes
        part, rows_of_part = self.batch_size // self.num_parts, rows // self.num_parts
        starts = position * self.batch_size + np.arange(self.num_parts) * part + self.process_index * rows_of_part
        places, repeats = np.divmod((starts[:, None] + np.arange(rows_of_part)).ravel(), self.num_repeats)
        if self.sampling == "balanced":
            indices = self._balanced_order(epoch)[places]
            samples = places + repeats * num_images  # an image that is drawn twice is augmented in two ways
        else:
            indices = _cached_order(self.seed, epoch, num_images)[places]
            samples = indices + repeats * num_images
        examples = self.source.read(indices, Keys(self.seed, epoch, samples))
        return {
            "image": examples.image,
            "label": examples.label,
            "sample": samples.astype(np.int32),
            "epoch": np.full(rows, epoch, np.int32),
        }

    def _labels(self) -> np.ndarray:
        return check_one_known_label("config.sampling='balanced'", self.source.labels, "use 'shuffle'")

    @cached_property
    def _balanced_order(self) -> Callable[[int], np.ndarray]:
        return lru_cache(maxsize=2)(partial(balanced_order, self.seed, labels=self._labels()))


@dataclass(frozen=True)
class EvalBatches:
    """Every image once, in order, in batches of one shape: `batches[k]` for k in range(len(batches)), from any thread.

    All of `num_processes` processes have equally many.
    """

    source: Source
    batch_size: int
    process_index: int = 0
    num_processes: int = 1

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, position: int) -> Batch:
        """Returns the images of a batch: "image" (b, H, W, C) uint8, "label" (b,) int32, of several labels an image (b,
        K) uint8, and "mask" (b,) float32 in {0, 1}.

        b = batch_size / num_processes. The last batch is filled up with images whose mask is 0. An image that cannot be
        decoded also has mask 0.
        """
        if not 0 <= position < len(self):
            raise IndexError(position)
        rows, num_images = self.batch_size // self.num_processes, len(self.source)
        positions = position * self.batch_size + self.process_index * rows + np.arange(rows)
        examples = self.source.read(np.minimum(positions, num_images - 1))
        mask = (positions < num_images) & examples.valid
        return {"image": examples.image, "label": examples.label, "mask": mask.astype(np.float32)}
