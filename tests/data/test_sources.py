"""Data sets by name, and the held-out validation images."""

import numpy as np
import pytest

from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import hold_out, load_source, missing_classes


def test_digits_are_the_1797_real_ones_split_by_every_fifth():
    train, test = load_source("digits", "train"), load_source("digits", "test")
    assert (len(train), len(test), train.num_classes) == (1437, 360, 10)
    assert train.images.shape == (1437, 8, 8, 3)
    assert train.images.dtype == np.uint8
    # The first image of load_digits is a 0 whose first row is 0 0 5 13 9 1 0 0, of 16.
    np.testing.assert_array_equal(test.images[0, 0, :, 0], np.round(np.array([0, 0, 5, 13, 9, 1, 0, 0]) * 255 / 16))
    assert test.labels[:4].tolist() == [0, 5, 0, 5]
    assert train.labels[:4].tolist() == [1, 2, 3, 4]
    assert np.bincount(np.concatenate([train.labels, test.labels])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_image_size_repeats_pixels():
    small, large = load_source("digits", "test"), load_source("digits", "test", DatasetOptions(image_size=24))
    assert large.images.shape == (360, 24, 24, 3)
    np.testing.assert_array_equal(large.images[:, 1::3, 2::3], small.images)


@pytest.mark.parametrize(
    ("split", "image_size", "message"),
    [
        ("tset", 0, "split='tset' must be one of train, test; did you mean 'test'"),
        ("test", 20, "image_size=20 must be a multiple of 8"),
        ("test", 4, "image_size=4 must be a multiple of 8"),
    ],
)
def test_bad_arguments_are_named_with_the_rule(split, image_size, message):
    with pytest.raises(ValueError, match=message):
        load_source("digits", split, DatasetOptions(image_size=image_size))


def numbered(n):
    return ArraySource(np.zeros((n, 2, 2, 3), np.uint8), np.arange(n, dtype=np.int32), tuple(map(str, range(n))))


def test_held_out_images_are_a_fixed_part_of_the_training_images():
    train, validation = hold_out(numbered(100), 0.1)
    assert len(validation) == 10
    assert sorted([*train.labels, *validation.labels]) == list(range(100))
    assert validation.labels.tolist() == hold_out(numbered(100), 0.1)[1].labels.tolist()
    assert validation.labels.tolist() != list(range(10))
    assert hold_out(numbered(100), 0.0)[1] is None


def test_classes_of_which_no_image_is_left_are_named():
    source = ArraySource(np.zeros((7, 2, 2, 3), np.uint8), np.array([0, 0, 1, 1, 2, 2, 3], np.int32), tuple("abcd"))
    assert missing_classes(source, None, held_out=True) == []
    assert missing_classes(source, source, held_out=True) == []
    (line,) = missing_classes(source, source.take(np.array([0, 2])), held_out=True)
    assert line.startswith("no validation image of 2 of the 4 classes (c, d): ")
    (line,) = missing_classes(source.take(np.arange(6)), source, held_out=True)
    assert line.startswith("no training image of 1 of the 4 classes (d): ")
    (line,) = missing_classes(numbered(100), numbered(100).take(np.arange(2)), held_out=True)
    assert "98 of the 100 classes (2, 3, 4, 5, 6, …)" in line
    (line,) = missing_classes(source, source.take(np.array([0, 2])), held_out=False)
    assert line.endswith("classes (c, d): add images")


@pytest.mark.parametrize(
    ("fraction", "message"), [(1.0, r"must be in \[0, 1\)"), (-0.1, "must be in"), (0.001, "empty")]
)
def test_impossible_validation_fractions_are_refused(fraction, message):
    with pytest.raises(ValueError, match=message):
        hold_out(numbered(100), fraction)
