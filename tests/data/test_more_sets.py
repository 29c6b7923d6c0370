"""More image sets as they are unpacked: each is read rightly and said, or refused in one line that says why."""

import io
import json

import pytest
from image_trees import assert_refused, image_bytes, images, make_tree

from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.separators import check_one_label
from resnet_jax.errors import UserError

PETS = ("cat", "dog")
I4 = images(*(f"i/{n}.png" for n in range(1, 5)))


def csv(*rows, header="image,label"):
    return "\n".join([header, *rows]) + "\n"


def four(*rows, header="image,label"):
    """A table of i/1.png to i/4.png."""
    return {**I4, "a.csv": csv(*(f"{n},{row}" for n, row in enumerate(rows, 1)), header=header)}


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
    "thumbnails inside of the classes": (
        images("cat/1.png", "cat/thumbs/1.png", "dog/1.png", "dog/thumbs/1.png"), {"all": "cat 2 dog 2"},
        "thumbs/ beside images of a class in ROOT: taken for images of it, too",
    ),
    "images and masks that are named as such": (
        sets("{}/1_image.png", "{}/1_mask.png", "{}/color_2.png", "{}/depth_2.png"), {"all": "cat 2 dog 2"},
        "left aside: 4 images named like masks of others, such as cat/1_mask.png",
    ),
    "classes called like sizes or parts": (
        sets("crop_part1/{}.png", "faces/{}.png", "100k/{}.png"), {"all": "100k 2 crop_part1 2 faces 2"},
        "taken as classes in ROOT, as all that lies there: 100k, crop_part1",
    ),
    "annotations without images beside class folders": (
        {**sets("{}/1.png"), "Annotations/1.xml": "x"}, {"all": "cat 1 dog 1"}, "left aside: Annotations/, without",
    ),
    "images that are there with two endings": (
        images("hole/i/1.jpg", "hole/i/1.png", "break/i/2.jpg", "break/i/2.png"), {"all": "break 2 hole 2"},
        "2 images beside another of the same name, such as break/i/2.jpg and break/i/2.png",
    ),
    "lists of splits deep in a set": (
        {**sets("food/food/images/{}/1.jpg"), "food/food/meta/deep/train.json": "{}"}, {"all": "cat 1 dog 1"},
        "left unread: food/food/meta/deep/train.json, which may divide",
    ),
    "lists of splits for MATLAB": (
        {**sets("Images/{}/1.jpg"), "lists/train_list.mat": "x"}, {"all": "cat 1 dog 1"},
        "left unread: lists/train_list.mat, which may divide",
    ),
    "class folders and a table that divides them": (
        {**sets("{}/1.png"), "meta.csv": csv("cat/1.png,cat,train", "dog/1.png,dog,test", header="file,label,split")},
        {"all": "cat 1 dog 1"}, "meta.csv divides the images by its column split, which is not read",
    ),
    "a table of labels, and one of splits by numbers": (
        {**four("1,-1", "-1,1", "1,-1", "-1,1", header="image_id,cat,dog"),
         "list_eval_partition.csv": csv("1,0", "2,0", "3,1", "4,2", header="image_id,partition"),
         "test.csv": csv("9", header="image_id")},
        {"all": "cat 2 dog 2"}, "left unread: list_eval_partition.csv, which may divide",
    ),
    "a column called train, of zeros and ones": (
        four("a,1", "b,1", "a,0", "b,0", header="image,label,train"), {"train": "a 1 b 1", "test": "a 1 b 1"},
        "splits by its columns train",
    ),
    "classes of zeros and ones, of which one is called train": (
        four("1,0,0", "0,1,0", "0,0,1", "1,0,0", header="image,train,bus,car"), {"all": "train 2 bus 1 car 1"}, "",
    ),
    "a column of texts with words of splits": (
        four("a,train station", "b,test site", "a,train station", "b,test site", header="image,label,place"),
        {"all": "a 2 b 2"}, "",
    ),
    "folders that are hardly classes": (
        images("cat/1.png", "dog/1.png", "data/1.png", "results/1.png"), {"all": "cat 1 data 1 dog 1 results 1"},
        "taken as classes in ROOT, as all that lies there: data, results",
    ),
    "test labels that are question marks": (
        four("a,train", "b,train", "?,test", "?,test", header="image,label,split"), {"train": "a 1 b 1"},
        "left aside: 2 images of test, whose labels are all ? in a.csv",
    ),
    "a class that only test images have": (
        {**I4, "train.csv": csv("1,a", "2,b"), "test.csv": csv("3,a", "4,c")},
        {"train": "a 1 b 1 c 0", "test": "a 1 b 0 c 1"}, "no training image of c, which other splits have",
    ),
    "rows called unlabeled": (
        four("a", "b", "a", "unlabeled"), {"all": "a 2 b 1 unlabeled 1"}, "taken as a class: unlabeled",
    ),
    "rows of boxes": (
        {**I4, "a.csv": csv("1,a,0", "1,a,3", "2,b,1", header="filename,class,xmin")}, {"all": "a 1 b 1"},
        "left aside: 1 row of a.csv with an image and label of an earlier row",
    ),
    "numbers of classes in lists, one for each object": (
        {**I4, "a.jsonl": '{"image": "1.png", "label": [0, 0, 1]}\n{"image": "2.png", "label": [1, 1]}\n'},
        {"all": "0 1 1 2"}, "",
    ),
    "a class in brackets": (four("cat", "[unknown]", "cat", "dog"), {"all": "[unknown] 1 cat 2 dog 1"}, ""),
    "labelled test images, and others of another name": (
        {**sets("train/{}/1.png", "test/{}/2.png"), **images("test_images/7.png"), "test_labels.csv": csv("7.png,cat")},
        {"train": "cat 1 dog 1", "test": "cat 1 dog 1"}, "left aside: 1 image in ROOT/test_images, without labels",
    ),
    "a preview beside the folder of the set": (
        {**images("preview.png", *(f"set/{name}/{i}.png" for name in ("cat", "dog") for i in range(60)))},
        {"all": "cat 60 dog 60"}, "left aside: 1 image beside the folder set",
    ),
    "a preview beside the folder of splits": (
        {**images("preview.png", *(f"set/{part}/{name}/{i}.png" for part in ("train", "val") for name in ("cat", "dog")
                                   for i in range(30)))},
        {"train": "cat 30 dog 30", "validation": "cat 30 dog 30"}, "left aside: 1 image beside the folder set",
    ),
    "test images in a folder of another name, and their labels": (
        {**sets("train/{}/1.png"), **images("test_images/7.png", "test_images/8.png"),
         "test_labels.csv": csv("7.png,cat", "8.png,dog")},
        {"train": "cat 1 dog 1", "test": "cat 1 dog 1"}, "have the labels that test_labels.csv says",
    ),
    "numbers of rows beside the names of files": (
        {**I4, "a.csv": csv("1,4.png,a", "2,3.png,b", "3,2.png,b", "4,1.png,b", header="id,fname,label")},
        {"all": "a 1 b 3"}, "images by its column fname",
    ),
    "labels of one image each": (
        {**images(*(f"i/{n}.png" for n in range(11))), "a.csv": csv(*(f"{n},id{n:02d}" for n in range(11)))},
        {"all": " ".join(f"id{n:02d} 1" for n in range(11))}, "11 of 11 classes have one image alone",
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
    "a folder of all images beside others": (
        {**sets("set/images/{}/1.png", "set/rotation/{}_rotated/1.png"), **images("set/used/1.png")},
        "ROOT/set holds images/, named like all images of a set and with folders in it, cat, dog",
    ),
    "annotations without images beside a flat folder": (
        {**images("images/1.png", "images/2.png"), "annotations/1.xml": "x"}, "ROOT holds one class, images",
    ),
    "a doubled folder of loose images": (
        images("faces/faces/1.png", "faces/faces/2.png"), "ROOT/faces/faces holds no images in class folders",
    ),
    "a table of test images beside a set and loose images": (
        {**sets("set/{0}/{0}1.png"), **images("set/alien_test/1.png", "set/alien_test/2.png"),
         "set/test.csv": csv("1.png,0", "2.png,1")},
        "ROOT/set/test.csv alone names images, and only test images by its name",
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
    "classes of a split that training lacks": (
        {**I4, "train.csv": csv("1,a", "2,b"), "val.csv": csv("3,c", "4,d")},
        "the classes of validation, c, d, are none of the training images",
    ),
    "lists written as text": (
        four("\"['a']\"", "\"['a', 'b']\"", "\"['b']\"", "\"['b']\""), "labels such as \"['a', 'b']\" are lists",
    ),
    "a table that is wrong beside folders that are no classes": (
        {**sets("set/train/{}/1.png", "set/train_2/{}/1.png"), "labels.csv": csv("1,cat")},
        "labels.csv line 2 names the image '1', as which several are called",
    ),
    "lists written as text beside names": (
        four("a", "\"['a', 'b']\"", "b", "a"), "labels such as \"['a', 'b']\" are lists",
    ),
    "zeros and ones in a text": (four("0 1 0", "1 1 0", "0 0 1", "1 0 0"), "labels such as '0 0 1' are zeros and ones"),
    "zeros and ones of two classes in lists": (
        {**I4, "a.jsonl": '{"image": "1.png", "label": [0, 1]}\n{"image": "2.png", "label": [1, 0]}\n'},
        "a.jsonl: labels such as [0, 1] are zeros and ones",
    ),
    "zeros and ones in lists": (
        {**I4, "a.jsonl": '{"image": "1.png", "label": [0, 1, 0]}\n{"image": "2.png", "label": [1, 1, 0]}\n'},
        "a.jsonl: labels such as [0, 1, 0] are zeros and ones, one for each class: name the classes that are 1",
    ),
    "labels that are images": (
        four("1_mask.png", "2_mask.png", "1_mask.png", "2_mask.png"), "labels such as 1_mask.png, 2_mask.png are names",
    ),
    "a table without a header": (
        {**I4, "a.csv": csv("1.png,a", "2.png,b", header="3.png,a")}, "a.csv begins with 3.png, a, which is no header",
    ),
    "a caption for each image": (
        {**images(*(f"i/{n}.png" for n in range(60))), "a.csv": csv(*(f"{n},text {n}" for n in range(60)))},
        "of 60 labels 60 differ",
    ),
    "labels that are packed": (
        {**I4, "labels.csv.gz": "x"}, "labels.csv.gz may be a table, but is not read: save it as CSV",
    ),
    "labels in JSON": (
        {**I4, "labels.json": "{}"}, "labels.json may be a table, but is not read: save it as CSV",
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
    assert_refused(root, line)


def test_reason_of_folders_is_said_where_a_table_is_wrong(tmp_path):
    files = {**sets("full/{}/1.png", "small/{}/1.png"), "labels.csv": csv("1,cat")}
    with pytest.raises(UserError, match=r"several are called.*; the folders are no classes: .* and both hold cat, dog"):
        open_image_set(make_tree(tmp_path, files))


def test_labels_that_nearly_all_differ_are_no_classes():
    labels = [f"a photo of thing {n}" for n in range(1001)]
    with pytest.raises(UserError, match="of 1,001 labels 1,001 differ, as names of images and captions do"):
        check_one_label("a.csv", labels, is_chosen=False)
    assert check_one_label("a.csv", labels * 2 + labels[:1], is_chosen=False) == []


def rows_of_parquet(labels, names=PETS, **columns):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    images_ = arrow.array([{"bytes": image_bytes(i), "path": None} for i in range(2)], kind)
    table = arrow.table({"image": images_, **({"label": labels} if labels else {}), **columns})
    features = {"label": {"_type": "ClassLabel", "names": names}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("paths", "expected", "said"),
    [
        (("data/train-0.parquet", "data/test-0.parquet", "logo.png"), ("train", "test"), "left aside: 1 image beside"),
        (("train/a.parquet", "test/a.parquet", "assets/1.png"), ("train", "test"), "left aside: 1 image beside"),
        (("data/train-00000-of-00003.parquet",), ("train",), "1 of 3 files are there, by the name of train-00000-of"),
        (("part_1/train-0.parquet", "part_2/train-1.parquet"), ("train",), ""),
        (
            ("full/train-0.parquet", "small/train-0.parquet"),
            (),
            "several folders, such as full/train-0.parquet and small",
        ),
        (("data/val-0.parquet", "data/validation-0.parquet"), (), "are of one split by their names: keep one of them"),
    ],
)
def test_parquet_files_are_one_set_or_refused(tmp_path, monkeypatch, paths, expected, said):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    files = {path: rows_of_parquet([0, 1]) if path.endswith(".parquet") else None for path in paths}
    root = make_tree(tmp_path / "set", files)
    if not expected:
        with pytest.raises(UserError, match=said):
            open_image_set(root)
        return
    counts, notes, _ = understood(root)
    assert {*counts} == {*expected}
    assert said in notes


def test_parquet_without_labels_or_with_a_column_of_splits_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    files = {"train-0.parquet": rows_of_parquet([0, 1]), "test-0.parquet": rows_of_parquet(None)}
    counts, notes, _ = understood(make_tree(tmp_path / "one", files))
    assert counts == {"train": "cat 1 dog 1"}
    assert "left aside: test, whose files have no column label" in notes
    files = {"all.parquet": rows_of_parquet([0, 1], split=["train", "test"])}
    assert "left unread: the column split, which may divide" in understood(make_tree(tmp_path / "two", files))[1]
    with pytest.raises(UserError, match=r"no row of its Parquet files has a label in their column label"):
        open_image_set(make_tree(tmp_path / "three", {"train-0.parquet": rows_of_parquet([-1, -1])}))
