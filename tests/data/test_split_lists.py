"""Lists that a config names divide images in class folders; a list that does not fit is refused in one line."""

from dataclasses import replace

import pytest
from image_trees import images, make_tree, understood

from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_source
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import UserError

FOLDERS = images(*(f"images/{name}/{i}.png" for name in ("cat", "hot dog") for i in range(4)))
TRAIN = ("cat/0", "cat/1", "hot dog/0")
TEST = ("hot dog/1", "cat/2")


def lines(*entries, header=()):
    return "\n".join((*header, *entries, ""))


# The content of the lists of training and of test images, and the ending of their names.
LISTS = {
    "without endings": (lines(*TRAIN), lines(*TEST), "txt"),
    "with endings": (lines(*(f"{one}.png" for one in TRAIN)), lines(*(f"{one}.png" for one in TEST)), "txt"),
    "from the root": (
        lines(*(f"images/{one}.png" for one in TRAIN)), lines(*(f"./images/{one}" for one in TEST)), "lst",
    ),
    "with labels behind a space": (
        lines(*(f"{one}.png {i}" for i, one in enumerate(TRAIN))), lines(*(f"{one}.png 7" for one in TEST)), "txt",
    ),
    "with labels behind a tab": (
        lines(*(f"{one}\t3 4" for one in TRAIN)), lines(*(f"{one}\t0" for one in TEST)), "txt",
    ),
    "with labels behind a comma": (lines(*(f"{one},x" for one in TRAIN)), lines(*(f"{one},y" for one in TEST)), "txt"),
    "of another disk": (
        lines(*(f"/home/someone/set/{one}.png" for one in TRAIN)),
        lines(*(f"D:\\set\\{one}.png" for one in TEST)), "txt",
    ),
    "tables, each image twice": (
        lines(*(f"{i},{one}.png" for i, one in enumerate(TRAIN * 2)), header=(",Filename",)),
        lines(*(f"{i},{one}.png" for i, one in enumerate(TEST)), header=(",Filename",)), "csv",
    ),
    "tables with labels": (
        lines(*(f"{one}.png\t{one.split('/')[0]}" for one in TRAIN), header=("image\tlabel",)),
        lines(*(f"{one}.png\t{one.split('/')[0]}" for one in TEST), header=("image\tlabel",)), "tsv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_lists_divide_the_images(tmp_path, case):
    train, test, ending = LISTS[case]
    names = {split: f"meta/{split}.{ending}" for split in ("train", "test")}
    root = make_tree(tmp_path, {**FOLDERS, names["train"]: train, names["test"]: test})
    counts, notes, _ = understood(root, split_folders=SplitFolders(**names))
    assert counts == {"train": (2, 1), "test": (1, 1)}
    assert f"train images by the list {names['train']} | test images by the list {names['test']}" in notes
    assert "left aside: 3 images that no list names" in notes
    assert "read" not in notes  # not unread, not read
    found = open_image_set(root, SplitFolders(**names))
    part = found.part("train")
    paths = [file.path for file in part.files]
    assert paths == ["images/cat/0.png", "images/cat/1.png", "images/hot dog/0.png"]  # as the folders have them
    assert (part.labels.tolist(), part.class_names) == ([0, 0, 1], ("cat", "hot dog"))


def test_three_lists_beside_the_class_folders(tmp_path):
    files = {path.removeprefix("images/"): None for path in FOLDERS}
    lists = {"train.txt": lines(*TRAIN), "val.txt": lines(*TEST), "test.txt": lines("cat/3", "hot dog/3")}
    folders = SplitFolders(train="train.txt", validation="./val.txt", test="test.txt")
    counts, notes, _ = understood(make_tree(tmp_path, {**files, **lists}), split_folders=folders)
    assert counts == {"train": (2, 1), "validation": (1, 1), "test": (1, 1)}
    counts, notes, _ = understood(tmp_path)
    assert counts == {"all": (4, 4)}
    assert (
        "train.txt, val.txt, which may divide the images (config.split_folders.train and .test read such lists)"
        in notes
    )


def test_folders_that_are_no_classes_lie_beside_a_set_with_lists(tmp_path):
    more = images("docs/figure.png", "test/7.png")
    lists = {"meta/train.txt": lines(*TRAIN), "meta/test.txt": lines(*TEST)}
    names = SplitFolders(train="meta/train.txt", test="meta/test.txt")
    counts, notes, _ = understood(make_tree(tmp_path, {**FOLDERS, **more, **lists}), split_folders=names)
    assert counts == {"train": (2, 1), "test": (1, 1)}
    assert "left aside: the images in ROOT/test, as lists name the splits" in notes


def test_the_column_of_a_list_may_be_named(tmp_path):
    lists = {"a.csv": "number,ref\n7,cat/0\n8,hot dog/0\n", "b.csv": "number,ref\n9,cat/1\n"}
    make_tree(tmp_path, {**FOLDERS, **lists})
    reading = DatasetOptions(
        str(tmp_path),
        split_folders=SplitFolders(train="a.csv", test="b.csv"),
        table=TableOptions(image_column="ref"),
        preprocess=Preprocess(None, None, "bilinear", (0.0,) * 3, (1.0,) * 3),
    )
    assert [len(load_source("folder", split, reading)) for split in ("train", "test")] == [2, 1]
    with pytest.raises(
        UserError, match=r"a\.csv has no column that is called like images .*config\.table\.image_column"
    ):
        load_source("folder", "train", replace(reading, table=TableOptions()))


def refused(root, files, line, table=None, **folders):
    make_tree(root, {**FOLDERS, **files})
    with pytest.raises(UserError) as info:
        open_image_set(root, SplitFolders(**folders), TableOptions(**(table or {})))
    said = str(info.value).replace(str(root), "ROOT")
    assert line in said
    assert "\n" not in said


LABELS = ("image,label", "cat/0.png,cat", "hot dog/0.png,cat")
REFUSED = {
    "an image that is not there": ({"a.txt": "cat/0\ncat/9\n"}, "ROOT/a.txt line 2 names 'cat/9', which is no image"),
    "a name of two images": ({"a.txt": "0.png\n"}, "ROOT/a.txt line 1 names '0.png', as which several images"),
    "an image in two lists": (
        {"a.txt": "cat/0\n", "b.txt": "cat/1\n\ncat/0\n"}, "b.txt line 3 names images/cat/0.png, which a.txt names too",
    ),
    "an empty list": ({"a.txt": "\n"}, "ROOT/a.txt names no image"),
    "a list of bytes": ({"a.txt": b"cat/\xff\n"}, "ROOT/a.txt is no text in UTF-8 (byte 4)"),
    "a table without images": ({"a.csv": "height,width\n1,2\n"}, "ROOT/a.csv has no column that is called like images"),
    "other labels than the folders'": ({"a.csv": lines(*LABELS)}, "ROOT/a.csv names other labels than the folders do"),
    "a table that divides its images itself": (
        {"a.csv": "image,split\ncat/0.png,train\ncat/1.png,test\n"}, "divides its images itself, by its column split",
    ),
    "a file of another kind": ({"a.mat": "x"}, "config.split_folders.train='a.mat' must end in one of .txt"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_lists_that_do_not_fit_are_refused(tmp_path, case):
    files, line = REFUSED[case]
    first, *others = files
    refused(tmp_path, files, line, train=first, test=others[0] if others else "")


def test_a_column_that_says_the_lists_own_split_is_no_matter(tmp_path):
    lists = {
        f"{split}.csv": f"image,split\n{one}.png,{split}\n" for split, one in (("train", TRAIN[0]), ("test", TEST[0]))
    }
    root = make_tree(tmp_path, {**FOLDERS, **lists})
    assert understood(root, split_folders=SplitFolders("train.csv", "", "test.csv"))[0] == {
        "train": (1, 0),
        "test": (0, 1),
    }


def test_lists_that_are_named_wrongly_are_refused(tmp_path):
    lists = {"a.txt": "cat/0\nhot dog/0\n", "b.txt": "cat/1\n"}
    refused(tmp_path, lists, "config.split_folders.train is not set, but that of test is", test="b.txt")
    refused(tmp_path, lists, "config.split_folders.train='c.txt' is no file in ROOT", train="c.txt")
    refused(
        tmp_path, lists, "config.split_folders.test='images' is no list, and a.txt is", train="a.txt", test="images"
    )
    refused(tmp_path, lists, "split_folders.test and .train name one list, a.txt", train="a.txt", test="./a.txt")
    refused(tmp_path, lists, "is read without folders: leave one out", table={"file": "b.txt"}, train="a.txt")


def test_lists_and_split_folders_do_not_go_together(tmp_path):
    files = images(*(f"{split}/{name}/1.png" for split in ("train", "val") for name in ("cat", "dog")))
    make_tree(tmp_path, {**files, "list.txt": "train/cat/1.png\n"})
    with pytest.raises(UserError, match=r"holds train in train, validation in val: leave the lists out"):
        open_image_set(tmp_path, SplitFolders(train="list.txt"))
