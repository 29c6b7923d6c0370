"""One way to read training images, timed in a process of its own.

The process reads its task as JSON from its first line of standard input and answers with one line when it is warm; at
every further line "go" it takes one measurement and answers with its images per second. A measurement begins with
nothing prefetched and ends with the last batch, so that no work is done before or after it.
"""

import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

from resnet_jax.runtime import keep_freed_memory

# The batches of a measurement, from its number: 1, 2, ...
Run = Callable[[int], Iterable[Any]]


def main() -> None:
    """Answer the lines of standard input."""
    spec = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["cores"]])
    if spec["way"] in ("ours", "decode"):
        keep_freed_memory()  # as a command does
    run = WAYS[spec["way"]](spec)
    for _ in run(0):  # warm-up
        pass
    print(json.dumps({}), flush=True)
    for position, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        num_batches = sum(1 for _ in run(position + 1))
        print(json.dumps({"rate": num_batches * spec["batch_size"] / (time.perf_counter() - started)}), flush=True)


def ours(spec: dict[str, Any]) -> Run:
    """Batches of the training pipeline on the device: prefetch, decoder threads, random-resized crops."""
    from pathlib import Path

    import jax
    import numpy as np

    from resnet_jax.data.batches import TrainBatches
    from resnet_jax.data.folder import FolderImages
    from resnet_jax.data.options import DatasetOptions
    from resnet_jax.data.prefetch import prefetch
    from resnet_jax.data.threads import DecodeThreads
    from resnet_jax.data.transforms.training import RandomResizedCrop, TrainingTransform

    files = _repeated(spec)
    none = np.zeros(len(files), np.int64)
    encoded = FolderImages(Path("/"), ("any",), tuple(files), none, (), none - 1, none, none)
    reading = DatasetOptions(threads=DecodeThreads(spec["cores"]))
    source = reading.source(encoded).transformed(TrainingTransform(RandomResizedCrop(spec["image_size"])))
    batches = TrainBatches(source, spec["batch_size"], seed=0)

    def run(position: int) -> Iterable[Any]:
        first = position * spec["num_batches"]
        steps = range(first, first + spec["num_batches"])
        return prefetch(lambda step: jax.block_until_ready(jax.device_put(batches[step])), steps)

    return run


def decode(spec: dict[str, Any]) -> Run:
    """The decoder alone, on all of each image, one thread a core."""
    import simplejpeg

    def read(path: str) -> int:
        with open(path, "rb") as file:
            return simplejpeg.decode_jpeg(file.read()).shape[0]

    pool = ThreadPoolExecutor(spec["cores"])
    files = _repeated(spec)[: spec["batch_size"]]
    return lambda position: (list(pool.map(read, files)) for _ in range(spec["num_batches"]))


def pillow(spec: dict[str, Any]) -> Run:
    """Decode, crop and resize by Pillow, one worker process a core."""
    pool = ProcessPoolExecutor(spec["cores"], get_context("fork"))
    files, size, batch_size = _repeated(spec)[: spec["batch_size"]], spec["image_size"], spec["batch_size"]
    chunk = max(1, batch_size // (4 * spec["cores"]))

    def run(position: int) -> Iterable[Any]:
        for k in range(position * spec["num_batches"], (position + 1) * spec["num_batches"]):
            samples = range(k * batch_size, (k + 1) * batch_size)
            yield list(pool.map(read_by_pillow, files, itertools.repeat(size), samples, chunksize=chunk))

    return run


def read_by_pillow(path: str, size: int, sample: int) -> int:
    """One image as torchvision makes it; the number of its bytes."""
    from PIL import Image

    from resnet_jax.data.transforms.keyed_random import KeyedRandom
    from resnet_jax.data.transforms.training import RandomResizedCrop

    with open(path, "rb") as file:
        image = Image.open(io.BytesIO(file.read())).convert("RGB")
    box = RandomResizedCrop(size).box(*image.size, KeyedRandom(0, 0, sample))
    return len(image.crop(box).resize((size, size), Image.Resampling.BILINEAR).tobytes())


def tf_data(spec: dict[str, Any]) -> Run:
    """tf.data with decode_and_crop_jpeg, resize, flip and batching, as many calls at once as cores."""
    os.environ.update({"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"})
    errors = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its start-up messages
    import tensorflow as tf

    os.dup2(errors, 2)
    size = spec["image_size"]

    def read(path: Any) -> Any:
        data = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        image = tf.image.resize(tf.io.decode_and_crop_jpeg(data, window, channels=3), (size, size))
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = spec["cores"]
    files = tf.data.Dataset.from_tensor_slices(_repeated(spec)).repeat()
    images = files.map(read, num_parallel_calls=spec["cores"]).batch(spec["batch_size"])
    dataset = images.take(spec["num_batches"]).prefetch(2).with_options(options)
    return lambda position: dataset.as_numpy_iterator()


WAYS: dict[str, Callable[[dict[str, Any]], Run]] = {
    "ours": ours, "decode": decode, "pillow": pillow, "tf_data": tf_data,
}  # fmt: skip


def _repeated(spec: dict[str, Any]) -> list[str]:
    """The files, as often as a batch needs at least."""
    return spec["files"] * -(-spec["batch_size"] // len(spec["files"]))


if __name__ == "__main__":
    main()
