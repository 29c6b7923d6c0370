"""Encoded images in batches: the same on any threads and processes, and what becomes of bad ones."""

import io
import threading

import numpy as np
import pytest
from encoded_images import IMAGES, PREPROCESS, assert_same, epochs, jpeg, source
from PIL import Image

from resnet_jax.data.batches import EvalBatches, TrainBatches
from resnet_jax.data.source import ArraySource, Keys
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.policies import TrivialAugmentWide
from resnet_jax.data.transforms.preprocess import Preprocess, TenCrop
from resnet_jax.data.transforms.training import RandomResizedCrop, TrainingTransform
from resnet_jax.errors import UserError

TRANSFORM = TrainingTransform(RandomResizedCrop(16), (TrivialAugmentWide(),))


@pytest.fixture(scope="module")
def three_epochs():
    return epochs(source(transform=TRANSFORM))


@pytest.mark.parametrize("num_processes", [2, 4])
def test_three_epochs_are_the_same_on_any_number_of_processes(three_epochs, num_processes):
    assert_same(epochs(source(transform=TRANSFORM), num_processes), three_epochs)


@pytest.mark.parametrize("num_threads", [1, 5])
def test_three_epochs_are_the_same_with_any_number_of_threads(three_epochs, num_threads):
    assert_same(epochs(source(transform=TRANSFORM, num_threads=num_threads)), three_epochs)


def test_three_epochs_are_the_same_after_a_resume_in_the_middle(three_epochs):
    assert_same(epochs(source(transform=TRANSFORM), first_step=4), three_epochs[4:])


def test_augmentation_changes_from_epoch_to_epoch_and_with_the_repetition():
    cropped = source(transform=TrainingTransform(RandomResizedCrop(16)))
    by_image = {}
    for batch in epochs(cropped):
        for sample, image in zip(batch["sample"], batch["image"], strict=True):
            by_image.setdefault(int(sample), []).append(image.tobytes())
    assert max(map(len, by_image.values())) == 3
    assert all(len(set(images)) == len(images) for images in by_image.values())
    repeated = TrainBatches(cropped, 4, 7, num_repeats=4)[0]
    assert len(set(repeated["label"].tolist())) == 1
    assert len({image.tobytes() for image in repeated["image"]}) == 4


def test_evaluation_reads_each_image_as_preprocessed_once():
    batches = list(EvalBatches(source(), 5))
    rows = [row for batch in batches for row, mask in zip(batch["image"], batch["mask"], strict=True) if mask]
    expected = [PREPROCESS.pixels(Image.open(io.BytesIO(data))) for data in IMAGES]
    np.testing.assert_array_equal(rows, expected)
    assert [batch["image"].shape for batch in batches] == [(5, 16, 16, 3)] * 3


def test_training_without_a_transform_reads_as_evaluation():
    indices = np.array([3, 3, 8])
    examples = source().read(indices, Keys(0, 0, indices))
    np.testing.assert_array_equal(examples.image, source().read(indices).image)
    assert (examples.label.tolist(), examples.label.dtype) == ([0, 0, 2], np.int32)


def test_ten_crops_come_as_ten_views():
    views = source(preprocess=TenCrop(PREPROCESS)).read(np.array([2, 5])).image
    assert views.shape == (2, 10, 16, 16, 3)
    np.testing.assert_array_equal(views[:, 4], source().read(np.array([2, 5])).image)  # the centre


def test_part_of_a_source_has_the_images_at_the_indices():
    part = source().take(np.array([4, 9, 2])).take(np.array([2, 0]))
    assert (len(part), part.name(0), part.name(1)) == (2, "image 2", "image 4")
    np.testing.assert_array_equal(part.read(np.array([1])).image, source().read(np.array([4])).image)


def test_labels_are_mapped_to_the_models():
    mapped = source(relabel=np.array([7, 5, 6], np.int32))
    assert mapped.read(np.arange(4)).label.tolist() == [7, 5, 6, 7]


BAD = [b"" if i == 2 else data[: len(data) // 2] if i == 9 else data for i, data in enumerate(IMAGES)]


@pytest.mark.parametrize("keys", [None, Keys(0, 0, np.arange(13))])
def test_first_bad_image_raises_by_name(keys):
    with pytest.raises(UserError, match=r"image (2|9) cannot be read as an image \(.+\): replace or remove it"):
        source(BAD).read(np.arange(13), keys)


def test_bad_images_are_skipped_in_evaluation_and_counted(capsys):
    images = source(BAD, limit=2)
    batches = list(EvalBatches(images, 4))
    assert sum(batch["mask"].sum() for batch in batches) == 11
    assert images.bad_images.names == {"image 2", "image 9"}
    list(EvalBatches(images, 4))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2  # once each
    assert all("warning: skipped (" in line and "of at most 2): image " in line for line in told)


def test_next_good_image_takes_a_bad_ones_place_in_training():
    indices = np.array([1, 2, 3])
    examples = source(BAD, limit=2).read(indices, Keys(0, 0, indices))
    assert examples.valid.all()
    assert examples.label.tolist() == [1, 0, 0]  # image 3 in the place of image 2
    np.testing.assert_array_equal(examples.image[1], examples.image[2])


def test_training_with_bad_images_is_the_same_on_any_number_of_processes():
    def batches(num_processes):
        return epochs(source(BAD, limit=2, transform=TRANSFORM), num_processes)

    assert_same(batches(4), batches(1))


def test_more_bad_images_than_allowed_are_an_error_that_names_the_last():
    with pytest.raises(UserError, match=r"2 images cannot be read, more than config.max_bad_images=1; the last: image"):
        source(BAD, limit=1).read(np.arange(13))


def test_set_of_bad_images_alone_ends():
    with pytest.raises(UserError, match="not one image"):
        source([b"", b""], limit=5).read(np.array([0]), Keys(0, 0, np.array([0])))


def test_rotation_that_is_not_applied_is_told_once(capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg(0, exif=exif)
    assert source([turned, turned]).read(np.arange(2)).valid.all()
    (line,) = capsys.readouterr().err.splitlines()
    assert "asks by EXIF to be rotated" in line
    assert "config.exif_rotation=True" in line
    whole = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert source([turned], preprocess=whole, apply_exif_orientation=True).image_shape == (31, 27, 3)
    assert capsys.readouterr().err == ""


def test_training_images_of_different_sizes_need_a_crop():
    whole = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    images = source([IMAGES[0], jpeg(1, (9, 8))], preprocess=whole)
    with pytest.raises(UserError, match=r"image 1 has 9x8 pixels and image 0 31x27: images of different sizes need"):
        images.read(np.arange(2), Keys(0, 0, np.arange(2)))


def test_images_in_memory_take_the_same_transform():
    pixels = source(preprocess=Preprocess(None, None, "bilinear", (0.0,) * 3, (1.0,) * 3)).read(np.arange(13)).image
    arrays = ArraySource(pixels, np.arange(13, dtype=np.int32) % 3, ("a", "b", "c")).transformed(TRANSFORM)
    assert_same(epochs(arrays), epochs(source(transform=TRANSFORM)))


def test_as_many_threads_as_asked_for():
    assert DecodeThreads(3).num_threads == 3
    assert DecodeThreads().num_threads >= 1
    names = set()
    both = threading.Barrier(2)

    def work(i):
        both.wait(10)  # ends only if two threads run at once
        names.add(threading.current_thread().name)

    DecodeThreads(2).for_each(work, 2)
    assert len(names) == 2
