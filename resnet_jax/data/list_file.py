"""Labels images by a text file without a header, whose lines begin with an image's name and its class."""

import numpy as np

from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.layout import Layout
from resnet_jax.data.listing import Listing, StoredFile
from resnet_jax.data.split_names import split_in

_MOST_BYTES = 2**26


def label_by_list(listing: Listing, layout: Layout, split: str) -> tuple[LabelledFiles, str] | None:
    """Returns (the images of a split that lie in no class folders, a note), labelled by a list in it or named after it.

    Each line of the list has an image of the split and a class of the training images, by tabs or spaces, and what
    follows does not matter: val_0.JPEG, n03444034, a box. Of several lists the first counts. None if there is none that
    has all the images.
    """
    folder = layout.unlabelled[split]
    classes = tuple(layout.splits["train"].classes) if "train" in layout.splits else ()
    files = sorted(file for file in listing.files if file.path.startswith(f"{folder}/"))
    by_name = {file.path.rpartition("/")[2]: i for i, file in enumerate(files)}
    if not classes or len(by_name) < len(files):
        return None
    positions = {name: i for i, name in enumerate(classes)}
    for file in listing.others:
        if not _may_be_of(file, folder, split):
            continue
        labels = np.full(len(files), -1, np.int32)
        for line in _lines(listing, file):
            fields = line.split("\t") if "\t" in line else line.split()
            image = by_name.get(fields[0].rpartition("/")[2]) if len(fields) > 1 else None
            label = positions.get(fields[1].strip()) if len(fields) > 1 else None
            if image is not None and label is not None:
                labels[image] = label if labels[image] in (-1, label) else -2
        if (labels >= 0).all():
            note = f"the {split} images in {folder} have the labels that {file.path} says"
            return LabelledFiles(folder, classes, files, labels, listing.tars), note
    return None


def _may_be_of(file: StoredFile, folder: str, split: str) -> bool:
    above, _, name = file.path.rpartition("/")
    is_near = f"{above}/".startswith(f"{folder}/") or (split_in(name.rpartition(".")[0]) == split)
    return file.tar < 0 and is_near and name.lower().endswith(".txt")


def _lines(listing: Listing, file: StoredFile) -> list[str]:
    path = listing.root / file.path
    if path.stat().st_size > _MOST_BYTES:
        return []
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
