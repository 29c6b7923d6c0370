"""Checks how many images each class has that tables, shards or Parquet files say: these are the classes only then."""

from collections.abc import Mapping

import numpy as np

from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.labels import class_counts
from resnet_jax.data.split_names import is_unlabelled
from resnet_jax.errors import UserError, abridge

_MOST_SHOWN = 4
_MANY = 10  # classes of one image alone, from which on they are hardly classes


def check_counts(where: str, parts: Mapping[str, LabelledFiles]) -> list[str]:
    """Returns notes on classes that hardly are such: without training images, of one image, called unlabelled.

    Args:
      where: for messages.
      parts: by split, all of the same class names.

    Raises:
      UserError: for a split that has no class of the training images.
    """
    counts = {split: class_counts(part.labels, len(part.class_names)) for split, part in parts.items()}
    names = next(iter(parts.values())).class_names
    total = sum(counts.values(), np.zeros(len(names), np.int64))
    notes = []
    if "train" in parts:
        unseen = [
            name for name, of_all, of_train in zip(names, total, counts["train"], strict=True) if of_all > of_train == 0
        ]
        for split, of_split in counts.items():
            own = [name for name, count in zip(names, of_split, strict=True) if count]
            if len(own) > 1 and counts["train"].any() and not (of_split * counts["train"]).any():
                raise UserError(
                    f"{where}: the classes of {split}, {abridge(own, _MOST_SHOWN)}, are none of the training images: "
                    "all splits must be of the same classes"
                )
        if unseen:
            notes.append(f"{where}: no training image of {abridge(unseen, _MOST_SHOWN)}, which other splits have")
    num_single = int((total == 1).sum())
    if num_single >= _MANY and 2 * num_single > len(names):
        notes.append(f"{where}: {num_single:,} of {len(names):,} classes have one image alone")
    unlabelled = [name for name, count in zip(names, total, strict=True) if count and is_unlabelled(name)]
    if unlabelled:
        notes.append(f"{where}: taken as a class: {abridge(unlabelled, _MOST_SHOWN)}; take out the rows if it is none")
    return notes
