"""The operators by hand, against Pillow's own calls and against torchvision's pixels; their magnitudes by hand."""

import zlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.data.transforms import image_ops
from resnet_jax.data.transforms.image_ops import (
    ADJUSTMENTS,
    FILTERS,
    INCREASING,
    WARPS,
    WIDE_RANGES,
    apply_operator,
    magnitude_at,
)

GREY = (124, 116, 104)
AFFINE = Image.Transform.AFFINE


def pattern():
    x, y, channel = np.meshgrid(np.arange(23), np.arange(17), np.arange(3))
    values = 37 * x + 59 * y + x * y * (channel + 2) + 83 * channel
    return Image.fromarray((values % 256).astype(np.uint8))


def grey(*rows):
    """An RGB image of three equal channels."""
    return Image.fromarray(np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2))


def levels(image):
    """The rows of an image's green channel."""
    return np.asarray(image)[:, :, 1].tolist()


def warped(image, matrix, interpolation):
    return image.transform(image.size, AFFINE, matrix, FILTERS[interpolation], fillcolor=GREY)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("name", "magnitude", "matrix"),
    [
        ("ShearX", 0.09, (1, 0.09, 0, 0, 1, 0)),
        ("ShearX", -0.99, (1, -0.99, 0, 0, 1, 0)),
        ("ShearY", 0.3, (1, 0, 0, 0.3, 1, 0)),
        ("ShearY", -0.66, (1, 0, 0, -0.66, 1, 0)),
        ("TranslateX", 9.99, (1, 0, -9, 0, 1, 0)),
        ("TranslateX", -9.99, (1, 0, 9, 0, 1, 0)),
        ("TranslateY", 3.2, (1, 0, 0, 0, 1, -3)),
        ("TranslateY", -3.2, (1, 0, 0, 0, 1, 3)),
        ("TranslateXRel", 0.45, (1, 0, 0.45 * 23, 0, 1, 0)),
        ("TranslateXRel", -0.3, (1, 0, -0.3 * 23, 0, 1, 0)),
        ("TranslateYRel", 0.45, (1, 0, 0, 0, 1, 0.45 * 17)),
        ("TranslateYRel", -0.3, (1, 0, 0, 0, 1, -0.3 * 17)),
    ],
)
def test_warp_takes_each_pixel_from_where_the_matrix_says(name, magnitude, matrix, interpolation):
    ours = apply_operator(pattern(), name, magnitude, interpolation, GREY)
    assert ours == warped(pattern(), matrix, interpolation)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("degrees", [0.0, 9.0, -30.0, 135.0])
def test_rotation_is_pillows(degrees, interpolation):
    expected = pattern().rotate(degrees, FILTERS[interpolation], fillcolor=GREY)
    assert apply_operator(pattern(), "Rotate", degrees, interpolation, GREY) == expected


# Computed by torchvision 0.29 on pattern(), nearest, filled with GREY: crc32 of the pixels.
@pytest.mark.parametrize(
    ("name", "magnitude", "checksum"),
    [
        ("ShearX", 0.21, 3484432014),
        ("ShearX", -0.99, 1130523755),
        ("ShearY", 0.3, 871210958),
        ("ShearY", -0.66, 3659719388),
        ("TranslateX", 9.7, 588110347),
        ("TranslateX", -9.7, 1060573270),
        ("TranslateY", 5.0, 2662441064),
        ("TranslateY", -2.9, 895548830),
        ("Rotate", 30.0, 3860499904),
        ("Rotate", -135.0, 3784033341),
    ],
)
def test_warp_has_torchvisions_pixels(name, magnitude, checksum):
    assert zlib.crc32(apply_operator(pattern(), name, magnitude, fill=GREY).tobytes()) == checksum


@pytest.mark.parametrize(
    ("factor", "checksum"), [(-0.5, 2023912122), (-0.1, 1367266248), (0.004, 1502138153), (0.3, 1815809079)]
)
def test_hue_has_torchvisions_pixels(factor, checksum):
    assert zlib.crc32(image_ops.hue(pattern(), factor).tobytes()) == checksum  # computed by torchvision 0.29


def test_a_third_of_the_colour_circle_turns_red_into_green():
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    assert image_ops.hue(red, 1 / 3).getpixel((0, 0)) == (0, 255, 0)
    # Hues are bytes that wrap at 256, of a circle of 255: 171 / 255 of it are 241.4 degrees, past blue.
    assert image_ops.hue(red, -1 / 3).getpixel((0, 0)) == (6, 0, 255)


def test_positive_magnitudes_go_right_down_and_counter_clockwise_and_shear_to_the_left_and_up():
    image = grey([1, 2, 3], [4, 5, 6], [7, 8, 9])
    assert levels(apply_operator(image, "TranslateX", 1.0)) == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert levels(apply_operator(image, "TranslateY", 1.0)) == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert levels(apply_operator(image, "Rotate", 90.0)) == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]
    # The middle of row y is y + 1/2 below the edge that stays: moved by 0.3, 0.9 and 1.5, rounded half up.
    assert levels(apply_operator(image, "ShearX", 0.6)) == [[1, 2, 3], [5, 6, 0], [9, 0, 0]]
    assert levels(apply_operator(image, "ShearY", 0.6)) == [[1, 5, 9], [4, 8, 0], [7, 0, 0]]


def test_outside_of_the_image_is_the_fill_and_black_by_default():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    for name in ("TranslateX", "TranslateXRel"):
        assert apply_operator(image, name, 5.0).getpixel((0, 0)) == (0, 0, 0)
        assert apply_operator(image, name, 5.0, fill=GREY).getpixel((0, 0)) == GREY


@pytest.mark.parametrize("change", [-0.99, -0.27, 0.0, 0.45, 0.9])
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
def test_enhancement_is_pillows_by_one_plus_the_magnitude(name, change):
    expected = getattr(ImageEnhance, name)(pattern()).enhance(1 + change)
    assert apply_operator(pattern(), name, change) == expected
    assert apply_operator(pattern(), f"{name}Increasing", 1 + change) == expected


def test_factors_blend_with_black_grey_and_the_smoothed_image():
    colour, uneven = Image.new("RGB", (1, 1), (200, 100, 0)), grey([0, 100])
    assert image_ops.brightness(colour, 0.5).getpixel((0, 0)) == (100, 50, 0)
    # 0.299 * 200 + 0.587 * 100 = 118.5, and half way from there; the mean of 0 and 100 is 50.
    assert image_ops.saturation(colour, 0.0).getpixel((0, 0)) == (118, 118, 118)
    assert image_ops.saturation(colour, 0.5).getpixel((0, 0)) == (159, 109, 59)
    assert levels(image_ops.contrast(uneven, 0.5)) == [[25, 75]]
    assert levels(image_ops.contrast(uneven, 1.5)) == [[0, 125]]
    # Pillow's 3x3 kernel has 5 of 13 in the middle, and leaves the border.
    spot = grey([0, 0, 0], [0, 130, 0], [0, 0, 0])
    assert levels(image_ops.sharpness(spot, 0.0)) == [[0, 0, 0], [0, 50, 0], [0, 0, 0]]


def test_posterize_keeps_the_highest_bits():
    image = grey([0, 1, 127, 128, 255])
    assert levels(image_ops.posterize(image, 8)) == levels(image)
    assert levels(image_ops.posterize(image, 4)) == [[0, 0, 112, 128, 240]]
    assert levels(image_ops.posterize(image, 1)) == [[0, 0, 0, 128, 128]]
    assert levels(image_ops.posterize(image, 0)) == [[0, 0, 0, 0, 0]]
    for name in ("Posterize", "PosterizeIncreasing"):
        assert apply_operator(pattern(), name, 3) == ImageOps.posterize(pattern(), 3)


def test_solarize_inverts_from_the_threshold_on():
    image = grey([0, 127, 128, 255])
    for name in ("Solarize", "SolarizeIncreasing"):
        assert levels(apply_operator(image, name, 128.0)) == [[0, 127, 127, 0]]
        assert levels(apply_operator(image, name, 127.5)) == [[0, 127, 127, 0]]
        assert levels(apply_operator(image, name, 127.0)) == [[0, 128, 127, 0]]
        assert levels(apply_operator(image, name, 0.0)) == [[255, 128, 127, 0]]
        assert levels(apply_operator(image, name, 256.0)) == levels(image)
    assert levels(apply_operator(image, "SolarizeAdd", 77.0)) == [[77, 204, 128, 255]]


def test_operators_without_a_magnitude_are_pillows():
    assert levels(apply_operator(grey([50, 60, 101]), "AutoContrast", 0.0)) == [[0, 50, 255]]
    assert levels(apply_operator(grey([50, 75, 100]), "Invert", 0.0)) == [[205, 180, 155]]
    large = pattern().resize((64, 64))
    assert large != apply_operator(large, "Equalize", 0.0) == ImageOps.equalize(large)
    assert apply_operator(large, "Identity", 0.0) == large


def test_operators_keep_the_size_and_leave_their_input_alone():
    for name in (*WARPS, *ADJUSTMENTS):
        image = pattern()
        result = apply_operator(image, name, 2.0)
        assert (result.size, result.mode) == ((23, 17), "RGB"), name
        assert image == pattern(), name


# The next three: computed by torchvision 0.29, on a processor that fuses multiplication and addition.
def test_moderate_magnitudes_are_torchvisions():
    ranges = image_ops.moderate_ranges(Image.new("RGB", (331, 662)))
    factor = 0.26999998092651367
    assert {name: magnitude_at(name, ranges, 9, 31) for name in ranges} == {
        "Identity": 0.0, "ShearX": 0.09000000357627869, "ShearY": 0.09000000357627869, "TranslateX": 45.0,
        "TranslateY": 90.0, "Rotate": 9.0, "Brightness": factor, "Color": factor, "Contrast": factor,
        "Sharpness": factor, "Posterize": 7, "Solarize": 178.5, "AutoContrast": 0.0, "Equalize": 0.0,
    }  # fmt: skip
    assert [magnitude_at("Posterize", ranges, i, 10) for i in range(10)] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert [magnitude_at("Solarize", ranges, i, 10) for i in (0, 1, 3, 4, 9)] == [
        255.0, 226.6666717529297, 170.0, 141.66665649414062, 0.0,
    ]  # fmt: skip


def test_wide_magnitudes_are_torchvisions():
    def bins(name):
        return [magnitude_at(name, WIDE_RANGES, i, 31) for i in (0, 1, 15, 20, 30)]

    for name in ("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"):
        assert bins(name) == [0.0, 0.032999999821186066, 0.4950000047683716, 0.6600000262260437, 0.9900000095367432]
    for name in ("TranslateX", "TranslateY"):
        assert bins(name) == [0.0, 1.0666667222976685, 15.999999046325684, 21.333332061767578, 32.0]
    assert bins("Rotate") == [0.0, 4.5, 67.5, 90.0, 135.0]
    assert bins("Posterize") == [8, 8, 5, 4, 2]
    assert bins("Solarize") == [255.0, 246.5, 127.5, 85.0, 0.0]
    assert bins("Identity") == bins("AutoContrast") == bins("Equalize") == [0.0] * 5


def test_bits_half_way_between_two_are_rounded_to_the_even():
    # 8 - 4 * i / 24 = 7.5, 6.5, 5.5 and 4.5 bits.
    ranges = image_ops.moderate_ranges(Image.new("RGB", (1, 1)))
    assert [magnitude_at("Posterize", ranges, i, 25) for i in (3, 9, 15, 21)] == [8, 6, 6, 4]


def test_increasing_magnitudes_are_timms():
    at_7 = {name: tuple(round(magnitude(0.7, sign), 9) for sign in (1, -1)) for name, magnitude in INCREASING.items()}
    factors = (1.63, 0.37)
    # Bits 4 - int(2.8), threshold 256 - int(179.2), amount int(77.0).
    assert at_7 == {
        "AutoContrast": (0, 0), "Equalize": (0, 0), "Invert": (0, 0), "Rotate": (21, -21),
        "PosterizeIncreasing": (2, 2), "SolarizeIncreasing": (77, 77), "SolarizeAdd": (77, 77),
        "ColorIncreasing": factors, "ContrastIncreasing": factors, "BrightnessIncreasing": factors,
        "SharpnessIncreasing": factors, "ShearX": (0.21, -0.21), "ShearY": (0.21, -0.21),
        "TranslateXRel": (0.315, -0.315), "TranslateYRel": (0.315, -0.315),
    }  # fmt: skip
    whole = ("PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd")
    assert [INCREASING[name](0.0, 1) for name in whole] == [4, 256, 0]
    assert [INCREASING[name](1.0, 1) for name in whole] == [0, 0, 110]
