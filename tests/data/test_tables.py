"""Tables of labels: columns found and named, several labels an image, and what is wrong in one line."""

import random
from itertools import takewhile

import numpy as np
import pytest
from image_trees import images, make_tree

from resnet_jax.data import table_search
from resnet_jax.data.file_finder import KEPT_FROM, FileIndex
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.listing import StoredFile
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_splits
from resnet_jax.data.table_file import read_table
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError

FOUR = images(*(f"photos/{i}.png" for i in range(4)))


def opened(tmp_path, text, name="labels.csv", files=FOUR, **options):
    root = make_tree(tmp_path / "set", {**files, name: text})
    return open_image_set(root, table=TableOptions(**options))


def labels(*arguments, **options):
    found = opened(*arguments, **options).images()
    return found.class_names, found.labels.tolist()


def test_columns_are_found_by_their_usual_names_whatever_their_case(tmp_path):
    text = "Image Path,Age,Species\nphotos/0.png,3,dog\nphotos/1.png,4,cat\nphotos/2.png,1,cat\nphotos/3.png,2,dog\n"
    assert labels(tmp_path, text) == (("cat", "dog"), [1, 0, 0, 1])


@pytest.mark.parametrize(
    "form", ["photos/{}.png", "./photos/{}.png", "{}.png", "{}", "photos\\{}.png", "/old/photos/{}.png"]
)
def test_images_are_named_by_paths_or_names_with_their_ending_or_without(tmp_path, form):
    text = "image,label\n" + "".join(f"{form.format(i)},{'ab'[i % 2]}\n" for i in range(4))
    assert labels(tmp_path, text) == (("a", "b"), [0, 1, 0, 1])


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", "|")])
def test_delimiters_are_seen(tmp_path, name, delimiter):
    rows = [("image", "label"), *((f"{i}.png", "a, b" if i else "c") for i in range(4))]
    text = "".join(delimiter.join(f'"{value}"' for value in row) + "\n" for row in rows)
    assert labels(tmp_path, text, name) == (("a, b", "c"), [1, 0, 0, 0])


def test_numbers_are_in_their_own_order(tmp_path):
    assert labels(tmp_path, "image,label\n0,10\n1,9\n2,8\n3,9.0\n") == (("8", "9", "10"), [2, 1, 0, 1])


def test_a_column_of_numbers_beside_that_of_their_names_is_no_other_label(tmp_path):
    assert labels(tmp_path, "image,label,class_name\n0,1,cat\n1,0,dog\n2,1,cat\n3,0,dog\n") == (
        ("cat", "dog"),
        [0, 1, 0, 1],
    )
    with pytest.raises(UserError, match="several columns of labels, label, class_name, which differ"):
        opened(tmp_path, "image,label,class_name\n0,1,cat\n1,0,dog\n2,1,dog\n3,0,dog\n", file="labels.csv")


def test_columns_of_zeros_and_ones_are_several_labels_or_one(tmp_path):
    several = opened(tmp_path, "image,cat,dog,emu\n0,1,1,0\n1,0,0,0\n2,0,0,1\n3,1,0,1\n").images()
    assert several.labels.ndim == 2
    assert (several.class_names, several.labels.tolist()) == (
        ("cat", "dog", "emu"), [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    )  # fmt: skip
    assert several.labels.dtype == np.uint8
    assert several.read(3)[1].tolist() == [1, 0, 1]
    single = labels(tmp_path, "image,cat,dog\n0,1.0,0.0\n1,0.0,1.0\n2,0.0,1.0\n3,1.0,0.0\n")
    assert single == (("cat", "dog"), [0, 1, 1, 0])
    chosen = labels(tmp_path, "image,cat,dog,age\n0,1,1,3\n1,0,1,4\n2,1,0,5\n3,0,0,6\n", label_column="dog, cat")
    assert chosen == (("dog", "cat"), [[1, 1], [1, 0], [0, 1], [0, 0]])
    with pytest.raises(UserError, match="the column 'age' must hold zeros and ones"):
        opened(tmp_path, "image,cat,age\n0,1,3\n1,0,4\n2,1,5\n3,0,6\n", label_column="cat,age")


def test_several_labels_in_a_column_are_lists_or_divided_by_a_separator(tmp_path):
    expected = (("cat", "dog"), [[1, 1], [0, 1], [0, 0], [1, 0]])
    text = "image,tags\n0,cat|dog\n1,dog\n2,\n3,cat\n"
    assert labels(tmp_path, text, label_separator="|") == expected
    (tmp_path / "set/labels.csv").unlink()
    lines = '{"image": 0, "labels": ["cat", "dog"]}\n{"image": 1, "labels": ["dog"]}\n{"image": 2, "labels": []}\n'
    assert labels(tmp_path, lines + '{"image": 3, "labels": ["cat"]}\n', "labels.jsonl") == expected


def test_split_column_divides_and_all_splits_have_the_same_classes(tmp_path):
    found = opened(tmp_path, "image,label,subset\n0,a,train\n1,b,Training\n2,c,val\n3,a,test\n")
    assert found.splits == {"train": "labels.csv", "validation": "labels.csv", "test": "labels.csv"}
    assert found.images("validation").class_names == ("a", "b", "c")
    assert found.images("validation").labels.tolist() == [2]


def test_table_may_itself_be_what_is_opened(tmp_path):
    opened(tmp_path, "image,label\n0,a\n1,b\n2,a\n3,b\n")
    assert open_image_set(tmp_path / "set/labels.csv").images().labels.tolist() == [0, 1, 0, 1]


def test_image_dir_says_where_paths_start(tmp_path):
    files = images("small/0.png", "small/1.png", "large/0.png", "large/1.png")
    found = opened(tmp_path, "image,label\n0.png,a\n1.png,b\n", files=files, image_dir="large", file="labels.csv")
    assert [found.images().name(i) for i in range(2)] == [f"{tmp_path}/set/large/{i}.png" for i in range(2)]


def test_rows_without_a_label_and_images_without_a_row_are_left_aside_and_said(tmp_path):
    found = opened(tmp_path, "image,label\n0,a\n1,b\n2,\n")
    assert found.images().labels.tolist() == [0, 1]
    notes = " | ".join(found.notes)
    assert "left aside: 1 row of labels.csv without a label" in notes
    assert "left aside: 2 images that labels.csv does not name" in notes


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("image,label\n0,a\n1,b,c\n", {}, r"labels\.csv line 3 has 3 columns, and its header 2"),
        ("image,image\n0,a\n", {}, "the column 'image' twice"),
        ("", {}, r"labels\.csv is empty"),
        ("image,label\n", {}, "names no image with a label"),
        ("thing,label\n0,a\n", {}, r"no column that is called like images .*config\.table\.image_column"),
        ("image,x,z\n0,a,b\n", {}, r"no column that is called like labels .*config\.table\.label_column"),
        (
            "image,label\n0,a\n1,b\n",
            {"image_column": "picture"},
            r"config\.table\.image_column='picture' must be one of",
        ),
        ("image,label\n0,a\n1,b\n", {"label_column": "kind"}, r"config\.table\.label_column='kind' must be one of"),
        ("image,label\n0,a\n1,b\n", {"split_column": "part"}, r"config\.table\.split_column='part' must be one of"),
        ("image,label\n0,a\n1,b\n", {"class_names": "none.txt"}, r"none\.txt cannot be read as class names"),
        ('image,label\n"0,a\n', {}, "cannot be read as a table"),
    ],
)
def test_table_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, options, line):
    with pytest.raises(UserError, match=line) as info:
        opened(tmp_path, text, file="labels.csv", **options)
    assert "\n" not in str(info.value)


def test_file_that_is_no_table_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config\.table\.file='none\.csv' is no file"):
        opened(tmp_path, "image,label\n0,a\n", file="none.csv")
    with pytest.raises(UserError, match=r"must be one of \.csv"):
        opened(tmp_path, "x", name="a.xlsx", file="a.xlsx")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        opened(tmp_path, b"image,label\n0,\xff\n", file="labels.csv")
    for text, line in (("{", "line 1 is no JSON"), ("[1]\n", "line 1 is no JSON object")):
        with pytest.raises(UserError, match=line):
            opened(tmp_path, text, name="a.jsonl", file="a.jsonl")


def test_class_names_file_with_a_name_twice_or_none_is_refused(tmp_path):
    for text, line in (("cat\ncat\n", "'cat' twice"), ("\n", "holds no class names")):
        make_tree(tmp_path / "set", {"names.txt": text})
        with pytest.raises(UserError, match=line):
            opened(tmp_path, "image,label\n0,0\n1,1\n", class_names="names.txt", file="labels.csv")


def test_table_may_lie_elsewhere_and_what_is_wrong_with_names_of_files_is_said(tmp_path):
    make_tree(tmp_path, {"elsewhere/labels.csv": "image,label\n0,a\n1,b\n"})
    found = opened(tmp_path, "image,label\n0,x\n", file=str(tmp_path / "elsewhere/labels.csv"))
    assert found.images().class_names == ("a", "b")
    with pytest.raises(UserError, match=r"config\.table\.class_names='~nobody-of-that-name/a' cannot be found"):
        opened(tmp_path, "image,label\n0,a\n1,b\n", class_names="~nobody-of-that-name/a")
    with pytest.raises(UserError, match=r"config\.table\.image_dir='pictures' holds no images"):
        opened(tmp_path, "image,label\n0,a\n1,b\n", file="labels.csv", image_dir="pictures")


def test_columns_of_zeros_and_ones_are_alike_in_all_splits(tmp_path):
    text = "image,cat,dog\n0,1,0\n1,0,1\n"
    found = opened(tmp_path, text, "train.csv", {**FOUR, "val.csv": "image,cat,dog\n2,1,1\n3,0,0\n"})
    assert found.images("train").labels.tolist() == [[1, 0], [0, 1]]
    assert found.images("validation").labels.tolist() == [[1, 1], [0, 0]]


def test_file_of_class_names_orders_the_classes_of_all_splits(tmp_path):
    files = {**FOUR, "val.csv": "image,label\n2,dog\n3,dog\n", "names.txt": "emu\ndog\ncat\n"}
    found = opened(tmp_path, "image,label\n0,cat\n1,dog\n", "train.csv", files, class_names="names.txt")
    assert found.images("train").class_names == ("emu", "dog", "cat")
    assert [found.images(split).labels.tolist() for split in ("train", "validation")] == [[2, 1], [1, 1]]
    files["val.csv"] = "image,label\n2,0\n3,7\n"
    with pytest.raises(UserError, match="the label '0' is none of the 3 class names"):
        opened(tmp_path, "image,label\n0,cat\n1,dog\n", "train.csv", files, class_names="names.txt")


def test_class_names_in_two_forms_of_unicode_are_one(tmp_path):
    files = images("train/caf\u00e9/1.png", "train/dog/2.png", "val/cafe\u0301/3.png")
    found = open_image_set(make_tree(tmp_path, files))
    names = found.images("train").class_names
    assert found.images("validation", class_names=names).labels.tolist() == [names.index("caf\u00e9")]


def test_labels_that_look_like_several_may_be_named_as_classes(tmp_path):
    text = "image,label\n0,a|b\n1,a\n2,b\n3,a\n"
    found = opened(tmp_path, text, label_column="label")
    assert found.images().class_names == ("a", "a|b", "b")
    assert "seem to be several each" in " ".join(found.notes)
    files = {**FOUR, "names.txt": "a\na|b\nb\n"}
    assert opened(tmp_path, text, files=files, class_names="names.txt").images().class_names == ("a", "a|b", "b")


def test_a_path_in_a_split_means_no_file_of_another_however_deep(tmp_path):
    files = images("train/cat/1.png", "train/dog/2.png", "val/cat/7.png", "val/dog/3.png")
    rows = ["train/cat/1.png,cat,train", "train/dog/2.png,dog,train", "val/cat/7.png,cat,val", "val/dog/3.png,dog,val"]
    text = "image,label,split\n" + "\n".join(["train/cat/7.png,cat,train", *rows]) + "\n"
    with pytest.raises(UserError, match=r"train/cat/7\.png"):
        opened(tmp_path, text, files=files, file="labels.csv")
    kept = "image,label,split\n" + "\n".join(f"/old/set/{row}" for row in rows) + "\n"
    found = opened(tmp_path / "other", kept, files=files, file="labels.csv")
    assert [len(found.images(split)) for split in ("train", "validation")] == [2, 2]


def test_an_image_that_a_table_gives_two_splits_is_refused(tmp_path):
    text = "image,label,split\n0,a,train\n1,b,train\n2,a,train\n3,b,train\n3,b,val\n"
    with pytest.raises(UserError, match=r"another split than an earlier row: an image is of one split"):
        opened(tmp_path, text)


def test_class_names_of_folders_may_be_decomposed(tmp_path):
    files = images("cafe\u0301/0.png", "the\u0301/1.png")
    root = make_tree(tmp_path / "set", {**files, "names.txt": "th\u00e9\ncaf\u00e9\n"})
    found = open_image_set(root, table=TableOptions(class_names="names.txt")).images()
    assert found.class_names == ("th\u00e9", "caf\u00e9")
    assert sorted(found.labels.tolist()) == [0, 1]


def num_equal(first, second):
    """How many items the two have in common before they differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


@pytest.mark.parametrize("num_files", [KEPT_FROM // 2, 20 * KEPT_FROM])
def test_files_of_one_name_are_found_by_the_longest_end_of_their_folders(num_files):
    """Names that repeat in each patient's folder are looked up by an index, and found as by comparing with each."""
    draw = random.Random(num_files)
    paths = sorted({"/".join(["set", *draw.choices("abc", k=draw.randrange(5)), "x.jpg"]) for _ in range(num_files)})
    index = FileIndex([StoredFile(path, path) for path in paths])
    found = 0
    for _ in range(200):
        path = "/".join([*draw.choices("abcd", k=draw.randrange(5)), draw.choice(["x.jpg", "x", "X.JPG"])])

        num_common = [num_equal(path.split("/")[:-1][::-1], other.split("/")[:-1][::-1]) for other in paths]
        most = max(num_common)
        expected = [other for other, number in zip(paths, num_common, strict=True) if number == most] if most else []
        assert [file.path for file in index.ending_like(path)] == expected
        found += bool(expected)
    assert 20 < found < 200


def test_numbers_of_a_splits_table_count_the_file_of_class_names(tmp_path):
    files = {
        **images("train/cat/1.png", "train/dog/2.png", "train/emu/3.png", "test/4.png", "test/5.png"),
        "test.csv": "image,label\n4.png,0\n5.png,2\n", "names.txt": "emu\ndog\ncat\n",
    }  # fmt: skip
    found = open_image_set(make_tree(tmp_path, files), table=TableOptions(class_names="names.txt"))
    train, test = (found.images(split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("emu", "dog", "cat")
    assert (train.labels.tolist(), test.labels.tolist()) == ([2, 1, 0], [0, 2])


def test_labels_that_are_partly_names_of_classes_are_not_positions(tmp_path):
    folders = ("1", "2", "3", "background")
    files = {
        **images(*(f"train/{name}/{i}.png" for i, name in enumerate(folders)), "test/x.png", "test/y.png"),
        "test.csv": "image,label\nx.png,0\ny.png,1\n",
    }
    with pytest.raises(UserError, match="the label '0' is none of the 4 class names, 1, 2, 3, background"):
        open_image_set(make_tree(tmp_path, files))


def test_a_class_may_be_called_none(tmp_path):
    text = "image,label\n0,None\n1,Mild\n2,None\n3,Severe\n"
    notes = " ".join(opened(tmp_path / "plain", text).notes)
    assert "left aside: 2 rows of labels.csv without a label (None: a class of that name must be in" in notes
    found = opened(tmp_path / "named", text, files={**FOUR, "n.txt": "None\nMild\nSevere\n"}, class_names="n.txt")
    assert found.images().labels.tolist() == [0, 1, 0, 2]


def test_a_column_that_is_called_like_splits_and_holds_none_is_no_split(tmp_path):
    found = opened(tmp_path / "cards", "image,label,set\n0,a,Base Set\n1,b,Jungle\n2,a,Fossil\n3,b,\n")
    assert len(found.images().labels) == 4
    assert "its column set names no splits" in found.notes
    with pytest.raises(UserError, match="the split '0' must be one of train, validation and test"):
        opened(tmp_path / "folds", "image,label,split\n0,a,0\n1,b,0\n2,a,1\n3,b,1\n")


def test_options_of_a_table_that_is_not_read_are_refused(tmp_path):
    root = make_tree(tmp_path, {**images("cat/1.png", "dog/2.png"), "labels.csv": "image,label\n1.png,a\n2.png,b\n"})
    reading = DatasetOptions(str(root), table=TableOptions(label_column="lable"))
    with pytest.raises(
        UserError, match=r"config\.table\.label_column='lable' has no effect: the folders in .* are the"
    ):
        load_splits("folder", reading)


def test_large_tables_of_pixels_are_not_read_whole_and_others_are(tmp_path, monkeypatch):
    pixels = "label," + ",".join(f"pixel{i}" for i in range(300)) + "\n" + (",".join(["128"] * 301) + "\n") * 2000
    files = {**FOUR, "hmnist_8_8_RGB.csv": pixels, "labels.csv": "image,label,note\n0,a,\n1,b,\n2,a,\n3,b,\n"}
    read = []
    monkeypatch.setattr(table_search, "read_table", lambda path: read.append(path.name) or read_table(path))
    found = open_image_set(make_tree(tmp_path / "pixels", files))
    assert (found.images().labels.tolist(), read) == ([0, 1, 0, 1], ["labels.csv"])
    many = "image,label,note\n" + "".join(f"{i % 4},{'ab'[i % 2]},{'x' * 600}\n" for i in range(4000))
    assert len(open_image_set(make_tree(tmp_path / "large", {**FOUR, "labels.csv": many})).images().labels) == 4
