"""Images of small sets are decoded once: how often they are read, and that nothing else changes."""

import io

import numpy as np
import pytest
from encoded_images import IMAGES, PREPROCESS, Stored, assert_same, epochs, source
from PIL import Image

from resnet_jax.data import kept_pixels
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.source import Keys
from resnet_jax.data.transforms.policies import TrivialAugmentWide
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.data.transforms.training import RandomResizedCrop, TrainingTransform

FITTED = Preprocess((20, 24), (20, 24), "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "squash")
CLOSER = Preprocess(40, 16, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ONCE = {
    "as in evaluation": None,
    "another crop": TrainingTransform(CLOSER),
    "a policy": TrainingTransform(PREPROCESS, (TrivialAugmentWide(),)),
    "fitted, then cropped at random": TrainingTransform(RandomResizedCrop(16), (TrivialAugmentWide(),), FITTED),
}
NUM_BYTES = len(IMAGES) * 16 * 16 * 3  # as evaluation prepares them


class Counted(Stored):
    """Counts how often each image is read."""

    def __init__(self, data):
        super().__init__(data)
        self.counts = [0] * len(data)

    def read(self, index):
        self.counts[index] += 1
        return super().read(index)


def counted(data=IMAGES, **fields):
    """A source, and how often its images are read."""
    made = source(data, num_threads=1, kind=Counted, **fields)
    return made, made.encoded.counts


@pytest.mark.parametrize("kind", ONCE)
def test_training_images_are_decoded_once_and_are_those_of_a_larger_set(kind, monkeypatch):
    kept, counts = counted(transform=ONCE[kind])
    batches = epochs(kept)
    assert max(counts) == 1
    monkeypatch.setattr(kept_pixels, "MEMORY_LIMIT", 0)
    decoded, counts = counted(transform=ONCE[kind])
    assert_same(batches, epochs(decoded))
    assert min(counts) > 3  # each batch is asked for more than once


def test_random_parts_of_images_are_decoded_each_time():
    drawn, counts = counted(transform=TrainingTransform(RandomResizedCrop(16)))
    epochs(drawn)
    assert min(counts) > 3


def test_evaluation_keeps_images_from_their_second_reading_on():
    images, counts = counted()
    first, *others = ([batch["image"] for batch in EvalBatches(images, 5)] for _ in range(4))
    assert counts == [2] * len(IMAGES)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize(("limit", "most"), [(NUM_BYTES, 1), (NUM_BYTES - 1, 3)])
def test_images_are_kept_where_all_of_them_fit(monkeypatch, limit, most):
    monkeypatch.setattr(kept_pixels, "MEMORY_LIMIT", limit)
    images, counts = counted()
    indices = np.arange(len(IMAGES))
    for epoch in range(3):
        images.read(indices, Keys(0, epoch, indices))
    assert counts == [most] * len(IMAGES)


def test_training_and_evaluation_keep_their_own_images():
    images, counts = counted(transform=TrainingTransform(CLOSER))
    indices = np.arange(len(IMAGES))
    pictures = [Image.open(io.BytesIO(data)) for data in IMAGES]
    for epoch in range(4):
        training, evaluation = images.read(indices, Keys(0, epoch, indices)), images.read(indices)
        np.testing.assert_array_equal(training.image, [CLOSER.pixels(picture) for picture in pictures])
        np.testing.assert_array_equal(evaluation.image, [PREPROCESS.pixels(picture) for picture in pictures])
    assert counts == [2] * len(IMAGES)  # training has read each when evaluation reads it first


def test_bad_images_are_not_kept_and_the_same_ones_take_their_place():
    data = [*IMAGES[:2], b"", *IMAGES[3:]]
    images, _ = counted(data, limit=1)
    every = np.arange(len(data))
    first, second, third = (images.read(every, Keys(0, epoch, every)) for epoch in range(3))
    for other in (second, third):
        np.testing.assert_array_equal(other.image, first.image)
        np.testing.assert_array_equal(other.label, first.label)
    np.testing.assert_array_equal(first.image[2], first.image[3])
    assert first.label[2] == 0  # the next one's


def test_labels_are_kept_as_they_are_mapped():
    images, _ = counted(relabel=np.array([7, 5, 6], np.int32))
    indices = np.array([0, 1, 2, 3])
    for epoch in range(2):
        assert images.read(indices, Keys(0, epoch, indices)).label.tolist() == [7, 5, 6, 7]


@pytest.mark.parametrize("free", [8 * NUM_BYTES, 8 * NUM_BYTES - 8, None])
def test_images_are_kept_where_memory_is_free(monkeypatch, free):
    monkeypatch.setattr(kept_pixels, "free_memory", lambda: free)
    images, counts = counted()
    epochs(images)
    assert (max(counts) == 1) == (free != 8 * NUM_BYTES - 8)


def test_memory_that_cannot_be_had_stops_nothing(monkeypatch):
    def fail(*_):
        raise MemoryError

    pixels, kept = np.zeros((2, 2, 3), np.uint8), kept_pixels.KeptPixels(5)
    monkeypatch.setattr(kept_pixels.np, "empty", fail)
    kept.put(0, pixels, 1)
    assert kept.get(0) is None
