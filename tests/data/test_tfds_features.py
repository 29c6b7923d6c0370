"""TFDS sets of one's own: grey images, images that cannot be read, and examples that are wrong."""

import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_splits, split_names
from resnet_jax.data.tfds.records import load_arrays, open_records

pytest.importorskip("tensorflow", reason="preparing TFDS data needs the extra 'prepare'")
import tensorflow_datasets as tfds


class TinyGrey(tfds.core.GeneratorBasedBuilder):
    """Grey images of one size, and splits with something wrong."""

    VERSION = tfds.core.Version("1.0.0")
    PIXELS = np.random.RandomState(0).randint(0, 256, (6, 5, 4)).astype(np.uint8)

    def _info(self):
        image, label = tfds.features.Image(shape=(5, 4, 1)), tfds.features.ClassLabel(names=["a", "b", "c"])
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )

    def _split_generators(self, dl_manager):
        good = [(png(pixels), i % 3) for i, pixels in enumerate(self.PIXELS)]
        splits = {
            "train": good,
            "val": good[:4],
            "unlabelled": [(image, -1) for image, _ in good],
            "partly": [*good, (good[0][0], -1)],
            "large": [*good, (png(np.zeros((6, 4), np.uint8)), 0)],
            "damaged": [*good, (b"not an image", 0)],
        }
        return {name: self._generate_examples(examples) for name, examples in splits.items()}

    def _generate_examples(self, examples):
        for i, (image, label) in enumerate(examples):
            yield i, {"image": image, "label": label}


class TinyRgba(TinyGrey):
    def _info(self):
        image, label = tfds.features.Image(shape=(None, None, 4)), tfds.features.ClassLabel(num_classes=3)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("grey")
    TinyGrey(data_dir=data_dir).download_and_prepare(file_format="array_record")
    return str(data_dir)


def test_grey_images_of_one_size_come_as_three_equal_channels(grey):
    images, labels, class_names = load_arrays("tiny_grey", "train", grey)
    expected = sorted((i % 3, pixels.tolist()) for i, pixels in enumerate(TinyGrey.PIXELS))
    for channel in range(3):
        assert sorted(zip(labels.tolist(), images[..., channel].tolist(), strict=True)) == expected
    assert class_names == ("a", "b", "c")
    assert open_records("tiny_grey", "train", grey).fixed_shape == (5, 4, 1)


def test_validation_images_that_are_called_val_are_those(grey):
    reading = DatasetOptions(grey)
    assert split_names("tiny_grey", reading) == ("train", "validation")
    splits = load_splits("tiny_grey", reading, validation_fraction=0.5)
    assert (len(splits.train), len(splits.validation), splits.has_own_validation) == (6, 4, True)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("unlabelled", r"tiny_grey:unlabelled\[0\] has label -1 \(none\), which must be in \[0, 3\)"),
        ("partly", r"tiny_grey:partly\[\d\] has label -1 \(none\), which must be in \[0, 3\)"),
        ("large", r"tiny_grey:large\[\d\] has the shape \(6, 4, 3\) instead of \(5, 4, 3\)"),
        ("damaged", r"tiny_grey:damaged\[\d\] cannot be read as an image \(cannot identify"),
    ],
)
def test_bad_examples_are_told_with_their_record(grey, split, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_arrays("tiny_grey", split, grey)


def test_split_without_labels_is_refused_when_opened(grey):
    with pytest.raises(ValueError, match="choose a split with labels"):
        open_records("tiny_grey", "unlabelled", grey)


def test_images_that_are_neither_grey_nor_colour_are_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(ValueError, match=r"'tiny_rgba' has images of shape \(None, None, 4\) and type uint8: only "):
        open_records("tiny_rgba", "train", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
