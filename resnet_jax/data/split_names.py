"""Which folders and tars are splits, by their names: training, validation and test images."""

import re
from collections.abc import Iterable, Sequence

UNDIVIDED = ""  # the one split of images that are not divided
# The names of a split's folder, or of its tars up to a character that is no letter.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


# Words in the names of folders that hold a split under another name: seg_train, training_set, test1, images_val.
SPLIT_WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "validation": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "testset", "eval", "holdout", "pred"),
}


NEUTRAL_WORDS = ("set", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures", "photos", "folder")


def _words(name: str) -> list[str]:
    """Returns the words of a folder's name in lower case: training and set of TrainingSet."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def split_in(name: str) -> str | None:
    """Returns the split that a folder's name has a word of: "train" of seg_train, TrainingSet or train2017."""
    words = {*_words(name), name.lower()}
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def are_splits(names: Sequence[str], paths: Iterable[str]) -> bool:
    """Returns whether folders are named like splits, not like classes. paths: of the images in them, names first.

    One is named for training and another for another split. Where they hold images alone, each that has a split's word
    has no other words than those of splits and data, and the one that all begin with: seg_train, seg_test; and they are
    more than half of the folders. Where one of them holds folders, half is enough, and other words may stand beside:
    train_pets, test_pets.
    """
    named = [name for name in names if split_in(name) is not None]
    splits = {split_in(name) for name in named}
    if "train" not in splits or len(splits) < 2:
        return False
    if {path.partition("/")[0] for path in paths if path.count("/") >= 2} & set(named):
        return 2 * len(named) >= len(names)
    common = set.intersection(*(set(_words(name)[:1]) for name in named))
    usual = {*common, *NEUTRAL_WORDS, *(word for known in SPLIT_WORDS.values() for word in known)}
    return all(set(_words(name)) <= usual for name in named) and 2 * len(named) > len(names)


def split_of(name: str) -> str:
    """Returns the split's folder that a tar beside the split's folders stands for, by its name; empty if none."""
    word = next((i for i, letter in enumerate(name) if not letter.isalpha()), len(name))
    known = [folder for folders in SPLIT_FOLDERS.values() for folder in folders]
    return name[:word] if name[:word].lower() in known else ""
