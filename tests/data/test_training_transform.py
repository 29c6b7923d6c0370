"""Random-resized crops: torchvision's distribution, Pillow's pixels; and what a transform does in which order."""

import math

import numpy as np
import pytest
from golden_files import GOLDEN
from PIL import Image

from resnet_jax.data.decodable_image import ArrayImage
from resnet_jax.data.decoding import EncodedImage
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.data.transforms.resize import make_resize, resize_antialiased, resize_bilinear
from resnet_jax.data.transforms.training import RandomResizedCrop, TrainingTransform
from resnet_jax.errors import UserError


@pytest.fixture(scope="module")
def photo():
    return EncodedImage((GOLDEN / "china.jpg").read_bytes(), "china.jpg")


def boxes(crop, width, height, n=4000):
    return np.array([crop.box(width, height, KeyedRandom(0, 0, sample)) for sample in range(n)])


def test_area_and_ratio_of_crops_are_distributed_as_drawn():
    # A square so large that rounding and rejection hardly matter, and parts small enough to fit always.
    crop = RandomResizedCrop(1, scale=(0.08, 0.6))
    left, top, right, bottom = boxes(crop, 4000, 4000).T
    area, ratio = (right - left) * (bottom - top) / 4000**2, np.log((right - left) / (bottom - top))
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(area, quantiles), 0.08 + 0.52 * quantiles, atol=0.02)
    low, high = math.log(3 / 4), math.log(4 / 3)
    np.testing.assert_allclose(np.quantile(ratio, quantiles), low + (high - low) * quantiles, atol=0.02)
    for start, end in ((left, right), (top, bottom)):
        place = start / (4000 - (end - start))
        np.testing.assert_allclose(np.quantile(place, quantiles), quantiles, atol=0.04)


# Quantiles 0.1 to 0.9 of area and of width by height over 100,000 boxes of torchvision 0.29's
# RandomResizedCrop.get_params for an image of 500 x 375 pixels.
TORCHVISION_AREA = [0.1477, 0.2164, 0.2858, 0.3542, 0.4223, 0.4908, 0.5583, 0.6343, 0.7379]
TORCHVISION_RATIO = [0.8109, 0.8704, 0.9299, 0.9901, 1.048, 1.1053, 1.1617, 1.2184, 1.2757]


def test_crops_of_a_photo_are_distributed_as_torchvisions():
    left, top, right, bottom = boxes(RandomResizedCrop(224), 500, 375, 8000).T
    quantiles = np.linspace(0.1, 0.9, 9)
    area = (right - left) * (bottom - top) / (500 * 375)
    np.testing.assert_allclose(np.quantile(area, quantiles), TORCHVISION_AREA, atol=0.02)
    ratio = (right - left) / (bottom - top)
    np.testing.assert_allclose(np.quantile(ratio, quantiles), TORCHVISION_RATIO, atol=0.02)
    assert left.min() == top.min() == 0
    assert (right.max(), bottom.max()) == (500, 375)


@pytest.mark.parametrize(
    ("size", "box"),
    [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))],
)
def test_image_in_which_no_crop_fits_gives_its_centre(size, box):
    assert RandomResizedCrop(8, scale=(0.9, 1.0)).box(*size, KeyedRandom(0, 0, 0)) == box


def test_pillow_resampler_gives_pillows_pixels(photo):
    crop = RandomResizedCrop(64, resampler="pillow", interpolation="bicubic")
    image = Image.fromarray(photo.pixels())
    for sample in range(5):
        expected = image.crop(crop.box(*image.size, KeyedRandom(3, 1, sample))).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(crop(photo, KeyedRandom(3, 1, sample)), expected)


@pytest.mark.parametrize("size", [(300, 200), (150, 220), (90, 80), (64, 64), (40, 50), (1, 1), (500, 70)])
def test_opencv_resampler_is_near_pillow(photo, size):
    pixels = np.asarray(Image.fromarray(photo.pixels()).crop((100, 100, 100 + size[0], 100 + size[1])))
    pillow = make_resize("pillow", "bilinear", True)(pixels, (64, 64)).astype(int)
    ours, plain = resize_antialiased(pixels, (64, 64)), resize_bilinear(pixels, (64, 64))
    error, plain_error = np.abs(ours - pillow).mean(), np.abs(plain - pillow).mean()
    assert error <= 3  # of 255
    assert error <= plain_error + 0.5


def test_halved_image_is_pillows_but_for_rounding(photo):
    # At a factor of two exactly, the three taps and bilinear interpolation are the triangle.
    pixels = np.ascontiguousarray(photo.pixels()[:128, :128])
    ours = resize_antialiased(pixels, (65, 65))  # 128 / 65 < 2: not halved before
    pillow = np.asarray(Image.fromarray(pixels).resize((65, 65), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - pillow).mean() < 1.0


def test_operations_follow_the_crop_in_their_order():
    order = []

    def operation(name):
        def run(image, rng):
            order.append((name, image.size, rng.uniform()))
            return image

        return run

    transform = TrainingTransform(RandomResizedCrop(8), (operation("first"), operation("second")))
    image = ArrayImage(np.zeros((30, 40, 3), np.uint8))
    assert transform(image, KeyedRandom(0, 0, 5)).shape == (8, 8, 3)
    assert [(name, size) for name, size, _ in order] == [("first", (8, 8)), ("second", (8, 8))]
    assert order[0][2] != order[1][2]


def test_without_a_random_crop_the_image_is_cropped_as_in_evaluation(photo):
    preprocess = Preprocess(72, 64, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    expected = preprocess.pixels(Image.fromarray(photo.pixels()))
    np.testing.assert_array_equal(TrainingTransform(preprocess)(photo, KeyedRandom(0, 0, 0)), expected)
    np.testing.assert_array_equal(TrainingTransform()(photo, KeyedRandom(0, 0, 0)), photo.pixels())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"crop size=0 must be at least 1 pixel"),
        ({"scale": (0.0, 1.0)}, r"crop_scale=\(0\.0, 1\.0\) must be two growing numbers in \(0, 1\]"),
        ({"scale": (0.5, 1.5)}, r"crop_scale=\(0\.5, 1\.5\) must be"),
        ({"scale": (0.5,)}, r"crop_scale=\(0\.5,\) must be"),
        ({"ratio": (2.0, 1.0)}, r"crop_ratio=\(2\.0, 1\.0\) must be two growing positive numbers"),
        ({"resampler": "opencv2"}, r"resampler='opencv2' must be one of opencv, pillow; did you mean 'opencv'"),
        ({"interpolation": "bicubic"}, r"interpolation='bicubic' needs resampler='pillow'"),
        ({"resampler": "pillow", "antialias": False}, r"antialias=False needs resampler='opencv'"),
    ],
)
def test_bad_values_name_the_field_and_the_rule(arguments, message):
    with pytest.raises(UserError, match=message):
        RandomResizedCrop(**{"size": 8, **arguments})


@pytest.mark.parametrize("resampler", ["opencv", "pillow"])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 6])
def test_random_part_of_any_shape_and_channels_is_resized_channel_by_channel(resampler, num_channels):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, num_channels), np.uint8)

    def part(pixels):
        crop = RandomResizedCrop((20, 30), resampler=resampler, num_channels=pixels.shape[2])
        assert crop.image_shape == (20, 30, pixels.shape[2])
        return crop(ArrayImage(pixels), KeyedRandom(0, 0, 0))

    one_by_one = [part(pixels[..., i : i + 1]) for i in range(num_channels)]
    np.testing.assert_array_equal(part(pixels), np.concatenate(one_by_one, axis=-1))


def test_fitted_image_is_what_a_random_crop_is_taken_of(photo):
    preprocess = Preprocess(None, (40, 60), "bilinear", (0.5,) * 3, (0.5,) * 3, "squash")
    crop = RandomResizedCrop((20, 30))
    pixels = TrainingTransform(crop, (), preprocess)(photo, KeyedRandom(0, 0, 0))
    expected = crop(ArrayImage(preprocess.pixels(photo.pixels())), KeyedRandom(0, 0, 0))
    np.testing.assert_array_equal(pixels, expected)
