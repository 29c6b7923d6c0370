"""Image folders: order, labels, decoding on demand, and what is wrong with a folder in one line."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import folder
from resnet_jax.data.batches import eval_batches
from resnet_jax.data.folder import load_folder, read_image
from resnet_jax.data.transforms import Preprocess
from resnet_jax.errors import UserError

WHOLE = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CROP = Preprocess(8, 4, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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
    assert (source.labels.tolist(), source.labels.dtype) == ([0, 1, 1], np.int32)
    assert [path.name for path in source.images.paths] == ["z.png", "a.png", "b.png"]
    assert source.images[np.arange(3)][:, 0, 0, 0].tolist() == [20, 10, 11]


def test_images_come_in_the_order_of_the_indices_also_repeated(pets):
    images = load_folder(pets, WHOLE).images[np.array([2, 0, 2, 1])]
    assert (images.shape, images.dtype) == ((4, 5, 6, 3), np.uint8)
    assert images[:, 4, 5, 2].tolist() == [11, 20, 11, 10]


def test_shape_is_known_with_and_without_a_crop(pets):
    assert load_folder(pets, WHOLE).images.shape == (3, 5, 6, 3)
    assert load_folder(pets, CROP).images.shape == (3, 4, 4, 3)


def test_each_image_is_preprocessed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    images = load_folder(tmp_path, CROP).images[np.array([0])]
    np.testing.assert_array_equal(images[0], CROP.pixels(Image.fromarray(pixels)))


def test_evaluation_batches_hold_every_image_once(pets):
    batches = list(eval_batches(load_folder(pets, CROP), 2))
    assert [batch["label"].tolist() for batch in batches] == [[0, 1], [1, 1]]
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1], [1, 0]]
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in batches] == [[20, 10], [11, 11]]


def test_image_that_fills_a_batch_up_is_decoded_once(pets, monkeypatch):
    read = []
    monkeypatch.setattr(folder, "read_image", lambda path: read.append(path.name) or read_image(path))
    (batch,) = eval_batches(load_folder(pets, CROP), 16)
    assert (batch["image"].shape, sorted(read)) == ((16, 4, 4, 3), ["a.png", "b.png", "z.png"])


def test_nothing_is_decoded_until_it_is_asked_for(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.jpg").write_bytes(b"no image")
    assert len(load_folder(tmp_path, CROP)) == 1


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "Png", "bmp", "webp", "PPM", "tif", "tiff"])
def test_extension_is_read_in_any_case(tmp_path, extension):
    save(tmp_path / f"cat/1.{extension}", 200)
    images = load_folder(tmp_path, WHOLE).images[np.array([0])]
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
    assert (source.labels.tolist(), source.class_names, source.num_classes) == ([2, 0, 0], ("dog", "horse", "cat"), 3)


def test_class_that_the_model_does_not_have_is_refused(pets):
    with pytest.raises(UserError, match=r"/dog must be named as one of the model's 2 classes: cat, dgo; did you mean"):
        load_folder(pets, WHOLE, class_names=("cat", "dgo"))
    many = tuple(f"n{i}" for i in range(1000))
    with pytest.raises(UserError, match=r"/cat must be .* 1000 classes: n0, n1, n2, n3, n4, n5, n6, n7, n8, …, n999$"):
        load_folder(pets, WHOLE, class_names=many)


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
    with pytest.raises(UserError, match=r"/ape holds no images \(\.jpg .*: add some or remove the folder"):
        load_folder(pets, WHOLE)


def test_missing_or_unreadable_folder_is_named(pets, monkeypatch):
    with pytest.raises(UserError, match=r"/none cannot be read as a folder of images: No such file or directory"):
        load_folder(pets / "none", WHOLE)
    with pytest.raises(UserError, match=r"z\.png cannot be read as a folder of images: Not a directory"):
        load_folder(pets / "cat/z.png", WHOLE)

    def scandir(path):  # root, who runs the tests in a container, may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folder.os, "scandir", scandir)
    with pytest.raises(UserError, match=r"cannot be read as a folder of images: Permission denied"):
        load_folder(pets, WHOLE)


def test_images_of_different_sizes_without_a_crop_name_the_file_and_both_sizes(pets):
    save(pets / "dog/c.png", size=(7, 5))
    source = load_folder(pets, WHOLE)
    with pytest.raises(UserError, match=r"dog/c\.png has 7x5 pixels and .*cat/z\.png 6x5: .* need a crop"):
        source.images[np.array([3])]
    assert load_folder(pets, CROP).images[np.arange(4)].shape == (4, 4, 4, 3)


def test_file_that_is_no_image_is_named(pets):
    (pets / "dog/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"dog/a\.png cannot be read as an image \(no known format\): replace or"):
        load_folder(pets, CROP).images[np.arange(3)]


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp", "1.tif"])
def test_truncated_image_is_named(tmp_path, name):
    path = tmp_path / "cat" / name
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"cat/{name} cannot be read as an image \(.+\): replace or remove it") as info:
        load_folder(tmp_path, CROP).images[np.array([0])]
    assert "\n" not in str(info.value)


def test_broken_link_is_an_unreadable_image_not_a_missing_one(pets):
    (pets / "dog/c.png").symlink_to(pets / "gone.png")
    source = load_folder(pets, CROP)
    assert len(source) == 4
    with pytest.raises(UserError, match=r"dog/c\.png cannot be read as an image \(No such file or directory\)"):
        source.images[np.array([3])]


def test_image_of_too_many_pixels_is_named(pets, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"z\.png cannot be read as an image \(Image size \(30 pixels\) exceeds"):
        load_folder(pets, CROP).images[np.array([0])]


def test_rotation_in_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (6, 5)).save(tmp_path / "cat/1.jpg", exif=exif)
    assert load_folder(tmp_path, WHOLE).images[np.array([0])].shape == (1, 5, 6, 3)
