"""Layouts of image sets as they are found in the world: each is understood, or refused in one line that says why."""

import json

import pytest
from image_trees import assert_refused, image_bytes, images, make_tree, tar_of, understood

from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_splits
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError

PETS = ("cat", "dog")


def both(pattern, names=PETS):
    """Paths of an image for each name."""
    return images(*(pattern.format(name) for name in names))


def splits(pattern, names):
    """Paths of an image of each class for each name of a split."""
    return images(*(pattern.format(split, name) for split in names for name in PETS))


def sample(number, extension="cls", label=None):
    """A sample of a WebDataset: an image and its label."""
    label = str(number % 2) if label is None else label
    return {f"{number:06d}.png": image_bytes(number), f"{number:06d}.{extension}": label.encode()}


def shard(*numbers, **how):
    return tar_of({name: data for number in numbers for name, data in sample(number, **how).items()})


# What lies there, the images of each class by split, and what is said of it.
UNDERSTOOD = {
    "class folders": (both("{}/1.png"), {"all": (1, 1)}, ""),
    "a folder around them": (both("PetImages/{}/1.png"), {"all": (1, 1)}, "PetImages, which was stepped into"),
    "two folders around them": (both("data/pets/{}/1.png"), {"all": (1, 1)}, "data/pets, which was stepped into"),
    "a folder around them, notes beside it": (
        {**both("101_ObjectCategories/{}/1.png"), "Annotations/cat/1.mat": "x"}, {"all": (1, 1)},
        "Annotations beside it without images",
    ),
    "a folder around the splits": (
        splits("pets/{}/{}/1.png", ("train", "val")), {"train": (1, 1), "validation": (1, 1)}, "stepped into"
    ),
    "a tar that holds a folder around them": (
        {"pets.tar": tar_of({f"pets/{name}/1.png": image_bytes() for name in PETS})}, {"all": (1, 1)}, "pets, which was"
    ),
    "what unpacking on a Mac leaves": (
        {**both("pets/{}/1.png"), "__MACOSX/pets/cat/._1.png": "x", "pets/.DS_Store": "x"}, {"all": (1, 1)}, "stepped"
    ),
    "doubled folders of splits": (
        splits("{0}_set/{0}_set/{1}/1.png", ("training", "test")), {"train": (1, 1), "test": (1, 1)},
        "train training_set/",
    ),
    "doubled folders, unlabelled ones": (
        {**splits("seg_{0}/seg_{0}/{1}/1.png", ("train", "test")), **images("seg_pred/seg_pred/1.png")},
        {"train": (1, 1), "test": (1, 1)}, "left aside: 1 image in ROOT/seg_pred, without labels",
    ),
    "splits of the usual names in capitals": (
        splits("{}/{}/1.png", ("Train", "VALID", "Testing")),
        {"train": (1, 1), "validation": (1, 1), "test": (1, 1)}, "",
    ),
    "splits of camel case": (
        splits("{}Images/{}/1.png", ("Train", "Val")), {"train": (1, 1), "validation": (1, 1)}, ""
    ),
    "splits with another word": (
        splits("{}_pets/{}/1.png", ("train", "test")), {"train": (1, 1), "test": (1, 1)}, "train_pets/"
    ),
    "splits and a test folder of a competition": (
        {**splits("{}/{}/1.png", ("train",)), **images("test/1.png", "test/2.png")}, {"train": (1, 1)},
        "left aside: 2 images in ROOT/test, without labels",
    ),
    "splits inside of the classes": (
        splits("{1}/{0}/1.png", ("train", "test")), {"train": (1, 1), "test": (1, 1)}, "folders inside of the classes"
    ),
    "the set once more beside its splits": (
        {**splits("{}/{}/1.png", ("train", "val")), **splits("chest/{}/{}/1.png", ("train", "val"))},
        {"train": (1, 1), "validation": (1, 1)}, "ROOT/chest, which holds folders of the same names again",
    ),
    "a split in a folder of its own name": (splits("{0}/{0}/{1}/1.png", ("train",)), {"train": (1, 1)}, "stepped into"),
    "classes in folders of folders": (images("cat/young/1.png", "cat/2.png", "dog/old/a/3.png"), {"all": (2, 1)}, ""),
    "a class that is called train": (images("train/1.png", "car/1.png"), {"all": (1, 1)}, ""),
    "classes called by numbers": (both("{}/1.png", ("1", "2", "10")), {"all": (1, 1, 1)}, "10 is label 1"),
    "classes that differ in case": (both("{}/1.png", ("a", "A")), {"all": (1, 1)}, "names differ only in case"),
    "images that lie in no class": (
        {**both("{}/1.png"), **images("1.png", "2.png")}, {"all": (1, 1)}, "left aside: 2 images in ROOT itself"
    ),
    "files that are no images": (
        {**both("{}/1.png"), "cat/1.heic": "x", "cat/2.HEIC": "x", "dog/1.txt": "x"}, {"all": (1, 1)},
        "left aside: 2 .heic, 1 .txt",
    ),
    "val lacks a class": (images("train/cat/1.png", "train/dog/1.png", "val/cat/1.png"),
                          {"train": (1, 1), "validation": (1,)}, ""),
    "ImageNet's tars, unpacked once": (
        {f"train/{name}.tar": tar_of({f"{name}_1.JPEG": image_bytes()}) for name in ("n01440764", "n01443537")},
        {"train": (1, 1)}, "",
    ),
    "a tar a class": (
        {f"{name}.tar": tar_of({"1.png": image_bytes(), "2.png": image_bytes()}) for name in PETS}, {"all": (2, 2)}, ""
    ),
    "a tar of tars": (
        {"train.tar": tar_of({f"{name}.tar": tar_of({"1.JPEG": image_bytes()}) for name in PETS})},
        {"train": (1, 1)}, "",
    ),
    "WebDataset": (
        {"train-000000.tar": shard(0, 1), "train-000001.tar": shard(2, 3), "val-000000.tar": shard(4, 5)},
        {"train": (2, 2), "validation": (1, 1)}, "classes have numbers for names",
    ),
    "WebDataset, a split's name inside": (
        {"imagenet-train-0000.tar": shard(0, 1), "imagenet-validation-0000.tar": shard(2, 3),
         "classes.txt": "cat\ndog\n"},
        {"train": (1, 1), "validation": (1, 1)}, "class names by classes.txt",
    ),
    "WebDataset of JSON": (
        {"00000.tar": tar_of({**sample(0, "json", json.dumps({"label": 0, "class_name": "cat"})),
                              **sample(1, "json", json.dumps({"label": 1, "class_name": "dog"}))})},
        {"all": (1, 1)}, "class names by the shards' JSON",
    ),
    "WebDataset of text, images of several kinds": (
        {"train-0000.tar": tar_of({**sample(0, "txt", "cat"), "1.jpeg": image_bytes(1, "JPEG"), "1.txt": b"dog",
                                   "2.WEBP": image_bytes(1, "WEBP"), "2.cls.txt": b"dog"})},
        {"train": (1, 2)}, "",
    ),
    "a table beside a folder": (
        {**images("train/1.jpg", "train/2.jpg", "train/3.jpg"), "labels.csv": "id,label\n1,cat\n2,dog\n3,dog\n"},
        {"all": (1, 2)}, "labels by labels.csv",
    ),
    "a competition's tables": (
        {**images("train/1.jpg", "train/2.jpg", "test/9.jpg"), "train.csv": "image_id,label\n1.jpg,3\n2.jpg,4\n",
         "sample_submission.csv": "image_id,label\n9.jpg,3\n"}, {"all": (1, 1)}, "3 is label 0, 4 is label 1",
    ),
    "parts of a set, and a table": (
        {**images("HAM_images_part_1/a.jpg", "HAM_images_part_2/b.jpg"),
         "HAM_metadata.csv": "lesion_id,image_id,dx,age\n1,a,nv,\n2,b,mel,4\n"}, {"all": (1, 1)}, "labels by dx",
    ),
    "a table with splits": (
        {**images("i/1.png", "i/2.png", "i/3.png", "i/4.png"),
         "a.tsv": "path\tlabel\tsplit\ni/1.png\tcat\ttrain\ni/2.png\tdog\ttrain\ni/3.png\tdog\tval\n"
                  "i/4.png\tcat\ttest\n"},
        {"train": (1, 1), "validation": (0, 1), "test": (1, 0)}, "",
    ),
    "metadata of a Hugging Face folder": (
        {**images("train/1.png", "train/2.png"),
         "train/metadata.jsonl": '{"file_name": "1.png", "label": 0}\n{"file_name": "2.png", "label": 1}\n'},
        {"all": (1, 1)}, "labels by train/metadata.jsonl",
    ),
    "a table in each split": (
        {**images("train/1.png", "train/2.png", "test/1.png", "test/2.png"),
         "train/metadata.csv": "file_name,label\n1.png,cat\n2.png,dog\n",
         "test/metadata.csv": "file_name,label\n1.png,dog\n2.png,cat\n"},
        {"train": (1, 1), "test": (1, 1)}, "labels by test/metadata.csv",
    ),
    "a table a split beside one folder": (
        {**images("images/1.png", "images/2.png", "images/3.png", "images/4.png", "images/5.png"),
         "train.csv": "image,label\n1,a\n2,b\n3,c\n", "val.csv": "image,label\n4,b\n5,c\n"},
        {"train": (1, 1, 1), "validation": (0, 1, 1)}, "labels by val.csv",
    ),
    "splits of class folders, one of a table": (
        {**images("train/cat/1.png", "train/dog/2.png", "val/1.png", "val/2.png"),
         "val/labels.csv": "image,label\n1.png,dog\n2.png,dog\n"},
        {"train": (1, 1), "validation": (0, 2)}, "that val/labels.csv says",
    ),
    "test images that a table labels": (
        {**images("Train/0/1.png", "Train/1/2.png", "Test/3.png", "Test/4.png"),
         "Test/GT-final_test.csv": "Filename;Width;ClassId\n3.png;3;1\n4.png;4;1\n"},
        {"train": (1, 1), "test": (0, 2)}, "the test images in Test have the labels that Test/GT-final_test.csv says",
    ),
    "training labels, and test images of the same names": (
        {**images("train/cat/1.png", "train/dog/2.png", "test/1.png", "test/2.png"),
         "train.csv": "image,label\ntrain/cat/1.png,cat\ntrain/dog/2.png,dog\n"},
        {"train": (1, 1)}, "left aside: 2 images in ROOT/test, without labels",
    ),
    "tables of paths inside of the wrapping folder": (
        {**splits("faces/set/{}/{}/1.png", ("train", "val")), "train.csv": "path,label\ntrain/cat/1.png,cat\n"},
        {"train": (1, 1), "validation": (1, 1)}, "train.csv not read, as the folders are the classes",
    ),
    "ImageNet by Kaggle": (
        {**images("ILSVRC/Data/CLS-LOC/train/n01440764/1.JPEG", "ILSVRC/Data/CLS-LOC/train/n01443537/1.JPEG",
                  "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG",
                  "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG"),
         "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 1 2 3 4 \n"},
        {"train": (1, 1), "validation": (0, 1)}, "that LOC_val_solution.csv says",
    ),
    "ImageNet's validation images in one folder": (
        images("train/n01751748/1.JPEG", "train/n09193705/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG",
               "val/ILSVRC2012_val_00000002.JPEG"),
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
}  # fmt: skip

# What lies there, and what the one line says.
REFUSED = {
    "one class": (images("cat/1.png", "cat/2.png"), "ROOT holds one class, cat; a classifier needs two"),
    "one class in a folder": (images("pets/cat/1.png", "pets/cat/2.png"), "ROOT/pets holds one class, cat"),
    "one class of a split": (images("train/cat/1.png", "val/cat/1.png"), "ROOT/train holds one class, cat"),
    "no class at all": (images("1.png", "2.png"), "holds no images in class folders"),
    "a folder of images": (images("train/1.png", "test/1.png"), "ROOT/train holds no images in class folders"),
    "splits without classes, and more": (
        images("train/1.png", "val/1.png", "test1/1.png", "sample/1.png"), "sample/ beside splits",
    ),
    "splits of two names": (splits("{}/{}/1.png", ("train", "val", "validation")), "both val/ and validation/"),
    "splits of two names that are no usual ones": (
        splits("{}/{}/1.png", ("train_a", "train_b", "test_a")), "both train_a/ and train_b/"
    ),
    "a class only val has": (images("train/cat/1.png", "train/dog/1.png", "val/emu/1.png"), "val/emu must be named as"),
    "a class that val writes otherwise": (
        images("train/cat/1.png", "train/dog/1.png", "val/Cat/1.png", "val/dog/1.png"), "did you mean 'cat'"
    ),
    "val without class folders": (
        images("train/cat/1.png", "train/dog/1.png", "val/1.png"), "ROOT/val holds no images in class folders"
    ),
    "folders beside splits": (
        {**splits("{}/{}/1.png", ("train", "val")), **images("more/cat/1.png", "more/emu/1.png")},
        "holds images in more/ beside train/, val/",
    ),
    "images and masks": (images("images/1.png", "masks/1.png"), "images and what belongs to them"),
    "images and masks of splits": (
        splits("{}/{}/1.png", ("train", "val")) | images("train/images/1.png", "train/masks/1.png"), None
    ),
    "PASCAL VOC": (images("JPEGImages/1.png", "SegmentationClass/1.png"), "images and what belongs to them"),
    "variants of the same images": (splits("{}/{}/1.png", ("color", "grayscale")), "images and what belongs to them"),
    "classes that hold the same folders": (
        splits("{0}/{1}/1.png", ("patient1", "patient2")), "holds patient1/ and patient2/, and both hold cat, dog"
    ),
    "folds": (splits("fold_{}/{}/1.png", (1, 2, 3)), "named like parts of a set"),
    "classes once more in a class": (both("{}/1.png") | both("pets/{}/1.png"), "ROOT/pets holds the classes cat, dog"),
    "an empty class": ({**both("{}/1.png"), "ape/notes.txt": "x"}, "ROOT/ape holds no images"),
    "some classes hold splits": (
        images("cat/train/1.png", "cat/test/1.png", "dog/1.png"), "divide all classes or none"
    ),
    "an archive": ({"train.zip": "x"}, "unpack train.zip"),
    "numbered tars without labels": (
        {f"data-00000{i}.tar": tar_of({f"{i}.png": image_bytes()}) for i in range(2)}, "no images in class folders"
    ),
    "a sample without a label": (
        {"train-0000.tar": tar_of({**sample(0), **sample(1), "2.png": image_bytes()})}, "2.png and no label beside it"
    ),
    "captions": (
        {"train-0000.tar": tar_of({**sample(0, "txt", "a cat\non a mat"), **sample(1, "txt", "a dog")})},
        "must be a text in one line",
    ),
    "shards of which one is of no split": (
        {"train-0000.tar": shard(0, 1), "more-0000.tar": shard(2, 3)}, "more-0000.tar is of no split by its name"
    ),
    "images beside shards": (
        {"train-0000.tar": shard(0, 1), **images("cat/1.png")}, "cat/1.png beside shards"
    ),
    "a table that contradicts the folders": (
        {**images("cat/1.png", "dog/2.png"), "labels.csv": "id,label\n1,cat\n2,cat\n"}, "names other labels than the"
    ),
    "two tables": (
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label\n1,cat\n2,dog\n", "b.csv": "id,label\n1,x\n2,y\n"},
        "several tables of labels, a.csv, b.csv",
    ),
    "a table without columns that are known": (
        {**images("i/1.png", "i/2.png"), "a.csv": "x,y1\n1,cat\n"}, "config.table.image_column, one of x, y1"
    ),
    "a row whose image is not there": (
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label\n1,cat\n2,dog\n3,dog\n"}, "a.csv line 4 names the image '3'"
    ),
    "an image with two labels": (
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label\n1,cat\n2,dog\n1,dog\n"}, "line 4 gives i/1.png another"
    ),
    "a table with one class": (
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label\n1,cat\n2,cat\n"}, "a.csv has one class, cat"
    ),
    "a split that is none": (
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label,split\n1,cat,train\n2,dog,holiday\n"}, "the split 'holiday'"
    ),
    "names of images that are there twice": (
        {**images("a/1.png", "b/1.png", "a/2.png"), "a.csv": "id,label\n2,cat\n1,dog\n"},
        "line 3 names the image '1', as which several",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected", "said"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_layout_is_understood_and_said(tmp_path, files, expected, said):
    root = make_tree(tmp_path, files)
    counts, notes, described = understood(root)
    assert counts == expected
    assert said in notes
    lines = describe_lines(described)
    assert len(lines) <= 3
    assert not any("\n" in line for line in lines)
    if set(expected) != {"all"}:
        found = open_image_set(root)
        train = found.images("train").class_names
        assert all(found.images(split, class_names=train).class_names == train for split in found.splits)


@pytest.mark.parametrize(("files", "line"), REFUSED.values(), ids=REFUSED)
def test_layout_is_refused_in_one_line(tmp_path, files, line):
    root = make_tree(tmp_path, files)
    if line is None:  # a class's own folders, which may be called anything beside others
        assert load_splits("folder", DatasetOptions(str(root))).train.num_classes == 4
        return
    assert_refused(root, line, lambda root: load_splits("folder", DatasetOptions(str(root))))


def test_splits_are_the_folders_that_are_named(tmp_path):
    root = make_tree(tmp_path, splits("{}/{}/1.png", ("day", "night", "fog")))
    counts, _, _ = understood(root, split_folders=SplitFolders(train="day", test="night"))
    assert counts == {"train": (1, 1), "test": (1, 1)}
    with pytest.raises(UserError, match=r"config\.split_folders\.test='dawn' holds no images .*day, fog, night"):
        open_image_set(root, SplitFolders(train="day", test="dawn"))
    with pytest.raises(UserError, match=r"config\.split_folders\.train is not set"):
        open_image_set(root, SplitFolders(test="day"))


def test_a_split_that_is_not_wanted_is_left_aside(tmp_path):
    root = make_tree(tmp_path, {**splits("{}/{}/1.png", ("train", "val")), **images("test/unknown/1.png")})
    with pytest.raises(UserError, match=r"test/unknown must be named as one of the model's 2 classes"):
        load_splits("folder", DatasetOptions(str(root)))
    for names in (SplitFolders(test="none"), SplitFolders(train="train", test="none")):
        counts, notes, _ = understood(root, split_folders=names)
        assert counts == {"train": (1, 1), "validation": (1, 1)}
        assert "left aside: 1 image in ROOT/test, as the config says" in notes
    classes = SplitFolders(train=".", validation="none", test="none")
    assert understood(
        make_tree(tmp_path / "whole", images("cat/1.png", "dog/1.png", "test/x/1.png")), split_folders=classes
    )[0] == {"train": (1, 1)}
    table = {**images("1.png", "2.png", "3.png"), "t.csv": "image,label,split\n1,a,train\n2,b,train\n3,b,test\n"}
    counts, notes, _ = understood(make_tree(tmp_path / "table", table), split_folders=SplitFolders(test="none"))
    assert counts == {"train": (1, 1)}
    assert "left aside: 1 test image, as the config says" in notes
    with pytest.raises(UserError, match=r"config\.split_folders\.train='none' leaves no training images"):
        open_image_set(root, SplitFolders(train="none"))


def test_splits_that_are_not_named_are_found_beside_the_one_that_is(tmp_path):
    root = make_tree(tmp_path, splits("photos/{}/{}/1.png", ("cleaned", "train", "val", "Test", "fog")))
    counts, notes, _ = understood(root, split_folders=SplitFolders(train="photos/cleaned"))
    assert counts == {"train": (1, 1), "validation": (1, 1), "test": (1, 1)}
    assert "test by its folder's name: ROOT/photos/Test" in notes
    found = open_image_set(root, SplitFolders(train="photos/cleaned", test="photos/fog"))
    assert [sorted({path.split("/")[1] for path in found.images(split).paths}) for split in found.splits] == [
        ["cleaned"], ["val"], ["fog"],
    ]  # fmt: skip
    make_tree(tmp_path, splits("photos/{}/{}/1.png", ("valid",)))
    with pytest.raises(UserError, match=r"photos has both val/ and valid/ for one split"):
        open_image_set(root, SplitFolders(train="photos/cleaned"))
    named = SplitFolders(train="photos/cleaned", validation="photos/valid")
    assert open_image_set(root, named).images("validation").paths[0].startswith("photos/valid/")


def test_folder_that_the_model_has_a_class_of_is_not_stepped_into(tmp_path):
    root = make_tree(tmp_path, images("cat/young/1.png", "cat/old/2.png"))
    found = open_image_set(root, class_names=("dog", "cat")).images(class_names=("dog", "cat"))
    assert found.labels.tolist() == [1, 1]
    assert open_image_set(root).images().class_names == ("old", "young")


def test_classes_are_numbered_by_the_file_of_their_names(tmp_path):
    root = make_tree(
        tmp_path,
        {**images("i/1.png", "i/2.png"), "a.csv": "id,label\n1,1\n2,0\n", "names.txt": "cat\ndog\nemu\n"},
    )
    found = open_image_set(root, table=TableOptions(class_names="names.txt")).images()
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog", "emu"), [1, 0])
    (root / "names.txt").write_text("cat\n")
    with pytest.raises(UserError, match="labels go from 0 to 1, and there are 1 class names"):
        open_image_set(root, table=TableOptions(class_names="names.txt"))


def test_folders_called_by_numbers_may_be_given_names(tmp_path):
    names = "".join(f"class{i}\n" for i in range(11))
    root = make_tree(
        tmp_path, {**both("train/{}/1.png", ("1", "2", "10")), **both("val/{}/1.png", ("2",)), "names.txt": names}
    )
    assert "10 is label 1" in understood(root)[1]
    found = open_image_set(root, table=TableOptions(class_names="names.txt"))
    assert found.images("train").labels.tolist() == [1, 10, 2]
    assert found.images("validation").labels.tolist() == [2]
    assert found.images("train").class_names[10] == "class10"
    assert "is label" not in " ".join(found.notes)
    (root / "names.txt").write_text("2\n10\n1\n")
    found = open_image_set(root, table=TableOptions(class_names="names.txt"))
    assert (found.images("train").class_names, found.images("train").labels.tolist()) == (("2", "10", "1"), [2, 1, 0])
    (root / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="labels go from 1 to 10, and there are 2 class names"):
        open_image_set(root, table=TableOptions(class_names="names.txt"))
