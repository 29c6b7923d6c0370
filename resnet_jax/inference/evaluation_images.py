"""The images that `evaluate --data` names, with the model's labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import ArraySource, Source
from resnet_jax.data.sources import load_source, split_names
from resnet_jax.data.split_names import split_named
from resnet_jax.data.table_options import TableOptions
from resnet_jax.distributed.processes import log, warn
from resnet_jax.errors import UserError, check_choice
from resnet_jax.storage.image_folder import local_folder
from resnet_jax.weights.class_names import imagenet_names, imagenet_wordnet_ids

# Sets that --data knows without tfds: before their names.
PLAIN_NAMES = ("digits", "cifar10", "cifar100")


def open_images(data: str, class_names: tuple[str, ...], num_classes: int, reading: DatasetOptions) -> Source:
    """Returns the images that --data names, labelled as the model labels them.

    Args:
      class_names: the model's, empty if unknown.

    Raises:
      UserError: if there are none, or their classes are not the model's.
    """
    name, split = _data_set(data)
    source: Source
    if data.startswith("tfds:") or (name in PLAIN_NAMES and not Path(name).exists()):
        if not split:
            split = "test" if "test" in split_names(name, reading) else "validation"
        source = load_source(name, split, reading)
        if class_names and source.num_classes <= len(class_names):
            source = _labelled_as(source, class_names, data)
        if isinstance(source, ArraySource) and reading.preprocess.changes_pixels:
            source = replace(source, preprocess=reading.preprocess)
    else:
        source = _open_folder(data, class_names, reading)
    if source.num_classes != num_classes:
        raise UserError(f"--data {data} has {source.num_classes} classes, the model {num_classes}")
    return source


def _data_set(data: str) -> tuple[str, str]:
    """Returns (name, split) of [tfds:]NAME[:VERSION][:SPLIT]; the split may be empty."""
    name, *rest = data.removeprefix("tfds:").split(":")
    split = rest.pop() if rest and rest[-1].isalpha() else ""
    return ":".join([name, *rest]), split


def _labelled_as(source: Source, class_names: tuple[str, ...], data: str) -> Source:
    """Returns `source` with the labels that `class_names` give its classes."""
    names = class_names
    if class_names == imagenet_names() and not {*source.class_names} & {*class_names}:
        names = imagenet_wordnet_ids()
    if source.class_names == names:
        return source
    unknown = [name for name in source.class_names if name not in names]
    if unknown or not isinstance(source, EncodedSource):
        raise UserError(
            f"--data {data} has the classes {', '.join(source.class_names[:3])} ..., the model "
            f"{', '.join(class_names[:3])} ...: they must be the same"
        )
    labels = np.array([names.index(name) for name in source.class_names], np.int32)
    return replace(source, class_names=class_names, relabel=labels)


def _open_folder(data: str, class_names: tuple[str, ...], reading: DatasetOptions) -> Source:
    """Returns the images of a folder, a tar or a table, or of one of its splits: PATH[:SPLIT]; says how it was
    understood.

    ImageNet's classes may be called by their WordNet ids.
    """
    where, _, word = data.rpartition(":")
    split = split_named(word)
    if split is None or Path(data).exists():
        where, split = data, None
    if not (path := local_folder(where)).exists():
        raise UserError(f"--data {data!r} must be a folder, a tar or tfds:NAME[:SPLIT], for example tfds:cifar10:test")
    ids = imagenet_wordnet_ids() if class_names == imagenet_names() else ()
    known = (*class_names, *ids) or None
    columns = TableOptions(**{**reading.table.of_columns(), "image_dir": ""})  # as the run's own table was read
    try:
        found = open_image_set(path, table=columns, class_names=known)
    except UserError:
        if columns == TableOptions():
            raise
        found = open_image_set(path, class_names=known)  # it may have others
    for line in describe_lines(found.describe())[1:]:  # without the counts, as the result has them
        log(line)
    if split is not None and not found.splits:
        raise UserError(f"--data {where} is not divided: leave out :{word}")
    if split is not None:
        check_choice(f"the split of --data {where}", split, found.splits)
    stored = found.part(split).class_names
    if not class_names and all(map(str.isdecimal, stored)) and [*stored] != sorted(stored, key=int):
        place = next(i for i, name in enumerate(sorted(stored, key=int)) if name != stored[i])
        warn(f"the classes of {data} are numbers, in the order of texts: {stored[place]} is label {place}")
    names = ids if not {*stored}.isdisjoint(ids) else class_names or None
    return reading.source(found.images(split, class_names=names))
