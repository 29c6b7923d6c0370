"""Evaluation's preprocessing against torchvision's own pixels, and by hand where those have no case."""

import json
from dataclasses import replace

import numpy as np
import pytest
from golden_files import GOLDEN
from PIL import Image

from resnet_jax.data.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, PREPROCESS, Preprocess, TenCrop
from resnet_jax.data.transforms.resize import make_resize
from resnet_jax.errors import UserError

V1, V2, CIFAR = (PREPROCESS[name] for name in ("IMAGENET1K_V1", "IMAGENET1K_V2", "CIFAR"))
BICUBIC = Preprocess(248, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "preprocess.npz") as arrays:
        return dict(arrays)


def whole(**changes):
    return replace(CIFAR, **changes)


@pytest.mark.parametrize("photo", ["china", "flower"])
@pytest.mark.parametrize(
    ("preprocess", "recipe"),
    [
        (V1, "resize256_crop224_bilinear"),
        (V2, "resize232_crop224_bilinear"),
        (BICUBIC, "resize248_crop224_bicubic"),
    ],
)
def test_photo_has_torchvisions_pixels(golden, photo, preprocess, recipe):
    with Image.open(GOLDEN / f"{photo}.jpg") as image:
        ours = preprocess.pixels(image)
    difference = np.abs(ours.astype(int) - golden[f"{photo}_{recipe}"])
    # All are 0 here; another JPEG decoder may round differently.
    assert difference.max() <= 1
    assert difference.mean() <= 0.05


@pytest.mark.parametrize("photo", ["china", "flower"])
def test_tall_image_of_odd_size_has_torchvisions_pixels(golden, photo):
    image = Image.fromarray(golden[f"{photo}_tall101x333_input"])
    np.testing.assert_array_equal(V1.pixels(image), golden[f"{photo}_tall101x333_resize256_crop224_bilinear"])


def test_longer_side_is_rounded_down():
    # 5 * 17 / 9 = 9.44…, 5 * 19 / 10 = 9.5, 5 * 11 / 7 = 7.86
    for size, resized in {(9, 17): (5, 9), (10, 19): (5, 9), (19, 10): (9, 5), (11, 7): (7, 5), (7, 7): (5, 5)}.items():
        width, height = resized
        assert whole(resize=5).pixels(Image.new("RGB", size)).shape == (height, width, 3)


def test_crop_at_half_a_pixel_begins_at_the_even_one():
    columns = np.broadcast_to(np.arange(11, dtype=np.uint8)[None, :, None], (9, 11, 3))
    image = Image.fromarray(np.ascontiguousarray(columns))
    # 11 - 4 = 7, half of which is 3.5: from 4; 9 - 4 = 5, half of which is 2.5: from 2.
    assert whole(crop=4).pixels(image)[0, :, 0].tolist() == [4, 5, 6, 7]
    assert whole(crop=4).pixels(image.transpose(Image.Transpose.TRANSPOSE))[:, 0, 0].tolist() == [4, 5, 6, 7]
    rows = Image.fromarray(np.ascontiguousarray(columns[:, :9])).transpose(Image.Transpose.TRANSPOSE)
    assert whole(crop=4).pixels(rows)[:, 0, 0].tolist() == [2, 3, 4, 5]


def test_image_smaller_than_the_crop_is_filled_with_zeros_more_on_the_right_and_below():
    pixels = whole(crop=8).pixels(Image.new("RGB", (5, 11), (7, 8, 9)))
    assert pixels.shape == (8, 8, 3)
    # 8 - 5 = 3 columns are missing: 1 on the left, 2 on the right. Rows are cut, not filled.
    assert pixels[0, :, 0].tolist() == pixels[7, :, 0].tolist() == [0, 7, 7, 7, 7, 7, 0, 0]
    assert whole(crop=8).pixels(Image.new("RGB", (3, 3), (1, 1, 1)))[3, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_grey_palette_and_transparent_images_become_rgb():
    assert whole().pixels(Image.new("L", (1, 1), 200)).tolist() == [[[200, 200, 200]]]
    assert whole().pixels(Image.new("1", (1, 1), 1)).tolist() == [[[255, 255, 255]]]
    assert whole().pixels(Image.new("RGBA", (1, 1), (10, 20, 30, 0))).tolist() == [[[10, 20, 30]]]
    assert whole().pixels(Image.new("RGB", (1, 1), (255, 0, 0)).convert("P")).tolist() == [[[255, 0, 0]]]


def test_call_subtracts_the_mean_and_divides_by_the_std_of_each_channel():
    preprocess = Preprocess(None, None, "bilinear", (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    result = preprocess(Image.new("RGB", (2, 3), (51, 51, 51)))  # 51 / 255 = 0.2
    assert (result.shape, result.dtype) == ((3, 2, 3), np.float32)
    np.testing.assert_allclose(result[2, 1], [0.2, -0.6, -3.2], rtol=1e-6)


def test_recipes_are_the_published_ones():
    assert {name: (p.resize, p.crop, p.interpolation) for name, p in PREPROCESS.items()} == {
        "IMAGENET1K_V1": (256, 224, "bilinear"),
        "IMAGENET1K_V2": (232, 224, "bilinear"),
        "CIFAR": (None, None, "bilinear"),
    }
    assert (V1.mean, V1.std) == (V2.mean, V2.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (CIFAR.mean, CIFAR.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


WIDE = Preprocess((34, 51), (30, 45), "bilinear", (0.5,), (0.25,))
PADDED = Preprocess(None, (30, 45), "bilinear", (0.5,) * 6, (0.25,) * 6, "pad", "scale")


@pytest.mark.parametrize("preprocess", [V2, CIFAR, BICUBIC, WIDE, PADDED])
def test_json_text_brings_the_same_preprocess_back(preprocess):
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": 0}, r"resize=0 must be a number of pixels from 1 on, two of them, or None"),
        ({"resize": 256.0}, r"resize=256\.0 must be"),
        ({"crop": -1}, r"crop=-1 must be"),
        ({"crop": True}, r"crop=True must be"),
        (
            {"interpolation": "bilinaer"},
            r"interpolation='bilinaer' must be one of nearest, bilinear, .*; did you mean",
        ),
        ({"mean": [123.675, 116.28, 103.53]}, r"mean=\(123\.675, .*\) must be a number in \[0, 1\] for each channel"),
        ({"mean": [0.5, 0.5]}, r"mean=\(0\.5, 0\.5\) and std=\(0\.229, .*\) must be of equally many channels"),
        ({"crop": [224, 0]}, r"crop=\(224, 0\) must be"),
        ({"crop": [1, 2, 3]}, r"crop=\(1, 2, 3\) must be"),
        ({"fit": "stretch"}, r"fit='stretch' must be one of crop, squash, pad, border"),
        ({"fit": "pad"}, r"fit='pad' needs resize=None"),
        ({"fit": "squash", "crop": None}, r"fit='squash' needs a crop"),
        ({"mean": [0.5, 0.5, float("nan")]}, r"mean=.* must be a number in"),
        ({"mean": [0.5, 0.5, "0.5"]}, r"mean=.* must be a number in"),
        ({"mean": 0.5}, r"mean=0\.5 must be a number in"),
        ({"std": [0.5, 0.0, 0.5]}, r"std=\(0\.5, 0\.0, 0\.5\) must be a number in \(0, 1\] for each channel"),
        ({"sdt": [0.5, 0.5, 0.5]}, r"must be an object of resize, crop, interpolation, mean, std"),
    ],
)
def test_bad_values_name_the_field_and_the_rule(changes, message):
    with pytest.raises(UserError, match=message):
        Preprocess.from_json({**V1.to_json(), **changes})


def test_json_that_is_no_preprocess_is_refused():
    for values in (None, [], "IMAGENET1K_V1", {"resize": 256}):
        with pytest.raises(UserError, match="must be an object of resize, crop"):
            Preprocess.from_json(values)


def test_ten_crops_are_the_corners_the_centre_and_their_mirrors():
    # Each pixel holds its row and column; 5 rows and 6 columns, crops of 3 x 3.
    rows, columns = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    image = Image.fromarray(np.stack([rows, columns, rows], axis=-1).astype(np.uint8))
    views = TenCrop(whole(crop=3)).pixels(image)
    assert views.shape == TenCrop(whole(crop=3)).image_shape == (10, 3, 3, 3)
    corners = [(view[0, 0, 0], view[0, 0, 1]) for view in views[:5]]
    assert corners == [(0, 0), (0, 3), (2, 0), (2, 3), (1, 2)]  # (6 - 3) / 2 = 1.5 goes to the even 2
    # Mirrored, the columns run down; what was on the right is on the left.
    assert [(view[0, 0, 0], view[0, 0, 1]) for view in views[5:]] == [(0, 5), (0, 2), (2, 5), (2, 2), (1, 3)]
    np.testing.assert_array_equal(views[5], views[1][:, ::-1])


def test_ten_crops_need_images_larger_than_the_crop():
    with pytest.raises(UserError, match="ten crops need a crop smaller"):
        TenCrop(whole())
    with pytest.raises(UserError, match="ten crops need a crop smaller"):
        TenCrop(whole(crop=4, fit="pad"))
    with pytest.raises(UserError, match="crop=9 must be at most the 9x8 pixels"):
        TenCrop(whole(crop=9)).pixels(Image.new("RGB", (9, 8)))


def test_files_written_before_there_was_a_choice_of_fit_are_read_and_written_as_they_were():
    values = V1.to_json()
    assert set(values) == {"resize", "crop", "interpolation", "mean", "std"}
    assert Preprocess.from_json(values).fit == "crop"


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (90, 30), (30, 90), (51, 34)])
def test_wide_crop_is_of_an_image_that_just_covers_the_size_before(size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8))
    (resized,) = WIDE.resized(picture)
    assert resized.width >= 51
    assert resized.height >= 34
    assert resized.width == 51 or resized.height == 34
    left, top = round((resized.width - 45) / 2), round((resized.height - 30) / 2)
    expected = np.asarray(resized)[top : top + 30, left : left + 45, None]
    np.testing.assert_array_equal(WIDE.pixels(picture), expected)


def test_squashed_image_is_resized_to_exactly_the_size():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 70, 3), np.uint8))
    pixels = whole(crop=(30, 45), fit="squash").pixels(picture)
    np.testing.assert_array_equal(pixels, np.asarray(picture.resize((45, 30), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("size", "inside"), [((90, 30), (45, 15)), ((20, 70), (9, 30)), ((3, 2), (45, 30)), ((999, 1), (45, 1))]
)
def test_padded_image_is_whole_centred_and_black_around(size, inside):
    picture = Image.new("RGB", size, (7, 8, 9))
    pixels = whole(crop=(30, 45), fit="pad").pixels(picture)
    width, height = inside
    top, left = (30 - height) // 2, (45 - width) // 2
    expected = np.zeros((30, 45, 3), np.uint8)
    expected[top : top + height, left : left + width] = (7, 8, 9)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 6])
def test_channels_are_resized_each_by_itself(fit, num_channels):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 41, num_channels), np.uint8)
    resize = (20, 28) if fit == "crop" else None

    def prepare(pixels):
        count = pixels.shape[2]
        return Preprocess(resize, (16, 24), "bicubic", (0.5,) * count, (0.5,) * count, fit).pixels(pixels)

    one_by_one = [prepare(pixels[..., i : i + 1]) for i in range(num_channels)]
    assert prepare(pixels).shape == (16, 24, num_channels)
    np.testing.assert_array_equal(prepare(pixels), np.concatenate(one_by_one, axis=-1))


def test_ten_wide_crops_are_views_of_their_shape():
    views = TenCrop(whole(crop=(2, 4))).pixels(Image.new("RGB", (6, 5)))
    assert views.shape == (10, 2, 4, 3)


def test_deep_pictures_are_refused_or_scaled_and_never_cut_off():
    deep = Image.fromarray(np.array([[0, 257, 65_535]], np.uint16))
    with pytest.raises(UserError, match="more than 8 bits a channel, mode I;16 with values from 0 to 65535"):
        CIFAR.pixels(deep)
    assert whole(high_bit_depth="scale").pixels(deep)[0, :, 0].tolist() == [0, 1, 255]
    with pytest.raises(UserError, match=r"a picture has 1, 3 or 4 channels: 6 need an array \(H, W, 6\)"):
        PADDED.pixels(Image.new("RGB", (2, 2)))


@pytest.mark.parametrize("resampler", ["pillow", "opencv"])
def test_a_fourth_channel_weighs_no_other(resampler):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    pixels[..., 3] = 0
    whole = Preprocess(16, 16, "bilinear", (0.0,) * 4, (1.0,) * 4)
    colours = Preprocess(16, 16, "bilinear", (0.0,) * 3, (1.0,) * 3)
    for image in (pixels, Image.fromarray(pixels)):
        resized = whole.pixels(image)
        np.testing.assert_array_equal(resized[..., :3], colours.pixels(pixels[..., :3]))
        assert not resized[..., 3].any()
    resize = make_resize(resampler, "bilinear", True)
    np.testing.assert_array_equal(resize(pixels, (16, 16))[..., :3], resize(pixels[..., :3], (16, 16)))
