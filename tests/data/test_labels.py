"""Checks what labels decide before an image is read: weights of classes, a stratified share, balanced draws."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.batches import EvalBatches, TrainBatches, balanced_order
from resnet_jax.data.folder import FolderImages
from resnet_jax.data.labels import balanced_class_weights, class_counts, stratified_quotas
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import hold_out, missing_classes
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import UserError

RARE = np.repeat(np.arange(3, dtype=np.int32), (30, 8, 2))  # and a fourth class without images


def source(labels, names="abcd"):
    """Images whose first pixel is their index."""
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 2, 2, 3))
    return ArraySource(images, np.asarray(labels), tuple(names))


def several(n=12):
    labels = np.zeros((n, 3), np.uint8)
    labels[::2, 0] = labels[::3, 1] = 1
    return source(labels, "abc")


def test_balanced_weights_are_scikit_learns():
    # sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 1, 2], y=[0] * 30 + [1] * 8 + [2] * 2)
    expected = [0.4444444444444444, 1.6666666666666667, 6.666666666666667]
    assert balanced_class_weights(RARE, ("a", "b", "c")) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match=r"class_weights='balanced' needs a training image of every class, and d has"):
        balanced_class_weights(RARE, ("a", "b", "c", "d"))
    labels = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.uint8)
    assert class_counts(labels, 2).tolist() == [3, 1]
    assert balanced_class_weights(labels, ("a", "b")) == pytest.approx((4 / 6, 2.0))


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ([50, 30, 20], 0.1, [5, 3, 2]),
        # 1.6, 1.5, 0.9: together round(4.0); the largest remainders are of the last and the first.
        ([16, 15, 9], 0.1, [2, 1, 1]),
        # 0.5 each, together 2: ties to the earlier classes.
        ([5, 5, 5, 5], 0.1, [1, 1, 0, 0]),
        # A class of one image keeps it; 0.9 of two leaves one of them.
        ([1, 2, 10], 0.9, [0, 1, 9]),
        ([1, 1, 1], 0.5, [0, 0, 0]),
        ([0, 10], 0.5, [0, 5]),
    ],
)
def test_each_class_gives_its_share_by_largest_remainder(counts, fraction, expected):
    assert stratified_quotas(np.array(counts), fraction).tolist() == expected


def test_stratified_images_are_of_each_class_its_share_and_the_same_each_time():
    whole = source(np.random.RandomState(0).permutation(RARE))
    train, validation = hold_out(whole, 0.25, "stratified")
    assert np.bincount(validation.labels).tolist() == [8, 2]  # 7.5, 2.0, 0.5: ten of forty
    assert np.bincount(train.labels).tolist() == [22, 6, 2]
    held_out = validation.images[:, 0, 0, 0]
    assert sorted([*train.images[:, 0, 0, 0], *held_out]) == list(range(40))
    assert (np.diff(held_out) > 0).all()
    np.testing.assert_array_equal(held_out, hold_out(whole, 0.25, "stratified")[1].images[:, 0, 0, 0])
    # The present split, by which earlier runs were begun, is as it was.
    assert hold_out(source(np.arange(10), "abcdefghij"), 0.3)[1].labels.tolist() == [0, 2, 9]


def test_stratified_split_of_what_has_no_classes_of_its_own_is_refused():
    with pytest.raises(UserError, match=r"validation_split='stratified' needs images of one label each.*use 'random'"):
        hold_out(several(), 0.25, "stratified")
    with pytest.raises(UserError, match=r"validation_split='stratified' of 2 images holds none out"):
        hold_out(source([0, 1]), 0.5, "stratified")


def test_balanced_order_is_the_same_everywhere_for_ever():
    # Runs are resumed by these draws: they must never change. Computed once from Philox4x64-10.
    assert balanced_order(0, 0, np.array([0, 0, 0, 0, 0, 0, 1, 3])).tolist() == [1, 1, 4, 6, 6, 1, 7, 7]
    assert balanced_order(7, 3, np.array([0, 0, 0, 0, 0, 0, 1, 3])).tolist() == [6, 7, 5, 4, 7, 5, 6, 1]


def test_balanced_draws_are_of_each_class_and_of_each_of_its_images_equally_often():
    drawn = np.concatenate([balanced_order(3, epoch, RARE) for epoch in range(300)])
    of_class = np.bincount(RARE[drawn], minlength=3)
    assert np.abs(of_class - 4000).max() < 5 * np.sqrt(12000 * 2 / 9)
    images = np.bincount(drawn, minlength=40)[RARE == 0]
    assert np.abs(images - 4000 / 30).max() < 5 * np.sqrt(4000 / 30)
    assert balanced_order(3, 0, RARE).tolist() != balanced_order(3, 1, RARE).tolist()


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_balanced_batches_are_the_same_after_a_resume_and_on_any_number_of_processes(num_processes):
    whole = TrainBatches(source(RARE), 8, 5, sampling="balanced")
    assert whole.steps_per_epoch == 5
    resumed = [TrainBatches(source(RARE), 8, 5, p, num_processes, sampling="balanced") for p in range(num_processes)]
    for step in (7, 12, 3):
        for name, rows in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in resumed]), rows)
        epoch, position = divmod(step, 5)
        order = balanced_order(5, epoch, RARE)
        np.testing.assert_array_equal(whole[step]["image"][:, 0, 0, 0], order[8 * position : 8 * position + 8])
        np.testing.assert_array_equal(whole[step]["label"], RARE[whole[step]["image"][:, 0, 0, 0]])


def test_an_image_that_is_drawn_twice_is_augmented_in_two_ways():
    batches = TrainBatches(source(RARE), 10, 0, num_repeats=2, sampling="balanced")
    samples = np.concatenate([batches[step]["sample"] for step in range(4)])
    assert len(set(samples.tolist())) == 40
    images = np.concatenate([batches[step]["image"][:, 0, 0, 0] for step in range(4)])
    np.testing.assert_array_equal(images[::2], images[1::2])  # repetitions stay neighbours


def test_balanced_sampling_of_images_with_several_labels_is_refused():
    with pytest.raises(UserError, match=r"sampling='balanced' needs images of one label each.*use 'shuffle'"):
        TrainBatches(several(), 4, 0, sampling="balanced")


def test_batches_hold_the_labels_of_their_images():
    images = several()
    assert images.multi_label
    batch = TrainBatches(images, 4, 0)[1]
    np.testing.assert_array_equal(batch["label"], images.labels[batch["image"][:, 0, 0, 0]])
    assert batch["label"].dtype == np.uint8


def test_files_of_several_labels_are_read_with_theirs(tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]], np.uint8)
    for i in range(4):
        Image.new("RGB", (9, 7), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    none, paths = np.zeros(4, np.int64), tuple(f"{i}.png" for i in range(4))
    files = FolderImages(tmp_path, tuple("abc"), paths, labels, (), none.astype(np.int32) - 1, none, none)
    reading = DatasetOptions(preprocess=Preprocess(8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3), bad_images=BadImages(1))
    images = reading.source(files)
    assert images.multi_label
    (batch,) = EvalBatches(images, 6)
    assert batch["mask"].tolist() == [1, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(batch["label"][[0, 1, 3]], labels[[0, 1, 3]])
    assert batch["label"].dtype == np.uint8
    some = images.take(np.array([3, 2]))
    np.testing.assert_array_equal(some.labels, labels[[3, 2]])
    # In training the next good one takes the place of a damaged one, with its labels.
    batch = TrainBatches(some, 2, 0)[0]
    np.testing.assert_array_equal(batch["label"], labels[[3, 3]])
    assert images.digest() != reading.source(replace(files, labels=1 - labels)).digest()
    with pytest.raises(UserError, match=r"labels of shape \(4, 3\) must be \(N, 2\)"):
        reading.source(replace(files, class_names=("a", "b")))


def test_labels_that_do_not_fit_their_names_are_refused():
    with pytest.raises(UserError, match=r"labels of shape \(2, 2\) must be \(N, 3\)"):
        source(np.zeros((2, 2), np.uint8), "abc")
    with pytest.raises(UserError, match=r"labels from 0 to 2 must be 0 or 1"):
        source(np.array([[0, 2]]), "ab")


def test_labels_that_no_image_has_are_named():
    (line,) = missing_classes(several(), None, held_out=True)
    assert line.startswith("no training image of 1 of the 3 classes (c): ")
