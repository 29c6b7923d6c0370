"""Image folders: order, labels, decoding on demand, and what is wrong with a folder in one line."""

import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import encoded, scan
from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.decoding import BadImageError, EncodedImage
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_splits
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import RunError, UserError
from resnet_jax.storage import ranged_files

WHOLE = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CROP = Preprocess(8, 4, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def load_folder(root, preprocess, class_names=None, **reading):
    return DatasetOptions(preprocess=preprocess, **reading).source(
        open_image_set(root, class_names=class_names).images(class_names=class_names)
    )


def pixels(source, *indices):
    return source.read(np.array(indices)).image


def labels(source):
    return source.read(np.arange(len(source))).label.tolist()


def save(path, value=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two dogs (10, 11) and a cat (20)."""
    save(tmp_path / "dog/b.png", 11)
    save(tmp_path / "dog/a.png", 10)
    save(tmp_path / "cat/z.png", 20)
    return tmp_path


def test_classes_and_files_come_in_the_order_of_their_names(pets):
    source = load_folder(pets, WHOLE)
    assert (source.class_names, source.num_classes, len(source)) == (("cat", "dog"), 2, 3)
    assert (labels(source), source.read(np.arange(3)).label.dtype) == ([0, 1, 1], np.int32)
    assert [source.name(i).split("/")[-1] for i in range(3)] == ["z.png", "a.png", "b.png"]
    assert pixels(source, 0, 1, 2)[:, 0, 0, 0].tolist() == [20, 10, 11]


def test_images_come_in_the_order_of_the_indices_also_repeated(pets):
    images = pixels(load_folder(pets, WHOLE), 2, 0, 2, 1)
    assert (images.shape, images.dtype) == ((4, 5, 6, 3), np.uint8)
    assert images[:, 4, 5, 2].tolist() == [11, 20, 11, 10]


def test_shape_is_known_with_and_without_a_crop(pets):
    assert load_folder(pets, WHOLE).image_shape == (5, 6, 3)
    assert load_folder(pets, CROP).image_shape == (4, 4, 3)


def test_each_image_is_preprocessed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    images = load_folder(tmp_path, CROP, ("a",)).read(np.array([0])).image
    np.testing.assert_array_equal(images[0], CROP.pixels(Image.fromarray(pixels)))


def test_evaluation_batches_hold_every_image_once(pets):
    batches = list(EvalBatches(load_folder(pets, CROP), 2))
    assert [batch["label"].tolist() for batch in batches] == [[0, 1], [1, 1]]
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1], [1, 0]]
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in batches] == [[20, 10], [11, 11]]


def test_image_that_fills_a_batch_up_is_decoded_once(pets, monkeypatch):
    read = []

    def decode(data, name, **how):
        read.append(name().split("/")[-1])
        return EncodedImage(data, name, **how)

    monkeypatch.setattr(encoded, "EncodedImage", decode)
    (batch,) = EvalBatches(load_folder(pets, CROP), 16)
    assert (batch["image"].shape, sorted(read)) == ((16, 4, 4, 3), ["a.png", "b.png", "z.png"])


def test_nothing_is_decoded_until_it_is_asked_for(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.jpg").write_bytes(b"no image")
    assert len(load_folder(tmp_path, CROP, ("cat",))) == 1


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "Png", "bmp", "webp", "PPM", "tif", "tiff"])
def test_extension_is_read_in_any_case(tmp_path, extension):
    save(tmp_path / f"cat/1.{extension}", 200)
    images = pixels(load_folder(tmp_path, WHOLE, ("cat",)), 0)
    np.testing.assert_allclose(images, 200, atol=2)


def test_hidden_and_other_files_are_ignored(pets):
    for name in ("dog/.hidden.png", "dog/._b.png", "dog/notes.txt", ".cache/1.png", "README.png"):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_bytes(b"no image")
    (pets / "dog/nested.png").mkdir()
    source = load_folder(pets, WHOLE)
    assert (source.class_names, len(source)) == (("cat", "dog"), 3)


def test_labels_are_positions_in_the_models_classes(pets):
    source = load_folder(pets, WHOLE, class_names=("dog", "horse", "cat"))
    assert (labels(source), source.class_names, source.num_classes) == ([2, 0, 0], ("dog", "horse", "cat"), 3)


def test_class_that_the_model_does_not_have_is_refused(pets):
    with pytest.raises(UserError, match=r"/dog must be named as one of the model's 2 classes: cat, dgo; did you mean"):
        load_folder(pets, WHOLE, class_names=("cat", "dgo"))
    many = tuple(f"n{i}" for i in range(1000))
    with pytest.raises(UserError, match=r"/cat must be .* 1000 classes: n0, n1, n2, n3, n4, n5, n6, n7, n8, …, n999$"):
        load_folder(pets, WHOLE, class_names=many)


def save_all(root, *paths):
    for path in paths:
        save(root / path)


def test_folder_around_the_models_classes_is_stepped_into(tmp_path):
    save_all(tmp_path, "pets/cat/1.png", "pets/dog/1.png")
    assert labels(load_folder(tmp_path, WHOLE, class_names=("horse", "dog", "cat"))) == [2, 1]
    save_all(tmp_path, "one/dog/1.png")
    assert labels(load_folder(tmp_path / "one", WHOLE, class_names=("cat", "dog"))) == [1]


@pytest.mark.parametrize(
    "names",
    [("bullet_train", "crash_test_dummy", "cat", "dog", "valley"), ("car", "train"), ("pretest", "posttest"),
     ("bullet_train", "test_card"), ("train", "bus", "car", "test tube"), ("pred_prey", "train", "z"),
     ("dev", "test", "prod"), ("train", "test", "bus", "test tube"), ("train", "test", "bus", "car"),
     ("benign/40X", "malignant/40X", "benign/100X", "malignant/100X")],
)  # fmt: skip
def test_classes_that_only_sound_like_splits_are_classes(tmp_path, names):
    save_all(tmp_path, *(f"{name}/1.png" for name in names))
    assert load_folder(tmp_path, WHOLE).class_names == tuple(sorted({name.split("/")[0] for name in names}))


def test_class_name_that_the_model_has_twice_is_refused(pets):
    with pytest.raises(UserError, match=r"/cat is 2 of the model's classes"):
        load_folder(pets, WHOLE, class_names=("cat", "dog", "cat"))


@pytest.mark.parametrize("split", ["test", "val"])
def test_split_folder_is_suggested_and_not_guessed(pets, split):
    outer = pets / "outer"
    outer.mkdir()
    for name in ("cat", "dog"):
        (outer / split).mkdir(exist_ok=True)
        (pets / name).rename(outer / split / name)
    with pytest.raises(UserError, match=rf"outer holds no images in class folders; did you mean .*outer/{split}\?$"):
        load_folder(outer, WHOLE)


def test_folder_without_class_folders_is_told_the_form(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"holds no images in class folders; they are expected as .*/<class>/<image>"):
        load_folder(tmp_path, WHOLE)


def test_empty_class_folder_is_named(pets):
    (pets / "ape").mkdir()
    (pets / "ape/notes.txt").touch()
    with pytest.raises(UserError, match="/ape holds no images: add some or remove the folder"):
        load_folder(pets, WHOLE)


def test_missing_or_unreadable_folder_is_named(pets, monkeypatch):
    with pytest.raises(UserError, match=r"/none cannot be read as a folder of images: No such file or directory"):
        load_folder(pets / "none", WHOLE)
    with pytest.raises(UserError, match=r"z\.png cannot be read as a folder of images: Not a directory"):
        load_folder(pets / "cat/z.png", WHOLE)

    def scandir(path):  # root, who runs the tests in a container, may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(scan.os, "scandir", scandir)
    with pytest.raises(UserError, match=r"cannot be read as a folder of images: Permission denied"):
        load_folder(pets, WHOLE)


def test_images_of_different_sizes_without_a_crop_name_the_file_and_both_sizes(pets):
    save(pets / "dog/c.png", size=(7, 5))
    source = load_folder(pets, WHOLE)
    with pytest.raises(UserError, match=r"dog/c\.png has 7x5 pixels and .*cat/z\.png 6x5: .* need a crop"):
        pixels(source, 3)
    assert pixels(load_folder(pets, CROP), 0, 1, 2, 3).shape == (4, 4, 4, 3)


def test_file_that_is_no_image_is_named(pets):
    (pets / "dog/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"dog/a\.png cannot be read as an image \(no known format\): replace or"):
        pixels(load_folder(pets, CROP), 0, 1, 2)


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp", "1.tif"])
def test_truncated_image_is_named(tmp_path, name):
    path = tmp_path / "cat" / name
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"cat/{name} cannot be read as an image \(.+\): replace or remove it") as info:
        pixels(load_folder(tmp_path, CROP, ("cat",)), 0)
    assert "\n" not in str(info.value)


def test_broken_link_is_an_unreadable_image_not_a_missing_one(pets):
    (pets / "dog/c.png").symlink_to(pets / "gone.png")
    source = load_folder(pets, CROP)
    assert len(source) == 4
    with pytest.raises(UserError, match=r"dog/c\.png cannot be read as an image \(No such file or directory\)"):
        pixels(source, 3)


def test_image_of_too_many_pixels_is_named(pets, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"z\.png cannot be read as an image \(Image size \(30 pixels\) exceeds"):
        pixels(load_folder(pets, CROP), 0)


def test_rotation_in_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (6, 5)).save(tmp_path / "cat/1.jpg", exif=exif)
    assert pixels(load_folder(tmp_path, WHOLE, ("cat",)), 0).shape == (1, 5, 6, 3)


def pack(tar, root, *folders):
    with tarfile.open(tar, "w") as archive:
        for name in folders:
            archive.add(root / name, name)


def split_pets(root):
    """Three training images, two for validation and one for testing, in the usual folders."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            save(root / split / ("cat" if i == 1 else "dog") / f"{i}.png", 10 * len(split) + i)
    return root


def test_splits_are_the_folders_that_hold_classes(pets, tmp_path_factory):
    assert open_image_set(pets).splits == {}
    root = split_pets(tmp_path_factory.mktemp("split"))
    (root / "meta").mkdir()
    save(root / "samples.png")
    assert open_image_set(root).splits == {"train": "train", "validation": "val", "test": "test"}


def test_class_that_is_called_train_is_a_class(tmp_path):
    save(tmp_path / "train/1.png", 1)
    save(tmp_path / "car/1.png", 2)
    assert open_image_set(tmp_path).splits == {}
    assert open_image_set(tmp_path).images().class_names == ("car", "train")


def test_split_folder_gives_training_validation_and_test_images(tmp_path):
    splits = load_splits("folder", DatasetOptions(str(split_pets(tmp_path)), preprocess=WHOLE), validation_fraction=0.1)
    assert [len(source) for source in (splits.train, splits.validation, splits.test)] == [3, 2, 1]
    assert splits.train.class_names == splits.test.class_names == ("cat", "dog")
    assert labels(splits.test) == [1]  # a dog, though the only class of that split


def test_class_of_validation_that_training_lacks_is_refused(tmp_path):
    save(split_pets(tmp_path) / "val/emu/1.png")
    with pytest.raises(UserError, match=r"val/emu must be named as one of the model's 2 classes: cat, dog"):
        load_splits("folder", DatasetOptions(str(tmp_path), preprocess=WHOLE))


def test_folder_without_splits_is_divided_by_the_fraction(pets):
    for i in range(7):
        save(pets / f"cat/{i}.png", i)
    splits = load_splits("folder", DatasetOptions(str(pets), preprocess=WHOLE), validation_fraction=0.2)
    assert (len(splits.train), len(splits.validation), splits.test) == (8, 2, None)
    names = {source.name(i) for source in (splits.train, splits.validation) for i in range(len(source))}
    assert len(names) == 10


def test_folder_needs_its_place():
    with pytest.raises(UserError, match="dataset='folder' needs data_dir"):
        load_splits("folder", DatasetOptions())


def test_nested_folders_belong_to_their_class(pets):
    save(pets / "cat/young/1.png", 21)
    source = load_folder(pets, WHOLE)
    assert [source.name(i).removeprefix(f"{pets}/") for i in range(2)] == ["cat/young/1.png", "cat/z.png"]
    (pets / "cat/loop").symlink_to(pets)
    assert len(load_folder(pets, WHOLE)) == 4


@pytest.mark.parametrize(
    "layout", ["train.tar", "train-000.tar", "train/shard.tar", "both.tar", "Train.tar", "nested/train.tar"]
)
def test_tar_stands_for_what_is_in_it(tmp_path, layout):
    plain, packed = split_pets(tmp_path / "plain"), tmp_path / "packed"
    (packed / "train" if "/" in layout else packed).mkdir(parents=True)
    if layout == "nested/train.tar":  # that holds train/
        pack(packed / "train.tar", plain, "train")
        pack(packed / "val.tar", plain, "val")
    elif layout == "both.tar":
        pack(packed / layout, plain, "train", "val")
    else:
        pack(packed / layout, plain / "train", "cat", "dog")
        pack(packed / "val.tar", plain / "val", "cat", "dog")
    expected, tree = open_image_set(plain), open_image_set(packed)
    assert set(tree.splits) == {"train", "validation"}
    for split in tree.splits:
        ours, theirs = (DatasetOptions(preprocess=WHOLE).source(t.images(split)) for t in (tree, expected))
        assert ours.class_names == theirs.class_names
        np.testing.assert_array_equal(ours.read(np.arange(len(ours))).image, theirs.read(np.arange(len(theirs))).image)
        assert labels(ours) == labels(theirs)


def test_shards_and_files_may_lie_side_by_side(pets, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save(other / "emu/1.png", 30)
    save(other / "cat/a.png", 19)
    save(other / "cat/.hidden.png", 1)
    pack(pets / "more.tar", other, "./emu", "./cat")
    source = load_folder(pets, WHOLE)
    assert source.class_names == ("cat", "dog", "emu")
    assert pixels(source, 0, 1, 2, 3, 4)[:, 0, 0, 0].tolist() == [19, 20, 10, 11, 30]
    assert source.name(0) == f"{pets}/more.tar/cat/a.png"


def test_one_tar_may_be_all_there_is(pets, tmp_path_factory):
    tar = tmp_path_factory.mktemp("one") / "pets.tar"
    pack(tar, pets, "cat", "dog")
    source = load_folder(tar, WHOLE)
    assert pixels(source, 0, 1, 2)[:, 0, 0, 0].tolist() == [20, 10, 11]
    assert source.name(2) == f"{tar}/dog/b.png"


def test_damaged_or_compressed_tar_is_named(pets):
    (pets / "more.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"more\.tar cannot be read as a tar .*whole and not compressed"):
        load_folder(pets, WHOLE)


def test_cut_tar_or_damaged_header_is_named(pets, tmp_path_factory):
    whole = tmp_path_factory.mktemp("one") / "pets.tar"
    pack(whole, pets, "cat", "dog")
    data = whole.read_bytes()
    with tarfile.open(whole) as archive:
        last = archive.getmembers()[-1]
    header = last.offset_data - 512
    for damaged in (data[:header], data[:header] + b"\1" + data[header + 1 :]):
        whole.write_bytes(damaged)
        with pytest.raises(UserError, match=r"pets\.tar (is damaged or cut at byte \d+|cannot be read as a tar)"):
            load_folder(whole, WHOLE)
    whole.write_bytes(data + data)
    with pytest.raises(UserError, match="keep tars apart instead of joining them"):
        load_folder(whole, WHOLE)


def test_links_in_a_tar_are_the_files_they_lead_to(pets, tmp_path_factory):
    (pets / "dog/c.png").symlink_to("a.png")
    (pets / "dog/d.png").hardlink_to(pets / "dog/b.png")
    tar = tmp_path_factory.mktemp("one") / "pets.tar"
    pack(tar, pets, "cat", "dog")
    assert pixels(load_folder(tar, WHOLE), 1, 2, 3, 4)[:, 0, 0, 0].tolist() == [10, 11, 10, 11]
    (pets / "dog/e.png").symlink_to("/elsewhere.png")
    pack(tar, pets, "cat", "dog")
    with pytest.raises(UserError, match=r"holds dog/e\.png, a link to elsewhere\.png, which it does not hold"):
        load_folder(tar, WHOLE)


def test_image_in_a_tar_and_beside_it_is_refused(pets):
    pack(pets / "cats.tar", pets, "cat")
    with pytest.raises(UserError, match=r"cat/z\.png is there twice, in a tar and beside it"):
        load_folder(pets, WHOLE)


def test_layouts_that_are_not_clear_are_refused(tmp_path):
    root = split_pets(tmp_path)
    save(root / "more/emu/1.png")
    with pytest.raises(UserError, match=r"holds images in more/ beside test/, train/, val/: move them away"):
        open_image_set(root).images()
    shutil.rmtree(root / "more")
    save(root / "validation/cat/1.png")
    with pytest.raises(UserError, match=r"has both val/ and validation/"):
        open_image_set(root).splits  # noqa: B018
    shutil.rmtree(root / "validation")
    shutil.rmtree(root / "val")
    (root / "val/cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"/val holds no images in class folders: add some or remove"):
        open_image_set(root).splits  # noqa: B018
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    save(root / "test/1.png")  # without labels, as competitions have them
    assert open_image_set(root).splits == {"train": "train"}


def test_split_folders_may_be_capitalised(tmp_path):
    split_pets(tmp_path)
    (tmp_path / "train").rename(tmp_path / "Train")
    assert open_image_set(tmp_path).splits == {"train": "Train", "validation": "val", "test": "test"}


def test_what_is_neither_a_file_nor_a_folder_is_refused(pets):
    os.mkfifo(pets / "cat/a.png")
    with pytest.raises(UserError, match=r"cat/a\.png is neither a file nor a folder: remove it"):
        load_folder(pets, WHOLE)


def test_fault_of_the_disk_is_no_bad_image(pets, monkeypatch):
    def fail(path, *arguments, **options):
        raise OSError(5, "Input/output error", str(path))

    source = load_folder(pets, CROP, bad_images=BadImages(5))
    monkeypatch.setattr(ranged_files, "open", fail, raising=False)
    with pytest.raises(RunError, match=r"dog/a\.png cannot be read: Input/output error"):
        pixels(source, 1)


def test_image_beyond_the_end_of_a_cut_tar_is_no_image(pets, tmp_path_factory):
    tar = tmp_path_factory.mktemp("one") / "pets.tar"
    pack(tar, pets, "cat", "dog")
    source = load_folder(tar, CROP)
    tar.write_bytes(tar.read_bytes()[:2000])  # after it was listed
    with pytest.raises(UserError, match=r"pets\.tar/dog/b\.png cannot be read as an image \(its tar ends before"):
        pixels(source, 2)


def test_image_that_has_gone_is_named(pets):
    source = load_folder(pets, WHOLE)
    (pets / "dog/b.png").unlink()
    with pytest.raises(UserError, match=r"dog/b\.png cannot be read as an image \(No such file or directory\)"):
        pixels(source, 2)


def test_link_that_leads_to_itself_is_refused(pets):
    (pets / "cat/self.png").symlink_to("self.png")
    with pytest.raises(UserError, match=r"cat/self\.png is a link that leads to itself: remove it"):
        load_folder(pets, WHOLE)


def test_gif_is_trained_on_as_the_same_pixels_in_a_png_its_first_frame_alone(tmp_path):
    frames = [Image.fromarray(np.random.RandomState(i).randint(0, 256, (9, 7, 3), np.uint8)) for i in range(2)]
    frames = [frame.quantize(64) for frame in frames]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].convert("RGB").save(tmp_path / "b.png")
    for folder_name, file in (("gif", "a.gif"), ("png", "b.png")):
        (tmp_path / folder_name / "cat").mkdir(parents=True)
        (tmp_path / file).rename(tmp_path / folder_name / "cat" / file)
    gif, png = (load_folder(tmp_path / name, WHOLE, ("cat",)) for name in ("gif", "png"))
    np.testing.assert_array_equal(pixels(gif, 0), pixels(png, 0))
    images = [EncodedImage(source.encoded.read(0)[0], "") for source in (gif, png)]
    np.testing.assert_array_equal(*(image.region((1, 2, 6, 8), (2, 2)) for image in images))


def test_bad_images_are_counted_once_wherever_they_lie():
    before = BadImages(limit=1, root="/nfs/pets")
    before.take(BadImageError("/nfs/pets/cat/1.jpg", "is damaged"))
    assert before.known() == ["cat/1.jpg"]
    after = BadImages(limit=1, root="/scratch/pets")
    after.add(before.known())
    after.take(BadImageError("/scratch/pets/cat/1.jpg", "is damaged"))
    after.raise_if_too_many()
    with pytest.raises(UserError, match=r"2 images cannot be read, more than config\.max_bad_images=1"):
        after.take(BadImageError("/scratch/pets/cat/2.jpg", "is damaged"))
