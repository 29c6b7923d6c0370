"""Image sets as people have them on their disks: none is trained on wrong classes without a word."""

import pytest
from image_trees import assert_refused, image_bytes, images, make_tree, tar_of, understood

from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.layout import SplitFolders
from resnet_jax.errors import UserError

PETS = ("cat", "dog")
IMAGENET = ("n01751748", "n09193705")  # the classes of the first two validation images


def sets(*patterns, names=PETS):
    """Paths of an image of each class for each pattern."""
    return images(*(pattern.format(name) for pattern in patterns for name in names))


def class_tar(*paths):
    return tar_of({path: image_bytes(i) for i, path in enumerate(paths)})


def pets_tar(number=1):
    return class_tar(f"cat/{number}.png", f"dog/{number}.png")


IMAGENET_TRAIN = tar_of({f"{name}.tar": class_tar(f"{name}_1.JPEG") for name in IMAGENET})
IMAGENET_VAL = class_tar("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
TINY = {
    **images("train/n01/images/n01_0.JPEG", "train/n01/images/n01_1.JPEG", "train/n02/images/n02_0.JPEG"),
    **images("val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG"),
    "train/n01/n01_boxes.txt": "n01_0.JPEG\t0\t0\t1\t1\n",
    "val/val_annotations.txt": "val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn02\t0\t0\t1\t1\n",
    "wnids.txt": "n02\nn01\n",
}

# What lies there, the images of each class by split, and what is said of it.
UNDERSTOOD = {
    "ImageNet's two tars": (
        {"ILSVRC2012_img_train.tar": IMAGENET_TRAIN, "ILSVRC2012_img_val.tar": IMAGENET_VAL},
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
    "ImageNet's two tars in a folder": (
        {"imagenet/ILSVRC2012_img_train.tar": IMAGENET_TRAIN, "imagenet/ILSVRC2012_img_val.tar": IMAGENET_VAL},
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
    "ImageNet's validation tar beside its training folders": (
        {**sets("train/{}/1.JPEG", names=IMAGENET), "ILSVRC2012_img_val.tar": IMAGENET_VAL},
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
    "ImageNet's validation tar beside its training tars": (
        {**{f"train/{name}.tar": class_tar(f"{name}_1.JPEG") for name in IMAGENET},
         "ILSVRC2012_img_val.tar": IMAGENET_VAL},
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
    "ImageNet's tars, each in its split's folder": (
        {"train/ILSVRC2012_img_train.tar": IMAGENET_TRAIN, "val/ILSVRC2012_img_val.tar": IMAGENET_VAL},
        {"train": (1, 1), "validation": (1, 1)}, "labelled by ImageNet's list",
    ),
    "tars called like splits": (
        {"my_train.tar": pets_tar(), "my_val.tar": pets_tar()}, {"train": (1, 1), "validation": (1, 1)}, "",
    ),
    "tars called like splits, with folders of their names": (
        {"my_train.tar": class_tar("my_train/cat/1.png", "my_train/dog/1.png"),
         "my_test.tar": class_tar("my_test/cat/1.png", "my_test/dog/2.png", "my_test/dog/1.png")},
        {"train": (1, 1), "test": (1, 2)}, "",
    ),
    "tars of which one is called like the other and a split": (
        {"pets.tar": pets_tar(), "pets-test.tar": pets_tar()}, {"train": (1, 1), "test": (1, 1)}, "",
    ),
    "a tar of test images beside tars of classes": (
        {"cat.tar": class_tar("1.png"), "dog.tar": class_tar("1.png"), "my_test.tar": class_tar("1.png", "2.png")},
        {"all": (1, 1)}, "left aside: 2 images in ROOT/my_test, without labels",
    ),
    "a set and one of its test images": (
        sets("rps/{}/1.png", "rps-test-set/{}/1.png"), {"train": (1, 1), "test": (1, 1)},
        "train rps/, test rps-test-set/",
    ),
    "a set and one that is called validation first": (
        sets("horse-or-human/{}/1.png", "validation-horse-or-human/{}/1.png"), {"train": (1, 1), "validation": (1, 1)},
        "validation validation-horse-or-human/",
    ),
    "classes of images and masks": (
        sets("{}/images/1.png", "{}/masks/1.png"), {"all": (1, 1)}, "left aside: 2 images in masks/ inside of",
    ),
    "classes of splits, of images and two kinds of masks": (
        sets("Train/{}/images/1.png", "Train/{}/lung masks/1.png", "Val/{}/images/1.png", "Val/{}/other masks/1.png"),
        {"train": (1, 1), "validation": (1, 1)}, "left aside: 2 images in other masks/",
    ),
    "classes with a folder of masks beside their images": (
        images("cat/1.png", "dog/1.png", "cat/cat_masks/1.png", "cat/cat_masks/2.png"), {"all": (1, 1)},
        "left aside: 2 images in cat_masks/",
    ),
    "masks beside the images, by their names": (
        sets("{0}/{0} (1).png", "{0}/{0} (1)_mask.png", "{0}/{0} (1)_mask_1.png", "{0}/{0} (2).png"), {"all": (2, 2)},
        "left aside: 4 images named like masks of others, such as cat/cat (1)_mask.png",
    ),
    "images that are called like masks, of no other image": (
        sets("{}/1.png", "{}/2_mask.png"), {"all": (2, 2)}, ""
    ),
    "classes whose names only sound like others'": (
        images("back/1.png", "background/1.png", "face/1.png", "facemask/1.png"), {"all": (1, 1, 1, 1)}, ""
    ),
    "valid and invalid": (
        images("valid/1.png", "invalid/1.png"), {"all": (1, 1)}, "taken as classes in ROOT"
    ),
    "coarse and fine classes": (
        images("animals/cat/1.png", "animals/dog/1.png", "vehicles/bus/1.png", "vehicles/car/1.png"), {"all": (2, 2)},
        "each of the classes, animals, vehicles, holds folders, in all bus, car, cat, dog: should these be the classes",
    ),
    "classes of parts": (
        sets("{}/40X/1.png", "{}/100X/1.png"), {"all": (2, 2)}, "each of the classes, cat, dog, holds folders"
    ),
    "folders that are a class of a split each": (
        images("trainA/1.png", "trainA/2.png", "trainB/1.png", "testA/1.png", "testB/1.png"),
        {"train": (2, 1), "test": (1, 1)}, "train A trainA/",
    ),
    "folders that are a class of a split each, the split last": (
        images("cat/1.png", "dog/1.png", "cat_test/1.png", "dog_test/1.png"), {"train": (1, 1), "test": (1, 1)},
        "test cat cat_test/",
    ),
    "test images beside classes": (
        {**sets("{}/1.png"), **images("test/1.png")}, {"all": (1, 1)}, "left aside: 1 image in ROOT/test",
    ),
    "doubled folders of test images beside classes": (
        {**sets("{}/1.png"), **images("test/test/1.png")}, {"all": (1, 1)}, "left aside: 1 image in ROOT/test",
    ),
    "unlabelled images beside classes": (
        {**sets("{}/1.png"), **images("unlabeled/a/1.png")}, {"all": (1, 1)}, "left aside: 1 image in ROOT/unlabeled",
    ),
    "labelled and unlabelled images": (
        {**sets("labelled/{}/1.png"), **images("unlabelled/1.png")}, {"train": (1, 1)},
        "left aside: 1 image in ROOT/unlabelled",
    ),
    "training and test images in a folder each, one wrapped": (
        {**sets("pets/train/{}/1.png"), **images("test/1.png")}, {"train": (1, 1)}, "left aside: 1 image in ROOT/test",
    ),
    "images and masks in splits in classes": (
        images(*(f"{name}/{split}/{kind}/1.png" for name in PETS for split in ("train", "test")
                 for kind in ("images", "masks"))),
        {"train": (1, 1), "test": (1, 1)}, "left aside: 4 images in masks/ inside of the classes",
    ),
    "unlabelled images beside splits": (
        {**sets("train/{}/1.png", "test/{}/1.png"), **images("unlabeled_images/1.png")},
        {"train": (1, 1), "test": (1, 1)}, "left aside: 1 image in ROOT/unlabeled_images",
    ),
    "unlabelled images in a split": (
        {**sets("train/{}/1.png", "test/{}/1.png"), **images("train/unlabelled/1.png")},
        {"train": (1, 1), "test": (1, 1)}, "left aside: 1 image in ROOT/train/unlabelled",
    ),
    "Tiny ImageNet": (TINY, {"train": (2, 1), "validation": (0, 2)}, "the labels that val/val_annotations.txt says"),
    "Tiny ImageNet in its folder": (
        {f"tiny-imagenet-200/{path}": content for path, content in TINY.items()},
        {"train": (2, 1), "validation": (0, 2)}, "left aside: 1 image in ROOT/tiny-imagenet-200/test, without labels",
    ),
    "pictures of the classes beside splits": (
        {**sets("Train/{}/1.png"), **images("Meta/1.png", "Meta/2.png", "Test/1.png"), "Meta.csv": "Path,ClassId\n"},
        {"train": (1, 1)}, "left aside: 2 images in ROOT/Meta, a folder of no split",
    ),
    "loose images beside complete splits": (
        {**sets("train/{}/1.png", "val/{}/1.png"), **images("more/1.png")}, {"train": (1, 1), "validation": (1, 1)},
        "left aside: 1 image in ROOT/more",
    ),
    "loose images beside splits of other names": (
        {**sets("training_set/{}/1.png", "test_set/{}/1.png"), **images("single_prediction/1.png")},
        {"train": (1, 1), "test": (1, 1)}, "left aside: 1 image in ROOT/single_prediction",
    ),
    "dev beside train and test": (
        sets("train/{}/1.png", "dev/{}/1.png", "test/{}/1.png"),
        {"train": (1, 1), "validation": (1, 1), "test": (1, 1)}, "",
    ),
    "dev inside of the classes": (
        sets("{}/train/1.png", "{}/dev/1.png"), {"train": (1, 1), "validation": (1, 1)}, "inside of the classes"
    ),
    "splits in a folder, test images beside it": (
        {**sets("Plants(New)/Plants(New)/train/{}/1.png", "Plants(New)/Plants(New)/valid/{}/1.png"),
         **images("test/test/1.JPG")},
        {"train": (1, 1), "validation": (1, 1)}, "left aside: 1 image in ROOT/test, without labels",
    ),
    "a list of splits": (
        {**sets("images/{}/1.png"), "meta/train.txt": "cat/1\n", "meta/test.txt": "dog/1\n"}, {"all": (1, 1)},
        "left unread: meta/test.txt, meta/train.txt, which may divide the images",
    ),
    "a list of splits in a folder": (
        {**sets("CUB/images/{}/1.png"), "CUB/train_test_split.txt": "1 0\n2 1\n"}, {"all": (1, 1)},
        "left unread: CUB/train_test_split.txt, which may divide the images",
    ),
    "class names of another number": (
        {**sets("{}/1.png"), "classes.txt": "cat\ndog\nemu\n"}, {"all": (1, 1)},
        "left unread: classes.txt of 3 lines, and there are 2 class folders",
    ),
}  # fmt: skip

# What lies there, and what the one line says.
REFUSED = {
    "a set unpacked twice": (sets("pets/{}/1.png", "pets/pets/{}/1.png"), "ROOT/pets/pets holds the classes cat, dog"),
    "a set unpacked twice, in folders": (
        sets("natural_images/{}/1.png", "data/natural_images/{}/1.png"), "data/ and natural_images/, and both hold cat"
    ),
    "a set and its segmentations": (
        sets("CUB/images/{}/1.png", "segmentations/{}/1.png"), "CUB/ and segmentations/, and both hold cat, dog"
    ),
    "a class once more in another folder": (images("cat/1.png", "dog/1.png", "old/cat/1.png"), "ROOT/old holds"),
    "two versions of a set": (
        sets("pets_100/Training/{}/1.png", "pets_100/Test/{}/1.png", "pets_full/Training/{}/1.png",
             "pets_full/Test/{}/1.png"),
        "each is a set of its own",
    ),
    "copies": (sets("pets-master/{}/1.png", "pets-master (1)/{}/1.png"), "named like a copy of this"),
    "copies of other names": (sets("pets-master/{}/1.png", "pets_2/{}/1.png"), "both hold cat, dog"),
    "versions with splits": (
        sets("v1/train/{}/1.png", "v1/test/{}/1.png", "v2/train/{}/1.png", "v2/test/{}/1.png"),
        "ROOT holds v1/, v2/, each with splits",
    ),
    "versions with splits, wrapped": (
        sets("a/a/train/{}/1.png", "a/a/test/{}/1.png", "b/b/train/{}/1.png", "b/b/valid/{}/1.png"),
        "named like splits",
    ),
    "images in two kinds": (sets("EuroSAT/{}/1.png", "EuroSATallBands/{}/1.tif"), "both hold cat, dog"),
    "images in two sizes": (
        images(*(f"{kind}/{size}/{i}.png" for kind in ("images", "thumbnails") for size in (224, 512) for i in "12")),
        "named like images and what belongs to them",
    ),
    "versions, and a folder of loose images": (
        {**sets("v1/{}/1.png", "v2/{}/1.png"), **images("docs/1.png")}, "both hold cat, dog"
    ),
    "sets of good and bad": (
        images(*(f"{kind}/{part}.png" for kind in ("bottle", "cable")
                 for part in ("train/good/1", "test/good/1", "test/broken/1", "ground_truth/broken/1_mask"))),
        "each is a set of its own",
    ),
    "one class and what has no labels": (images("cat/1.png", "unlabelled/1.png"), "ROOT holds one class, cat"),
    "no class": (images("unlabelled/1.png"), "ROOT holds unlabelled, by the name images without labels"),
    "one class and test images": (images("cat/1.png", "test/1.png"), "ROOT holds one class, cat"),
    "what may be a class or a split": (
        images("valid/1.png", "expired/1.png", "fake/1.png"), "ROOT holds valid/ beside class folders"
    ),
    "a class and its ground truth": (
        images("cat/1.png", "cat_ground_truth/1.png", "dog/1.png"), "ROOT holds cat_ground_truth/ beside cat/"
    ),
    "a class and its copy": (images("cat/1.png", "cat - Copy/1.png", "dog/1.png"), "cat - Copy/ beside cat/"),
    "a class and its masks": (images("cat/1.png", "cat_masks/1.png", "dog/1.png"), "ROOT holds cat_masks/ beside cat/"),
    "years": (images("2017/birds/1.png", "2017/fungi/1.png", "2018/birds/1.png", "2018/fish/1.png"), "both hold birds"),
    "a set with splits beside another": (
        {**sets("pets2/pets2/images/TRAIN/{}/1.png", "pets2/pets2/images/TEST/{}/1.png"),
         **images("pets/pets/JPEGImages/1.png")},
        "ROOT/pets2 holds folders named like splits, TEST, TRAIN",
    ),
    "patients": (images("8863/0/1.png", "8863/1/1.png", "9000/0/1.png"), "8863/ and 9000/, and both hold 0"),
    "patients with one class each": (
        images("8863/benign/1.png", "8864/malign/1.png", "9000/benign/1.png"), "both hold benign"
    ),
    "first letters": (
        images("a/abbey/1.jpg", "a/airfield/1.jpg", "b/bakery/1.jpg", "b/bar/1.jpg"), "a, b for the first letters of"
    ),
    "kinds of images in each class": (sets("{}/original/1.png", "{}/augmented/1.png"), "ROOT/cat holds augmented"),
    "masks beside parts of a class": (
        images("cat/young/1.png", "cat/old/1.png", "cat/masks/1.png", "dog/1.png"), "ROOT/cat holds masks/, named like"
    ),
    "test images of another name beside classes": (
        {**sets("{}/1.png"), **images("pets_test/1.png")}, "ROOT holds pets_test/ beside class folders"
    ),
    "a class and its test images": (images("cat/1.png", "cat_test/1.png"), "ROOT holds cat_test/ beside class folders"),
    "a list that lacks an image": (
        {**TINY, "val/val_annotations.txt": "val_0.JPEG\tn02\t0\t0\t1\t1\n"}, "ROOT/val holds no images in class"
    ),
    "a tar of masks": (
        {"pets.tar": pets_tar(), "masks.tar": class_tar("cat/1_m.png", "dog/1_m.png")}, "both hold cat, dog"
    ),
    "an image in two tars": (
        {"a.tar": class_tar("cat/1.png"), "b.tar": class_tar("cat/1.png", "dog/1.png")},
        "ROOT/cat/1.png is there twice, in the tars a.tar and b.tar",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected", "said"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_set_is_understood_and_said(tmp_path, files, expected, said):
    root = make_tree(tmp_path, files)
    counts, notes, described = understood(root)
    assert counts == expected, notes
    assert said in notes
    assert len(describe_lines(described)) <= 3
    if "train" in expected:
        found = open_image_set(root)
        train = found.images("train").class_names
        assert all(found.images(split, class_names=train).class_names == train for split in found.splits)


@pytest.mark.parametrize(("files", "line"), REFUSED.values(), ids=REFUSED)
def test_set_is_refused_in_one_line(tmp_path, files, line):
    root = make_tree(tmp_path, files)
    assert_refused(root, line)


def test_folders_that_the_config_names_are_the_classes(tmp_path):
    root = make_tree(tmp_path, sets("patient1/{}/1.png", "patient2/{}/1.png"))
    with pytest.raises(UserError, match=r"if the folders in \. are the classes, set config\.split_folders\.train='\.'"):
        open_image_set(root)
    counts, notes, _ = understood(root, split_folders=SplitFolders(train="."))
    assert counts == {"train": (2, 2)}
    assert "classes as config.split_folders.train='.' names them, though ROOT holds patient1/ and patient2/" in notes


def test_folder_of_test_images_may_be_a_class_by_the_config(tmp_path):
    root = make_tree(tmp_path, sets("{}/1.png", names=("car", "test", "bus")))
    assert understood(root)[0] == {"all": (1, 1)}
    counts, notes, _ = understood(root, split_folders=SplitFolders(train="."))
    assert counts == {"train": (1, 1, 1)}
    assert "though ROOT holds test/ beside class folders, and it is named like images of another split" in notes


def test_split_that_the_config_names_is_no_class_of_another(tmp_path):
    root = make_tree(tmp_path, sets("{}/1.png", "night/{}/1.png"))
    counts, _, _ = understood(root, split_folders=SplitFolders(train=".", validation="night"))
    assert counts == {"train": (1, 1), "validation": (1, 1)}
    for train, test in ((".", "night/cat"), ("night", "./night/")):
        with pytest.raises(UserError, match=r"split_folders\.test and \.train name .*, of which one holds the other"):
            open_image_set(root, SplitFolders(train=train, test=test))
    root = make_tree(tmp_path / "one", sets("night/{}/1.png"))
    for content in ({}, images("1.png")):
        with pytest.raises(UserError, match=r"split_folders: \. holds no class folders but those of another split"):
            open_image_set(make_tree(root, content), SplitFolders(train=".", validation="night"))


def test_masks_are_not_trained_on(tmp_path):
    root = make_tree(
        tmp_path, images("cat/images/1.png", "cat/masks/1.png", "dog/1.png", "dog/masks/1.png", "dog/1_seg.png")
    )
    assert open_image_set(root).images().paths == ("cat/images/1.png", "dog/1.png")


def test_labels_of_a_list_are_those_of_the_training_images(tmp_path):
    found = open_image_set(make_tree(tmp_path, TINY))
    assert found.images("train").class_names == ("n01", "n02")
    assert found.images("validation").paths == ("val/images/val_0.JPEG", "val/images/val_1.JPEG")
    assert found.images("validation").labels.tolist() == [1, 1]


@pytest.mark.parametrize(("link", "target"), [("emu", "cat"), ("dog/more", "cat"), ("emu", "cat/young")])
def test_folder_of_two_classes_by_a_link_is_refused(tmp_path, link, target):
    root = make_tree(tmp_path, images("cat/1.png", "cat/young/1.png", "dog/1.png"))
    (root / link).symlink_to(root / target)
    with pytest.raises(UserError, match="are one folder, by a link, and two classes would have its images"):
        open_image_set(root)


def test_links_to_folders_elsewhere_are_classes(tmp_path):
    make_tree(tmp_path, images("store/a/1.png", "store/b/1.png", "set/cat/1.png"))
    (tmp_path / "set/dog").symlink_to(tmp_path / "store/a")
    (tmp_path / "set/emu").symlink_to(tmp_path / "store/b")
    assert open_image_set(tmp_path / "set").images().class_names == ("cat", "dog", "emu")


def test_validation_folder_may_be_a_link_to_the_test_folder(tmp_path):
    root = make_tree(tmp_path, sets("train/{}/1.png", "test/{}/1.png"))
    (root / "val").symlink_to(root / "test")
    assert understood(root)[0] == {"train": (1, 1), "validation": (1, 1), "test": (1, 1)}
