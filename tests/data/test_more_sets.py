"""More image sets as they are unpacked: each is read rightly and said, or refused in one line that says why."""

import pytest
from image_trees import images, make_tree

from resnet_jax.data.image_set import describe_lines, open_image_set
from resnet_jax.errors import UserError

PETS = ("cat", "dog")


def sets(*patterns, names=PETS):
    """Paths of an image of each class for each pattern."""
    return images(*(pattern.format(name) for pattern in patterns for name in names))


# What lies there, the classes of each split with their numbers of images, and what is said of it.
UNDERSTOOD = {
    "a smaller training set beside the validation images": (
        sets("train_mini/{}/1.png", "val/{}/1.png"), {"train": "cat 1 dog 1", "validation": "cat 1 dog 1"},
        "splits by their folders' names: train train_mini/",
    ),
    "splits that are numbered by letters": (
        sets("a. Training Set/{}/1.png", "b. Testing Set/{}/1.png"), {"train": "cat 1 dog 1", "test": "cat 1 dog 1"},
        "train a. Training Set/",
    ),
    "splits that say the kind of their files": (
        sets("train-jpg/{}/1.png", "test-jpg/{}/1.png"), {"train": "cat 1 dog 1", "test": "cat 1 dog 1"}, "",
    ),
    "people are classes": (sets("person_1/1.png", "person_2/1.png"), {"all": "person_1 1 person_2 1"}, ""),
    "coarse classes, of which one holds folders": (
        images("cat/young/1.png", "cat/old/1.png", "dog/1.png"), {"all": "cat 2 dog 1"}, "images only in folders",
    ),
}  # fmt: skip

# What lies there, and what the one line says.
REFUSED = {
    "flat splits that say the kind of their files": (
        images("train-jpg/1.jpg", "test-jpg/2.jpg"), "ROOT/train-jpg holds no images in class folders",
    ),
    "flat splits of two kinds of files": (
        images("train-jpg/1.jpg", "train-tif/1.tif", "test-jpg/2.jpg", "test-tif/2.tif"), "no images in class folders",
    ),
    "flat splits that are numbered by letters": (
        images("1. Images/a. Training Set/1.jpg", "1. Images/b. Testing Set/1.jpg"), "no images in class folders",
    ),
    "flat splits of one name beside as many other folders": (
        images("set/bounding_box_train/1.jpg", "set/bounding_box_test/1.jpg", "set/query/1.jpg", "set/gt_bbox/1.jpg"),
        "ROOT/set holds gt_bbox/ beside splits",
    ),
    "a set beside loose test images": (
        {**sets("pets_dataset/{}/1.png"), **images("kaggle_testset/1.png", "kaggle_testset/2.png")},
        "ROOT holds kaggle_testset/ beside pets_dataset/, which holds folders, cat, dog, and it is named like images",
    ),
    "a set in a folder of its own name beside larger images": (
        {**sets("tiles_5000/tiles_5000/{}/1.png"), **images("larger_10/larger_10/1.png")},
        "ROOT holds tiles_5000/ with a folder of its own name in it, as unpacking leaves it",
    ),
    "patients of one image each": (images("patient01/1.png", "patient02/1.png"), "named like patients"),
    "days": (images("2021-01-31/1.png", "2021-02-01/1.png"), "named like patients, studies or days"),
    "a split of patients": (
        images("train/patient1/study1/1.png", "train/patient2/study1/1.png", "valid/patient3/study1/1.png"),
        "ROOT/train holds the folders patient1, patient2, which are named like patients",
    ),
}  # fmt: skip


def understood(root):
    described = open_image_set(root).describe()
    counts = {
        split: " ".join(f"{name} {count}" for name, count in part["classes"].items())
        for split, part in described["splits"].items()
    }
    return counts, " | ".join(described["notes"]).replace(str(root), "ROOT"), described


@pytest.mark.parametrize(("files", "expected", "said"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_set_is_read_rightly_and_said(tmp_path, files, expected, said):
    counts, notes, described = understood(make_tree(tmp_path, files))
    assert counts == expected, notes
    assert said in notes
    assert len(describe_lines(described)) <= 3
    assert "\n" not in notes


@pytest.mark.parametrize(("files", "line"), REFUSED.values(), ids=REFUSED)
def test_set_is_refused_in_one_line(tmp_path, files, line):
    root = make_tree(tmp_path, files)
    with pytest.raises(UserError) as info:
        open_image_set(root)
    assert line in str(info.value).replace(str(root), "ROOT")
    assert "\n" not in str(info.value)
