"""Which folders and tars are splits by their names, training, validation and test images, and which are no classes."""

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
    "test": ("test", "testing", "testset", "eval", "evaluation", "holdout", "pred"),
}
# Words that say nothing of what is in a folder.
NEUTRAL_WORDS = (
    "set", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures", "photos", "folder", "my", "the",
    "all", "full", "final", "new", "jpg", "jpeg", "png", "tif", "tiff", "public",
    "private",
)  # fmt: skip
_UNLABELLED = {"unlabelled", "unlabeled", "unannotated", "unsup"}
_ALL_SPLIT_WORDS = {word for known in SPLIT_WORDS.values() for word in known}
# Words of what belongs to images and is not trained on.
BELONGINGS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "ann", "segmentation", "segmentations",
    "groundtruth", "ground", "truth", "gt", "segmentationclass", "segmentationobject", "trimaps", "trimap", "depth",
    "boxes",
)  # fmt: skip
# Words of folders that hold all images alike, what belongs to them, or a split: such folders are no classes.
_NO_CLASS_WORDS = {
    "images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "input", "inputs", "data", "raw",
    "output", "outputs", "target", "targets", "edges", "color", "colour", "grayscale", "gray", "grey", "segmented",
    "original", "augmented", "resized", "cropped", "thumbnails", "thumbs", "jpg", "jpeg", "png", "tif", "tiff",
    *BELONGINGS, *_ALL_SPLIT_WORDS,
}  # fmt: skip
# Words of folders beside a set that describe it.
_ABOUT = {
    "meta", "metadata", "sample", "samples", "example", "examples", "doc", "docs", "documentation", "figures",
    "preview", "previews", "assets", "demo", "screenshots", "icons", "results", "predictions", "backup", "backups",
    "tmp", "temp", "src",
}  # fmt: skip


_ENUMERATED = re.compile(r"\(?[A-Za-z][.)] ?")


def _words(name: str) -> list[str]:
    """Returns the words of a folder's name in lower case: training and set of TrainingSet and of "a. Training Set"."""
    start = _ENUMERATED.match(name)
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name[start.end() :] if start else name)]


def _lower_words(name: str) -> list[str]:
    """Returns the words of a name, those written together in capitals as one: jpegimages of JPEGImages."""
    return re.findall(r"[a-z]+", name.lower())


def split_named(name: str) -> str | None:
    """Returns the split whose usual folder is called so, in any case."""
    return next((split for split, names in SPLIT_FOLDERS.items() if name.lower() in names), None)


def split_in(name: str) -> str | None:
    """Returns the split that a folder's name has a word of: "train" of seg_train, TrainingSet or train2017."""
    words = {*_words(name), name.lower()}
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def plain_split(name: str) -> str | None:
    """Returns the split of a name that says nothing else: of test_set, dev and train2017, not of bullet_train."""
    return split_in(name) if {*_words(name)} <= {*NEUTRAL_WORDS, *_ALL_SPLIT_WORDS} else None


def ends_in_split(name: str) -> bool:
    """Returns whether the last word of a name, but for those that say nothing, is a split's: of pets_test_images."""
    words = [word for word in _words(name) if word not in NEUTRAL_WORDS]
    return bool(words) and words[-1] in _ALL_SPLIT_WORDS


def is_unlabelled(name: str) -> bool:
    """Returns whether a folder's name says that its images have no labels."""
    words = {*_words(name)}
    return bool(words & _UNLABELLED) and words <= {*NEUTRAL_WORDS, *_UNLABELLED, *_ALL_SPLIT_WORDS}


def is_no_class(name: str) -> bool:
    """Returns whether a name has only words of what is no class."""
    words = _lower_words(name)
    return bool(words) and {*words} <= _NO_CLASS_WORDS


def is_belonging(name: str) -> bool:
    """Returns whether a folder is named like what belongs to images: masks, lung masks, ground_truth."""
    words = _lower_words(name)
    return bool(words) and words[-1] in BELONGINGS and not {*words} & {"with", "without", "no", "not"}


def is_about(name: str) -> bool:
    """Returns whether a folder's name says that it describes a set: docs, samples."""
    words = _lower_words(name)
    return bool(words) and {*words} <= {*_ABOUT, "images"}


def holds_all_alike(name: str, around: str) -> bool:
    """Returns whether a folder is named like one of all images of the folder `around` it: images, cat_images."""
    words = _lower_words(name)
    return bool(words) and {*words} - {*_lower_words(around)} <= _NO_CLASS_WORDS


def are_splits(names: Sequence[str], paths: Iterable[str]) -> bool:
    """Returns whether folders are named like splits, not like classes. paths: of the images in them, names first.

    One is named for training and another for another split. If they hold images only, each name with a split's word has
    no other words than words of splits and data, and words that all of them share: seg_train, seg_test. They are then
    more than half of the folders, or half if they share words. If one of them holds folders, half is enough, and the
    names may have other words: train_pets, test_pets.
    """
    named = [name for name in names if split_in(name) is not None]
    splits = {split_in(name) for name in named}
    if "train" not in splits or len(splits) < 2:
        return False
    if {path.partition("/")[0] for path in paths if path.count("/") >= 2} & set(named):
        return 2 * len(named) >= len(names)
    common = set.intersection(*(set(_words(name)) for name in named))
    usual = {*NEUTRAL_WORDS, *_ALL_SPLIT_WORDS}
    is_most = 2 * len(named) > len(names) - bool(common - usual)
    return all(set(_words(name)) <= usual | common for name in named) and is_most


def name_splits(names: Sequence[str], paths: Iterable[str]) -> dict[str, str]:
    """Returns the splits that folders or tars stand for by their names, if they stand for one; paths: as above.

    Of pets and pets_test, the one without a split's word holds the training images.
    """
    named = {name: split for name in names if (split := split_in(name)) is not None}
    if are_splits(names, paths):
        return named
    rest = [name for name in names if name not in named]
    if len(rest) != 1 or not named or "train" in named.values():
        return {}
    subject = {*_words(rest[0])} - {*NEUTRAL_WORDS}
    repeated = all({*_words(name)} - {*NEUTRAL_WORDS, *_ALL_SPLIT_WORDS} == subject for name in named)
    return {rest[0]: "train", **named} if repeated and (subject or {*_words(rest[0])}) else {}


def divide_name(name: str) -> tuple[str | None, str]:
    """Returns (the split that a folder's name has a word of, what else it says): test and A of testA; None, cat of cat.

    Both stand in one name where a folder is a class of a split.
    """
    split = split_in(name)
    if split is None:
        return None, name
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    word = next((part for part in parts if part.lower() in SPLIT_WORDS[split]), name)
    before, _, after = name.partition(word)
    return split, "_".join(filter(None, (before.strip("-_. "), after.strip("-_. "))))


def split_of(name: str) -> str:
    """Returns the split's folder that a tar beside the split's folders stands for, by its name; empty if none."""
    word = next((i for i, letter in enumerate(name) if not letter.isalpha()), len(name))
    known = [folder for folders in SPLIT_FOLDERS.values() for folder in folders]
    return name[:word] if name[:word].lower() in known else ""
