"""The files of class folders: those of each split, by class and in each class by their paths."""

from collections.abc import Mapping

import numpy as np

from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_folders import SplitPlan


def files_of_classes(listing: Listing, splits: Mapping[str, SplitPlan]) -> dict[str, LabelledFiles]:
    """Returns the files of each split, by class and in each class by their paths."""
    class_of: dict[str, tuple[str, str] | None] = {
        path: (split, name) for split, plan in splits.items() for name, paths in plan.classes.items() for path in paths
    }
    class_of.update((path, None) for plan in splits.values() for path in plan.aside)
    files: dict[tuple[str, str], list[StoredFile]] = {}
    for file in listing.files:
        found = _class_above(file.path.rpartition("/")[0], class_of)
        if found is not None:
            files.setdefault(found, []).append(file)
    return {split: _part(listing, split, plan, files) for split, plan in splits.items()}


def _class_above(folder: str, class_of: dict[str, tuple[str, str] | None]) -> tuple[str, str] | None:
    """Returns the (split, class) of the class folder that `folder` is or lies in; remembers it in `class_of`."""
    if folder not in class_of:
        class_of[folder] = _class_above(folder.rpartition("/")[0], class_of) if folder else None
    return class_of[folder]


def _part(
    listing: Listing, split: str, plan: SplitPlan, files: dict[tuple[str, str], list[StoredFile]]
) -> LabelledFiles:
    ordered = [sorted(files[split, name]) for name in plan.classes]
    labels = np.repeat(np.arange(len(ordered), dtype=np.int32), [len(of_class) for of_class in ordered])
    return LabelledFiles(
        where=plan.path,
        class_names=tuple(plan.classes),
        files=[file for of_class in ordered for file in of_class],
        labels=labels,
        tars=listing.tars,
        places={name: paths[0] for name, paths in plan.classes.items()},
    )
