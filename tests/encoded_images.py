"""A small set of encoded images in memory, for tests of what reads them."""

import io

import numpy as np
from PIL import Image

from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.data.transforms.preprocess import Preprocess

PREPROCESS = Preprocess(20, 16, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Stored:
    """Images in a list, as files or records hold them."""

    labels = None  # as of TFDS: only reading an image tells its label

    def __init__(self, data, num_classes=3):
        self.data, self.class_names = data, tuple(f"class {i}" for i in range(num_classes))

    def __len__(self):
        return len(self.data)

    def read(self, index):
        return self.data[index], index % len(self.class_names)

    def name(self, index):
        return f"image {index}"

    def digest(self):
        return "images"


def jpeg(seed, size=(31, 27), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", **options)
    return buffer.getvalue()


IMAGES = [jpeg(seed) for seed in range(13)]


def source(data=IMAGES, limit=0, num_threads=2, preprocess=PREPROCESS, kind=Stored, **fields):
    stored = kind(data)
    return EncodedSource(
        stored, np.arange(len(data)), stored.class_names, preprocess, DecodeThreads(num_threads),
        BadImages(limit), **fields,
    )  # fmt: skip


def epochs(images, num_processes=1, first_step=0):
    """Each step's batch over three epochs, the processes' rows put together."""
    parts = [TrainBatches(images, 4, 7, p, num_processes) for p in range(num_processes)]
    return [
        {name: np.concatenate([part[step][name] for part in parts]) for name in ("image", "label", "sample")}
        for step in range(first_step, 3 * parts[0].steps_per_epoch)
    ]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for name, values in other.items():
            np.testing.assert_array_equal(batch[name], values, err_msg=name)
