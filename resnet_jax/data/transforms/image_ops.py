"""The operators of the augmentation policies, by name, and their magnitudes: the pixels of torchvision and timm."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.data.transforms.preprocess import INTERPOLATIONS

Fill = tuple[int, int, int]
Ranges = dict[str, tuple[float, float]]
BLACK: Fill = (0, 0, 0)
FILTERS = {"nearest": Image.Resampling.NEAREST, **INTERPOLATIONS}


def shear_x(image: Image.Image, tangent: float, interpolation: str = "nearest", fill: Fill = BLACK) -> Image.Image:
    """Returns `image` with its rows moved left by `tangent` pixels a row, the upper edge not at all.

    Here and below: interpolation is a name of FILTERS, fill the red, green and blue, each in [0, 255], of what comes
    from outside the image. torchvision takes the tangent to degrees and back, which is the same but for rounding.
    """
    return _warped(image, (1, tangent, 0, 0, 1, 0), interpolation, fill)


def shear_y(image: Image.Image, tangent: float, interpolation: str = "nearest", fill: Fill = BLACK) -> Image.Image:
    """Returns `image` with its columns moved up by `tangent` pixels a column, the left edge not at all."""
    return _warped(image, (1, 0, 0, tangent, 1, 0), interpolation, fill)


def translate_x(image: Image.Image, pixels: float, interpolation: str = "nearest", fill: Fill = BLACK) -> Image.Image:
    """Returns `image` moved to the right."""
    return _warped(image, (1, 0, -pixels, 0, 1, 0), interpolation, fill)


def translate_y(image: Image.Image, pixels: float, interpolation: str = "nearest", fill: Fill = BLACK) -> Image.Image:
    """Returns `image` moved down."""
    return _warped(image, (1, 0, 0, 0, 1, -pixels), interpolation, fill)


def rotate(image: Image.Image, degrees: float, interpolation: str = "nearest", fill: Fill = BLACK) -> Image.Image:
    """Returns `image` turned counter-clockwise about its centre, its size unchanged."""
    return image.rotate(degrees, FILTERS[interpolation], fillcolor=fill)


def _warped(image: Image.Image, matrix: tuple[float, ...], interpolation: str, fill: Fill) -> Image.Image:
    """Returns `image` with each pixel (x, y) taken from (a x + b y + c, d x + e y + f), matrix = (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, FILTERS[interpolation], fillcolor=fill)


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Returns `image` blended with black: 0 is black, 1 the image.

    Here and below: factor >= 0, extrapolated above 1.
    """
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Returns `image` blended with the grey of its mean luma."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Returns `image` blended with its luma."""
    return ImageEnhance.Color(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Returns `image` blended with itself smoothed over 3x3 pixels."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def hue(image: Image.Image, factor: float) -> Image.Image:
    """Returns `image` with its hues turned by `factor`, from -0.5 to 0.5 of the colour circle, in steps of 1/255.

    The way to HSV and back rounds: a factor of 0 changes pixels too.
    """
    turned, *others = image.convert("HSV").split()
    shift = int(factor * 255)
    turned = turned.point([(value + shift) % 256 for value in range(256)])
    return Image.merge("HSV", (turned, *others)).convert("RGB")


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Returns `image` with the highest `bits` of each value, from 0 (black) to 8 (unchanged), the others zero."""
    kept = 256 - 2 ** (8 - bits)
    return image.point([value & kept for value in range(256)] * 3)


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Returns `image` with the values from `threshold` on inverted: 0 inverts all, above 255 none."""
    return ImageOps.solarize(image, math.ceil(threshold))


def solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Returns `image` with `amount`, from 0 to 128, added to the values below 128."""
    return image.point([value + amount if value < 128 else value for value in range(256)] * 3)


# What a magnitude is: a tangent, pixels (of which whole ones count), a part of the image's side, degrees.
# timm translates by parts of a pixel, and in the other direction.
WARPS: dict[str, Callable[[Image.Image, float, str, Fill], Image.Image]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": lambda image, pixels, *sampling: translate_x(image, int(pixels), *sampling),
    "TranslateY": lambda image, pixels, *sampling: translate_y(image, int(pixels), *sampling),
    "TranslateXRel": lambda image, part, *sampling: translate_x(image, -part * image.width, *sampling),
    "TranslateYRel": lambda image, part, *sampling: translate_y(image, -part * image.height, *sampling),
    "Rotate": rotate,
}

# What a magnitude is: a factor minus 1, a factor (timm's "Increasing"), bits, a threshold, an amount, or of no effect.
ADJUSTMENTS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "Brightness": lambda image, change: brightness(image, 1 + change),
    "Color": lambda image, change: saturation(image, 1 + change),
    "Contrast": lambda image, change: contrast(image, 1 + change),
    "Sharpness": lambda image, change: sharpness(image, 1 + change),
    "BrightnessIncreasing": brightness,
    "ColorIncreasing": saturation,
    "ContrastIncreasing": contrast,
    "SharpnessIncreasing": sharpness,
    "Posterize": lambda image, bits: posterize(image, int(bits)),
    "PosterizeIncreasing": lambda image, bits: posterize(image, int(bits)),
    "Solarize": solarize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": lambda image, amount: solarize_add(image, int(amount)),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}


def apply_operator(
    image: Image.Image, name: str, magnitude: float, interpolation: str = "nearest", fill: Fill = BLACK
) -> Image.Image:
    """Returns `image`, 8-bit RGB, after the operator of that name in WARPS or ADJUSTMENTS; its size stays the same."""
    if name in WARPS:
        return WARPS[name](image, magnitude, interpolation, fill)
    return ADJUSTMENTS[name](image, magnitude)


def _ranges(shear: float, width: float, height: float, degrees: float, enhancement: float, bits: float) -> Ranges:
    """Returns the magnitudes of each operator's first and last bin; width, height: of the largest translation, in
    pixels.
    """
    return {
        "Identity": (0.0, 0.0),
        "ShearX": (0.0, shear),
        "ShearY": (0.0, shear),
        "TranslateX": (0.0, width),
        "TranslateY": (0.0, height),
        "Rotate": (0.0, degrees),
        "Brightness": (0.0, enhancement),
        "Color": (0.0, enhancement),
        "Contrast": (0.0, enhancement),
        "Sharpness": (0.0, enhancement),
        "Posterize": (8.0, bits),
        "Solarize": (255.0, 0.0),
        "AutoContrast": (0.0, 0.0),
        "Equalize": (0.0, 0.0),
    }


WIDE_RANGES = _ranges(0.99, 32.0, 32.0, 135.0, 0.99, 2.0)


def moderate_ranges(image: Image.Image) -> Ranges:
    """Returns the magnitudes of RandAugment's and AutoAugment's first and last bin; WIDE_RANGES are
    TrivialAugment's.
    """
    return _ranges(0.3, 150 / 331 * image.width, 150 / 331 * image.height, 30.0, 0.9, 4.0)


def magnitude_at(name: str, ranges: Ranges, index: int, num_bins: int) -> float:
    """Returns the magnitude of an operator's bin: evenly spaced in its range, whole bits for Posterize.

    In float32, rounded as torch.linspace rounds on CPUs that fuse `a + b * c`: half of 32 pixels is 15.999999, of which
    15 count.
    """
    first, last = ranges[name]
    if name == "Posterize":
        return round(first + (last - first) * index / (num_bins - 1))
    start, end = np.float32(first), np.float32(last)
    step = float((end - start) / np.float32(num_bins - 1))
    spaced = float(start) + step * index if index < num_bins // 2 else float(end) - step * (num_bins - 1 - index)
    return float(np.float32(spaced))


def _signed(largest: float, centre: float = 0.0) -> Callable[[float, int], float]:
    return lambda severity, sign: centre + sign * largest * severity


# timm's magnitudes at a severity in [0, 1] and a sign; the blending factors are from 0.1 to 1.9.
INCREASING: dict[str, Callable[[float, int], float]] = {
    "AutoContrast": _signed(0.0),
    "Equalize": _signed(0.0),
    "Invert": _signed(0.0),
    "Rotate": _signed(30.0),
    "PosterizeIncreasing": lambda severity, _: 4 - int(severity * 4),
    "SolarizeIncreasing": lambda severity, _: 256 - int(severity * 256),
    "SolarizeAdd": lambda severity, _: int(severity * 110),
    "ColorIncreasing": _signed(0.9, centre=1.0),
    "ContrastIncreasing": _signed(0.9, centre=1.0),
    "BrightnessIncreasing": _signed(0.9, centre=1.0),
    "SharpnessIncreasing": _signed(0.9, centre=1.0),
    "ShearX": _signed(0.3),
    "ShearY": _signed(0.3),
    "TranslateXRel": _signed(0.45),
    "TranslateYRel": _signed(0.45),
}
