"""Tables of labels as they come with image sets: each is read rightly, or refused in one line that says why."""

import json

import pytest
from image_trees import assert_refused, image_bytes, images, make_tree, tar_of

from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.table_options import TableOptions

I4 = images(*(f"i/{n}.png" for n in range(1, 5)))


def csv(*rows, header="image,label"):
    return "\n".join([header, *rows]) + "\n"


def four(*labels, header="image,label"):
    """A table of i/1.png to i/4.png."""
    return {**I4, "a.csv": csv(*(f"{n},{label}" for n, label in enumerate(labels, 1)), header=header)}


def samples(*labels, extension="json"):
    """A WebDataset's shard of a sample for each label."""
    entries = {}
    for n, label in enumerate(labels):
        text = label if isinstance(label, str) else json.dumps(label)
        entries |= {f"{n:04d}.png": image_bytes(n), f"{n:04d}.{extension}": text.encode()}
    return {"train-0000.tar": tar_of(entries)}


# What lies there, the label of each image by split in the order of the files' names, and what is said of it.
UNDERSTOOD = {
    "test images counted from 1 as the folders are called": (
        {**images("train/1/a.png", "train/2/b.png", "train/10/c.png", "test/7.png", "test/8.png"),
         "test.csv": csv("7,10", "8,2")},
        {"train": "1 10 2", "test": "10 2"}, "the labels that test.csv says",
    ),
    "folders with zeros in front, and numbers without": (
        {**images("train/00000/a.png", "train/00001/b.png", "test/7.png", "test/8.png"), "test.csv": csv("7,1", "8,0")},
        {"train": "00000 00001", "test": "00001 00000"}, "",
    ),
    "a test table that counts named folders": (
        {**images("train/cat/a.png", "train/dog/b.png", "test/7.png"), "test.csv": csv("7,1")},
        {"train": "cat dog", "test": "dog"}, "labels count the class names from 0: 1 is dog",
    ),
    "a test table of zeros and ones": (
        {**images("train/cat/a.png", "train/dog/b.png", "test/7.png", "test/8.png"),
         "test.csv": csv("7,0,1", "8,1,0", header="image,cat,dog")},
        {"train": "cat dog", "test": "dog cat"}, "",
    ),
    "a table that names the test images alone": (
        {**images("train/cat/a.png", "train/dog/b.png", "test/7.png", "test/8.png"), "labels.csv": csv("7,dog",
         "8,cat")},
        {"train": "cat dog", "test": "dog cat"}, "the labels that labels.csv says",
    ),
    "test labels that are hidden": (
        {**images("train/1.png", "train/2.png", "test/1.png", "test/2.png"), "train.csv": csv("1,0", "2,1"),
         "test.csv": csv("1,-1", "2,-1")},
        {"train": "0 1"}, "left aside: 2 images of test, whose labels are all -1 in test.csv",
    ),
    "test labels that are empty": (
        {**images("train/1.png", "train/2.png", "test/1.png", "test/2.png"), "train.csv": csv("1,a", "2,b"),
         "test.csv": csv("1,", "2,")},
        {"train": "a b"}, "left aside: 2 rows of test.csv without a label",
    ),
    "test labels beside class folders that are empty": (
        {**images("train/cat/a.png", "train/dog/b.png", "test/7.png"), "test.csv": csv("7,")},
        {"train": "cat dog"}, "",
    ),
    "images called alike in each split": (
        {**images("train/1.png", "train/2.png", "test/1.png", "test/2.png"), "train.csv": csv("1.png,a", "2.png,b")},
        {"all": "a b"}, "left aside: 2 images that train.csv does not name",
    ),
    "a table for each of two splits, images called alike": (
        {**images("train/1.png", "train/2.png", "val/1.png", "val/2.png"), "train.csv": csv("1,a", "2,b"),
         "val.csv": csv("1,b", "2,b")},
        {"train": "a b", "validation": "b b"}, "",
    ),
    "flat splits in a folder, one table": (
        {**images("data/train/1.png", "data/train/2.png", "data/test/3.png"),
         "labels.csv": csv("train/1.png,a", "train/2.png,b", "test/3.png,a")},
        {"train": "a b", "test": "a"}, "the splits are the folders",
    ),
    "a column of words of splits, called otherwise": (
        {**I4, "a.csv": csv("1,a,Training", "2,b,Training", "3,a,PublicTest", "4,b,PrivateTest",
                            header="image,label,Usage")},
        {"train": "a b", "test": "a b"}, "splits by its column Usage",
    ),
    "a column that says which are for validation": (
        {**I4, "a.csv": csv("1,a,False", "2,b,False", "3,a,True", "4,b,True", header="name,label,is_valid")},
        {"train": "a b", "validation": "a b"}, "splits by its columns is_valid",
    ),
    "a column that says which are for training": (
        {**I4, "a.csv": csv("1,a,1", "2,b,1", "3,a,0", "4,b,1", header="name,label,is_training_image")},
        {"train": "a b b", "test": "a"}, "splits by its columns is_training_image",
    ),
    "a table deeper than a folder, beside its images": (
        {**images("x/y/i/1.png", "x/y/i/2.png"), "x/y/a.csv": csv("1,a", "2,b")}, {"all": "a b"}, "labels by x/y/a.csv",
    ),
    "columns behind the last that hold nothing": (
        {**I4, "a.csv": "image,label,,\n1,a,,\n2,b,,\n3,a\n4,b,,\n,,,\n"}, {"all": "a b a b"}, "",
    ),
    "a column of row numbers in front": (
        {**I4, "a.csv": ",image,cat,dog\n0,1,1,0\n1,2,0,1\n2,3,1,0\n3,4,0,1\n"}, {"all": "cat dog cat dog"}, "",
    ),
    "zeros and ones written as -1 and 1": (
        {**I4, "a.csv": csv("1,1,-1", "2,-1,1", "3,1,-1", "4,-1,1", header="image_id,cat,dog")},
        {"all": "cat dog cat dog"}, "",
    ),
    "a line separator in a cell": (
        {**I4, "a.csv": csv("1,a\u2028b", "2,c", "3,c", "4,c")}, {"all": "a\u2028b c c c"}, "",
    ),
    "numbers of rows beside names of files": (
        {**I4, "a.csv": csv("7,i/1.png,a", "8,i/2.png,b", header="id,filename,label")}, {"all": "a b"},
        "images by its column filename",
    ),
    "a column of files that is called by no known name": (
        {**I4, "a.csv": csv("i/1.png,a", "i/2.png,b", header="scan,label")}, {"all": "a b"}, "by its column scan",
    ),
    "names of files in other cases": (
        {**images("i/img_1.png", "i/img_2.png"), "a.csv": csv("IMG_1.PNG,a", "IMG_2,b")}, {"all": "a b"}, "",
    ),
    "names of files in another form of Unicode": (
        {**images("i/caf\u00e9.png", "i/2.png"), "a.csv": csv("cafe\u0301.png,a", "2.png,b")}, {"all": "b a"}, "",
    ),
    "paths of another disk": (
        {**I4, "a.csv": csv("/content/drive/1.png,a", "/content/drive/2.png,b")}, {"all": "a b"},
        "the folders that a.csv names are not there: images found by their names alone",
    ),
    "paths that begin above the folder": (
        {**images("one/1.png", "one/2.png"), "a.csv": csv("pets/one/1.png,x", "pets/one/2.png,y")},
        {"all": "x y"}, "",
    ),
    "labels that are none": (
        {**four("a", "NaN", "b", "NA")}, {"all": "a b"}, "left aside: 2 rows of a.csv without a label",
    ),
    "names that differ in case": (four("Cat", "cat", "dog", "dog"), {"all": "Cat cat dog dog"}, "differ only in case"),
    "names that differ in zeros": (four("01", "1", "2", "2"), {"all": "01 1 2 2"}, "differ only in spaces, zeros"),
    "names in two forms of Unicode": (
        four("caf\u00e9", "cafe\u0301", "dog", "dog"), {"all": "caf\u00e9 caf\u00e9 dog dog"}, "",
    ),
    "words of breeds": (
        four("yorkshire terrier", "bull terrier", "terrier", "great dane"),
        {"all": "yorkshire terrier|bull terrier|terrier|great dane"}, "",
    ),
    "WordNet's names": (
        four('"tench, Tinca tinca"', '"goldfish, Carassius auratus"', "crane", "crane"),
        {"all": "tench, Tinca tinca|goldfish, Carassius auratus|crane|crane"}, "",
    ),
    "numbers with more digits than a number has": (
        four("9" * 5000, "1", "1", "2"), {"all": f"{'9' * 5000} 1 1 2"}, "",
    ),
    "a table of Parquet in capitals": (None, {"all": "a b"}, ""),
    "numbers in shards written in two ways": (samples("0", "1", "1.0", extension="cls"), {"train": "0 1 1"}, ""),
    "numbers with zeros in front, with names": (
        samples({"label": "00", "class_name": "cat"}, {"label": "01", "class_name": "dog"}), {"train": "cat dog"}, "",
    ),
    "a name beside a label, which is the file's": (
        samples({"label": "cat", "name": "p1.jpg"}, {"label": "dog", "name": "p2.jpg"}), {"train": "cat dog"}, "",
    ),
    "a number, and a name that is the file's": (
        samples({"label": 0, "name": "p1"}, {"label": 1, "name": "p2"}, {"label": 1, "name": "p3"}),
        {"train": "0 1 1"}, "numbers for names",
    ),
    "Train.csv and Meta.csv": (
        {**images("Train/0/a.png", "Train/1/b.png", "Test/1.png", "Test/2.png"),
         "Train.csv": csv("3,Train/0/a.png,0", "3,Train/1/b.png,1", header="Width,Path,ClassId"),
         "Test.csv": csv("3,Test/1.png,1", "3,Test/2.png,1", header="Width,Path,ClassId")},
        {"train": "0 1", "test": "1 1"}, "the labels that Test.csv says",
    ),
}  # fmt: skip

# What lies there, and what the one line says.
REFUSED = {
    "test labels from 0 beside folders from 1": (
        {**images("train/1/a.png", "train/2/b.png", "train/10/c.png", "test/7.png", "test/8.png"),
         "test.csv": csv("7,0", "8,1")},
        "the label 0 is none of the classes, which are called by numbers too",
    ),
    "a folder that is there, and another file": (
        {**images("train/1.png", "train/2.png", "val/2.png"), "a.csv": csv("train/1.png,a", "val/2.png,b",
         "val/1.png,b")},
        "a.csv line 4 names the image 'val/1.png', which is not in",
    ),
    "splits' folders that are not there": (
        {**images("i/1.png", "i/2.png"), "a.csv": csv("train/1.png,a", "val/2.png,b")},
        "such as 'train/1.png', are not",
    ),
    "labels with bars": (four("a|b", "a", "b", "c"), "labels such as 'a|b' seem to be several each"),
    "tags with spaces": (
        four("haze primary", "primary", "haze", "haze water primary"), "config.table.label_separator=' '",
    ),
    "tags with commas": (four('"a, b"', "a", "b", "b"), "labels such as 'a, b' seem"),
    "measurements": (four("0.5", "1.25", "3", "7.5"), "are measurements and not classes"),
    "two columns whose names hardly differ": (
        {**I4, "a.csv": csv("1,a,x", "2,b,y", header="image,label,Label")},
        "columns 'label', 'Label', whose names hardly",
    ),
    "the same image in two tables": (
        {**I4, "train.csv": csv("1,a", "2,b", "3,b"), "val.csv": csv("3,b", "4,a")},
        "train.csv and val.csv name the same image, i/3.png, for train and validation",
    ),
    "images beside folders of splits": (
        {**images("train/1.png", "val/2.png", "more/3.png"), "a.csv": csv("1,a", "2,b", "3,b")},
        "a.csv names more/3.png beside images in folders of splits, more, train, val",
    ),
    "two columns of splits": (
        {**I4, "a.csv": csv("1,a,train,test", "2,b,val,train", header="image,label,one,other")},
        "several columns of splits, one, other",
    ),
    "an image of two splits": (
        {**I4, "a.csv": csv("1,a,1,1", "2,b,0,0", header="image,label,is_train,is_test")},
         "a.csv line 2 is of several splits",
    ),
    "a label of several lines": ({**I4, "a.csv": 'image,label\n1,"a\nb"\n2,c\n'}, "a label must be a text in one line"),
    "a label that is no text": (
        {**I4, "a.jsonl": '{"image": 1, "label": "\\ud800"}\n{"image": 2, "label": "b"}\n'}, "text in one line",
    ),
    "a label that is an object": (
        {**I4, "a.jsonl": '{"image": 1, "label": {"id": 3}}\n{"image": 2, "label": {"id": 4}}\n'},
        "a.jsonl line 1: a label must be a name or a number, not {'id': 3}",
    ),
    "none among several labels": (
        {**I4, "a.jsonl": '{"image": 1, "labels": ["a", null]}\n{"image": 2, "labels": ["b"]}\n'},
        "a.jsonl line 1: one of its labels is none",
    ),
    "a label of a sample that is an object": (
        samples({"class": {"id": 1}}, {"class": {"id": 2}}), "cannot be read as a label: a label must be a name",
    ),
    "a spreadsheet": (
        {**images("i/1.png", "i/2.png"), "a.xlsx": "x"}, "a.xlsx may be a table, but is not read: save it",
    ),
    "a table in a tar": (
        {"set.tar": tar_of({"i/1.png": image_bytes(), "i/2.png": image_bytes(), "a.csv": csv("1,a", "2,b").encode()})},
        "lies in a tar, where tables are not read",
    ),
    "a table whose images are elsewhere": (
        {**images("i/1.png", "i/2.png"), "a.csv": csv("77,a", "78,b")},
        "most images that its column image names, such as '77', are not there",
    ),
}  # fmt: skip


def read(root, **options):
    found = open_image_set(root, table=TableOptions(**options))
    labels = {}
    for split in found.splits or [""]:
        part = found.images(split or None)
        order = sorted(range(len(part.labels)), key=lambda i: part.name(i))
        names = [part.class_names[part.labels[i]] for i in order]
        labels[split or "all"] = names
    return labels, " | ".join(found.notes).replace(str(root), "ROOT")


@pytest.mark.parametrize(("files", "expected", "said"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_table_is_read_rightly_and_said(tmp_path, files, expected, said):
    if files is None:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        make_tree(tmp_path, I4)
        parquet.write_table(arrow.table({"image": ["1", "2"], "label": ["a", "b"]}), tmp_path / "a.PARQUET")
    else:
        make_tree(tmp_path, files)
    labels, notes = read(tmp_path)
    separator = "|" if any("|" in text for text in expected.values()) else " "
    assert labels == {split: text.split(separator) for split, text in expected.items()}
    assert said in notes
    assert "\n" not in notes


@pytest.mark.parametrize(("files", "line"), REFUSED.values(), ids=REFUSED)
def test_table_is_refused_in_one_line(tmp_path, files, line):
    make_tree(tmp_path, files)
    assert_refused(tmp_path, line, read)
