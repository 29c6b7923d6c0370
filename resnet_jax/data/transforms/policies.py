"""Augmentation policies: which operators of image_ops.py change a training image, and how much, drawn by a key."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from resnet_jax.data.transforms import image_ops
from resnet_jax.data.transforms.image_ops import BLACK, FILTERS, INCREASING, WIDE_RANGES, Fill, Ranges
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.preprocess import INTERPOLATIONS
from resnet_jax.errors import UserError, check_choice

# An 8-bit RGB image and its random numbers to an image of the same size.
Policy = Callable[[Image.Image, KeyedRandom], Image.Image]


@dataclass(frozen=True)
class RandAugment:
    """Images after `num_ops` operators, each drawn from 14 alike and all of one magnitude, as torchvision has it.

    Attributes:
      magnitude: a bin from 0, the weakest, to num_magnitude_bins - 1;
      num_magnitude_bins: from 2 on.
      interpolation: "nearest", "bilinear" or "bicubic";
      fill: red, green and blue in [0, 255].

    Raises:
      UserError: for values outside these. Cubuk et al. 2019, arXiv:1909.13719.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = BLACK

    def __post_init__(self) -> None:
        _check("num_ops", self.num_ops, 1, whole=True)
        _check("num_magnitude_bins", self.num_magnitude_bins, 2, whole=True)
        _check("magnitude", self.magnitude, 0, self.num_magnitude_bins - 1, whole=True)
        check_choice("interpolation", self.interpolation, FILTERS)
        _check_fill(self.fill)

    def __call__(self, image: Image.Image, rng: KeyedRandom) -> Image.Image:
        """Returns `image` after `num_ops` operators."""
        ranges = image_ops.moderate_ranges(image)
        for _ in range(self.num_ops):
            name = _one_of(ranges, rng)
            magnitude = _bin_magnitude(name, ranges, self.magnitude, self.num_magnitude_bins, rng)
            image = image_ops.apply_operator(image, name, magnitude, self.interpolation, self.fill)
        return image


@dataclass(frozen=True)
class TrivialAugmentWide:
    """Images after one operator, drawn from 14 alike, of a magnitude drawn from all bins, as torchvision has it.

    num_magnitude_bins, interpolation and fill: see `RandAugment`. Mueller & Hutter 2021, arXiv:2103.10158.
    """

    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = BLACK

    def __post_init__(self) -> None:
        _check("num_magnitude_bins", self.num_magnitude_bins, 2, whole=True)
        check_choice("interpolation", self.interpolation, FILTERS)
        _check_fill(self.fill)

    def __call__(self, image: Image.Image, rng: KeyedRandom) -> Image.Image:
        """Returns `image` after one operator."""
        name = _one_of(WIDE_RANGES, rng)
        magnitude_bin = rng.integer(self.num_magnitude_bins)
        magnitude = _bin_magnitude(name, WIDE_RANGES, magnitude_bin, self.num_magnitude_bins, rng)
        return image_ops.apply_operator(image, name, magnitude, self.interpolation, self.fill)


@dataclass(frozen=True)
class AutoAugment:
    """Images after one of 25 learned pairs of operators, each applied with its own probability, as torchvision's.

    Attributes:
      policy: "imagenet", "cifar10" or "svhn", the data it was learned on. interpolation and fill: see `RandAugment`.

    Raises:
      UserError: for values outside these. Cubuk et al. 2018, arXiv:1805.09501.
    """

    policy: str = "imagenet"
    interpolation: str = "nearest"
    fill: Fill = BLACK

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, _AUTOAUGMENT)
        check_choice("interpolation", self.interpolation, FILTERS)
        _check_fill(self.fill)

    def __call__(self, image: Image.Image, rng: KeyedRandom) -> Image.Image:
        """Returns `image` after no, one or both operators of a pair."""
        ranges = {**image_ops.moderate_ranges(image), "Invert": (0.0, 0.0)}
        pairs = _AUTOAUGMENT[self.policy]
        for name, probability, magnitude_bin in pairs[rng.integer(len(pairs))]:
            if rng.chance(probability):
                magnitude = _bin_magnitude(name, ranges, magnitude_bin, 10, rng)
                image = image_ops.apply_operator(image, name, magnitude, self.interpolation, self.fill)
        return image


@dataclass(frozen=True)
class IncreasingRandAugment:
    """Images after up to `num_ops` operators, each drawn from 15 that a larger magnitude makes stronger: timm's "inc1".

    Each is applied with the given probability, with a separate magnitude: from a normal around `magnitude`, in [0,
    10], with the deviation magnitude_std >= 0, clipped to [0, 10]. Interpolation is bilinear or bicubic alike.

    Attributes:
      fill: red, green and blue in [0, 255], ImageNet's mean by default.

    Raises:
      UserError: for values outside these. The defaults are timm's "rand-m7-mstd0.5-inc1" of ResNet strikes back,
        Wightman et al. 2021, arXiv:2110.00476.
    """

    num_ops: int = 2
    magnitude: float = 7
    magnitude_std: float = 0.5
    probability: float = 0.5
    fill: Fill = (124, 116, 104)

    def __post_init__(self) -> None:
        _check("num_ops", self.num_ops, 1, whole=True)
        _check("magnitude", self.magnitude, 0, 10)
        _check("magnitude_std", self.magnitude_std, 0)
        _check("probability", self.probability, 0, 1)
        _check_fill(self.fill)

    def __call__(self, image: Image.Image, rng: KeyedRandom) -> Image.Image:
        """Returns `image` after `num_ops` draws of an operator, each applied by chance."""
        for _ in range(self.num_ops):
            name = _one_of(INCREASING, rng)
            if rng.chance(self.probability):
                severity = min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), 10.0) / 10
                magnitude = INCREASING[name](severity, -1 if rng.chance(0.5) else 1)
                interpolation = _one_of(INTERPOLATIONS, rng)
                image = image_ops.apply_operator(image, name, magnitude, interpolation, self.fill)
        return image


@dataclass(frozen=True)
class ColorJitter:
    """Images with their brightness, contrast, saturation and hue changed, in random order, as torchvision has it.

    Attributes:
      brightness, contrast, saturation: x >= 0, for a factor from [max(0, 1 - x), 1 + x];
      hue: h in [0, 0.5], for a turn of [-h, h] of the colour circle; 0 leaves out the adjustment.

    Raises:
      UserError: for values outside these.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check(name, getattr(self, name), 0)
        _check("hue", self.hue, 0, 0.5)

    def __call__(self, image: Image.Image, rng: KeyedRandom) -> Image.Image:
        """Returns `image` after its adjustments."""
        waiting = [(image_ops.brightness, 1.0, self.brightness), (image_ops.contrast, 1.0, self.contrast)]
        waiting += [(image_ops.saturation, 1.0, self.saturation), (image_ops.hue, 0.0, self.hue)]
        while waiting:
            adjust, centre, amount = waiting.pop(rng.integer(len(waiting)))
            if amount:
                image = adjust(image, rng.uniform(centre - min(1.0, amount), centre + amount))
        return image


def _one_of(names: Collection[str], rng: KeyedRandom) -> str:
    return list(names)[rng.integer(len(names))]


def _bin_magnitude(name: str, ranges: Ranges, magnitude_bin: int, num_bins: int, rng: KeyedRandom) -> float:
    """Returns the magnitude of an operator's bin, negative half of the time where the range begins with 0."""
    magnitude = image_ops.magnitude_at(name, ranges, magnitude_bin, num_bins)
    return -magnitude if ranges[name][0] == 0 and rng.chance(0.5) else magnitude


# Pairs of (operator, probability, bin of 10), the bin 0 where an operator has no magnitude.
_IMAGENET = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)), (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)), (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)), (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)), (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)), (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)), (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)), (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)), (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)), (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)), (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)), (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)), (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)  # fmt: skip
_CIFAR10 = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)), (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)), (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)), (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)), (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)), (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)), (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)), (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)), (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)), (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)), (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)), (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)), (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)  # fmt: skip
_SVHN = (
    (("ShearX", 0.9, 4), ("Invert", 0.2, 0)), (("ShearY", 0.9, 8), ("Invert", 0.7, 0)),
    (("Equalize", 0.6, 0), ("Solarize", 0.6, 6)), (("Invert", 0.9, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.6, 0), ("Rotate", 0.9, 3)), (("ShearX", 0.9, 4), ("AutoContrast", 0.8, 0)),
    (("ShearY", 0.9, 8), ("Invert", 0.4, 0)), (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
    (("Invert", 0.9, 0), ("AutoContrast", 0.8, 0)), (("Equalize", 0.6, 0), ("Rotate", 0.9, 3)),
    (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)), (("ShearY", 0.8, 8), ("Invert", 0.7, 0)),
    (("Equalize", 0.9, 0), ("TranslateY", 0.6, 6)), (("Invert", 0.9, 0), ("Equalize", 0.6, 0)),
    (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)), (("Invert", 0.8, 0), ("TranslateY", 0.0, 2)),
    (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)), (("Invert", 0.6, 0), ("Rotate", 0.8, 4)),
    (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)), (("ShearX", 0.1, 6), ("Invert", 0.6, 0)),
    (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)), (("ShearY", 0.8, 4), ("Invert", 0.8, 0)),
    (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)), (("ShearY", 0.8, 5), ("AutoContrast", 0.7, 0)),
    (("ShearX", 0.7, 2), ("Invert", 0.1, 0)),
)  # fmt: skip
_AUTOAUGMENT = {"imagenet": _IMAGENET, "cifar10": _CIFAR10, "svhn": _SVHN}

POLICIES: dict[str, Callable[..., Policy]] = {
    "randaugment": RandAugment,
    "randaugment_increasing": IncreasingRandAugment,
    "trivialaugment": TrivialAugmentWide,
    "autoaugment_imagenet": partial(AutoAugment, "imagenet"),
    "autoaugment_cifar10": partial(AutoAugment, "cifar10"),
    "autoaugment_svhn": partial(AutoAugment, "svhn"),
}


def _check(name: str, value: Any, low: int, high: float = math.inf, *, whole: bool = False) -> None:
    if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high or math.isinf(value):
        kind, end = "whole number" if whole else "number", "on" if math.isinf(high) else f"to {high}"
        raise UserError(f"{name}={value!r} must be a {kind} from {low} {end}")


def _check_fill(fill: Any) -> None:
    if type(fill) is not tuple or len(fill) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in fill):
        raise UserError(f"fill={fill!r} must be three whole numbers from 0 to 255: red, green and blue")
