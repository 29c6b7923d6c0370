"""TFDS data sets by name: prepared once, then read without TensorFlow, as a whole or record by record."""

import contextlib
import io
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.data.decoding import BadImageError
from resnet_jax.data.tfds.builder import (
    FILE_FORMAT,
    TFRECORD,
    find_builder,
    import_for_tfds,
    one_line,
    prepared_variants,
)
from resnet_jax.data.tfds.prepare import manual_dir, prepare, prepare_in_subprocess
from resnet_jax.data.tfds.tfrecord import TfRecords
from resnet_jax.errors import RunError, UserError, check_choice, truncate
from resnet_jax.storage.address import is_address

__all__ = [
    "TfdsRecords",
    "load_arrays",
    "manual_dir",
    "open_records",
    "prepare",
    "split_names",
    "stored_name",
]

# Small records come twice as fast by the chunk; two threads win what Pillow does without the interpreter lock.
READ_CHUNK = 500
READ_THREADS = 2
# What sets call their validation images otherwise.
OTHER_SPLIT_NAMES = {"validation": ("val", "valid", "dev")}
FILE_NAME_FEATURES = ("file_name", "filename", "image/filename")


class NoLabelsError(UserError):
    """A split whose images have no labels, as the test images of ImageNet."""


@dataclass(frozen=True)
class TfdsRecords:
    """The examples of one split, by index; any number of threads may read at once.

    Attributes:
      class_names: of label 0, 1, …;
      fixed_shape: (H, W, C) of every image, None if sizes vary.
    """

    title: str  # "imagenet2012:train"
    class_names: tuple[str, ...]
    fixed_shape: tuple[int, int, int] | None
    file_name_feature: str  # "" if the set has none
    # Serialized tf.train.Example by index: TFDS's data source of array_record, whose readers are shared by all threads,
    # or TfRecords.
    examples: Any

    @property
    def labels(self) -> None:
        """None: only reading a record gives its label."""

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, index: int) -> tuple[bytes, int]:
        """Returns the encoded image as it is stored, and its label in [0, num_classes).

        Raises:
          UserError: naming the record: BadImageError if it cannot be read, NoLabelsError or another if its label is
            none.
        """
        return self.read_many([index])[0]

    def read_many(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """Returns the results of `read` for each of `indices`."""
        try:
            # One by one needs no threads.
            examples = [self.examples[indices[0]]] if len(indices) == 1 else self.examples.__getitems__(indices)
        except RunError:  # the network's fault, and no image's
            raise
        except RuntimeError as error:  # array_record's, whatever is wrong with the file, and TfRecords's
            place = f"{indices[0]}…" if len(indices) > 1 else indices[0]
            raise BadImageError(f"{self.title}[{place}]", one_line(error)) from error
        return [self._image_and_label(*pair) for pair in zip(indices, examples, strict=True)]

    def name(self, index: int) -> str:
        """Returns the record's name for messages: "imagenet2012:train[17] (n01440764_10026.JPEG)"."""
        try:
            return self._name(index, _features(self.examples[index]))
        except RuntimeError:
            return f"{self.title}[{index}]"

    def digest(self) -> str:
        """Returns the title and the number of records, which TFDS's versions keep."""
        return f"{self.title} {len(self)}"

    def _image_and_label(self, index: int, example: bytes) -> tuple[bytes, int]:
        features = _features(example)
        image, label = features["image"].bytes_list.value[0], features["label"].int64_list.value[0]
        if not 0 <= label < len(self.class_names):
            error = NoLabelsError if label == -1 else UserError
            raise error(
                f"{self._name(index, features)} has label {label}{' (none)' if label == -1 else ''}, which must be in "
                f"[0, {len(self.class_names)}): choose a split with labels"
            )
        return image, label

    def _name(self, index: int, features: Any) -> str:
        text = f"{self.title}[{index}]"
        if not self.file_name_feature:
            return text
        return f"{text} ({truncate(features[self.file_name_feature].bytes_list.value[0].decode(errors='replace'))})"


def split_names(name: str, data_dir: str = "") -> tuple[str, ...]:
    """Returns the splits of a TFDS set, such as ("train", "validation"), which is prepared first where it is not."""
    return tuple(map(str, _prepared_builder(name, data_dir).info.splits))


def stored_name(split: str, splits: Collection[str]) -> str:
    """Returns what a set with these `splits` calls its split; `split` itself where it has none."""
    other_names = OTHER_SPLIT_NAMES.get(split, ())
    return next((name for name in (split, *other_names) if name in splits), split)


def open_records(name: str, split: str, data_dir: str = "") -> TfdsRecords:
    """Returns the records of a split of a TFDS image classification set, which is prepared first where it is not.

    Args:
      name: "set", "set/config" or "set:version";
      data_dir: "" is TFDS's own default.

    Raises:
      UserError: for an unknown name or split, a set that is not image classification, a split without labels, and
        data that cannot be had, with what to do.
    """
    import tensorflow_datasets as tfds

    builder = _prepared_builder(name, data_dir)
    info = builder.info
    split = stored_name(split, info.splits)
    check_choice(f"{name}'s split", split, map(str, info.splits))
    _allow_open_files(info.splits[split].num_shards)
    image, text = info.features["image"], tfds.features.Text
    file_names = (key for key in FILE_NAME_FEATURES if key in info.features and isinstance(info.features[key], text))
    records = TfdsRecords(
        title=f"{name}:{split}",
        class_names=tuple(info.features["label"].names),
        fixed_shape=image.shape if None not in image.shape else None,
        file_name_feature=next(file_names, ""),
        examples=_examples(builder, split),
    )
    records.read(0)  # detects a split without labels at once
    return records


def _examples(builder: Any, split: str) -> Any:
    """Returns the serialized examples of a split, by index; of TFRecord where nothing else is prepared."""
    import tensorflow_datasets as tfds

    if FILE_FORMAT in {file_format.value for file_format in builder.info.available_file_formats()}:
        import_for_tfds("array_record", builder.name)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw, file_format=FILE_FORMAT)
    import_for_tfds("google_crc32c", builder.name)
    info = builder.info.splits[split]
    template = info.filename_template.replace(filetype_suffix=TFRECORD)
    paths = [Path(path) for path in template.sharded_filepaths(info.num_shards)]
    return TfRecords(paths, info.shard_lengths)


def load_arrays(
    name: str, split: str, data_dir: str = "", mode: str = "RGB"
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns the images (N, H, W, C) uint8, labels (N,) int32 and class names of a TFDS set whose images have one
    size.

    Pillow converts them to `mode`: of "RGB", grey images come in three equal channels. Prepares the set first where it
    is not: from the archive in `manual_dir(data_dir)`, else from the network.

    Raises:
      UserError: as `open_records`, and if sizes vary.
    """
    records = open_records(name, split, data_dir)
    if records.fixed_shape is None:
        raise UserError(f"TFDS set {name!r} has images of different sizes, which cannot be held as one array")
    height, width, _ = records.fixed_shape
    images = np.empty((len(records), height, width, len(mode)), np.uint8)
    labels = np.empty(len(records), np.int32)

    def read(start: int) -> None:
        indices = range(start, min(start + READ_CHUNK, len(records)))
        for i, (encoded, label) in zip(indices, records.read_many(indices), strict=True):
            try:
                with Image.open(io.BytesIO(encoded)) as image:
                    pixels = np.asarray(image.convert(mode)).reshape(image.height, image.width, len(mode))
            except Exception as error:  # Pillow's decoders raise many kinds
                raise UserError(f"{records.name(i)} cannot be read as an image ({one_line(error)})") from error
            if pixels.shape != images.shape[1:]:
                raise UserError(f"{records.name(i)} has the shape {pixels.shape} instead of {images.shape[1:]}")
            images[i], labels[i] = pixels, label

    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(read, range(0, len(records), READ_CHUNK)))
    return images, labels, records.class_names


def _prepared_builder(name: str, data_dir: str) -> Any:
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return builder
    if is_address(data_dir):
        raise UserError(
            f"{data_dir} holds no prepared {name}: prepare it on a disk (--config.data_dir=DIR), and copy "
            f"DIR/{builder.name} there"
        )
    try:
        prepare_in_subprocess(name, data_dir, builder)
    except UserError as error:
        others = prepared_variants(builder, data_dir)
        if not others:
            raise
        raise UserError(f"{error}; prepared already: {', '.join(others)}") from error
    return find_builder(name, data_dir)


def _features(example: bytes) -> Any:
    """Returns the features of a serialized tf.train.Example; TFDS's own way to them, through NumPy, takes twice the
    time.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(example).features.feature


def _allow_open_files(num_files: int) -> None:
    """Lets this process open so many files more: of each shard that is read one stays open, and ImageNet has 1,024."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = soft + num_files if hard == resource.RLIM_INFINITY else min(soft + num_files, hard)
    with contextlib.suppress(OSError, ValueError):  # reading reports it
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
