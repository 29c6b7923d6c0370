"""Prepares a decoded image on the host before a network sees it, as torchvision does with Pillow's images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from resnet_jax.data.high_bit_depth import HIGH_BIT_DEPTH
from resnet_jax.data.transforms.pictures import resize_pictures, to_pictures, to_pixels
from resnet_jax.errors import UserError, check_choice

# Pillow's filters always antialias, but for nearest.
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# All that an image is resized with for evaluation; training draws among INTERPOLATIONS.
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    **INTERPOLATIONS,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
LATER_FIELDS = {"fit": "crop", "high_bit_depth": "error"}  # that older files lack, which mean this
FITS = ("crop", "squash", "pad", "border")
# (height, width) in pixels, or one number for both.
Side = int | tuple[int, int]


def height_and_width(side: Side) -> tuple[int, int]:
    """Returns (height, width) of a size that may be one number for both."""
    return side if isinstance(side, tuple) else (side, side)


def as_side(height: int, width: int) -> Side:
    """Returns the size as one number where both are equal, else as (height, width)."""
    return height if height == width else (height, width)


class Preparation(Protocol):
    """How images become a network's input, for evaluation."""

    @property
    def changes_pixels(self) -> bool:
        """True if `pixels` gives anything but the image as it is."""

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape of the result of `pixels`; None if it depends on the image."""

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns the image, (H, W, C) uint8, or several views of it, (V, H, W, C)."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input, for evaluation; travels with weights.

    Attributes:
      resize: length in pixels of the shorter side, or (height, width) that the resized image just covers; None: no
        resize.
      crop: of the result, in pixels, one side or (height, width); None: the whole image.
      interpolation: a name in RESAMPLING.
      mean, std: of each channel, in units of [0, 1]; as many as the image has channels.
      fit: how an image of another shape becomes one of `crop`: "crop" its centre, after `resize`; "squash" all of it,
        resized to exactly that; "pad" all of it, resized to fit into that, centred, with zeros (black) around it;
        "border" the same with the mean colour around it, by timm's rounding. "pad" takes no `resize`; "squash" and
        "border" resize to `resize` if it is given, and crop the result.
      high_bit_depth: "error" | "scale": for more than 8 bits a channel, see `to_eight_bits`.

    Raises:
      UserError: for values outside these.
    """

    resize: Side | None
    crop: Side | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"
    high_bit_depth: str = "error"

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if value is not None and not _is_side(value):
                raise UserError(f"{name}={value!r} must be a number of pixels from 1 on, two of them, or None")
        check_choice("interpolation", self.interpolation, RESAMPLING)
        check_choice("fit", self.fit, FITS)
        check_choice("high_bit_depth", self.high_bit_depth, HIGH_BIT_DEPTH)
        if self.fit != "crop" and self.crop is None:
            raise UserError(f"fit={self.fit!r} needs a crop, the size that images become")
        if self.fit == "pad" and self.resize is not None:
            raise UserError("fit='pad' needs resize=None: it resizes to the crop itself")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not _are_fractions(values) or (name == "std" and 0 in values):
                interval = "(0, 1]" if name == "std" else "[0, 1]"
                raise UserError(f"{name}={values!r} must be a number in {interval} for each channel, where 1 is full")
        if len(self.mean) != len(self.std):
            raise UserError(f"mean={self.mean!r} and std={self.std!r} must be of equally many channels")

    @property
    def num_channels(self) -> int:
        """The channels of the result of `pixels`."""
        return len(self.mean)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """The shape of the result of `pixels`; None if nothing is cropped: it depends on the image."""
        return None if self.crop is None else (*height_and_width(self.crop), self.num_channels)

    @property
    def changes_pixels(self) -> bool:
        """True if `pixels` gives anything but the image as it is."""
        return self.resize is not None or self.crop is not None

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns `image` resized and cropped: (height, width, C) uint8 of `crop`, or of the whole if that is None.

        With fit="crop" equals torchvision's Resize and CenterCrop, which fills with zeros where the image is smaller
        than the crop.

        Args:
          image: of any mode, which becomes "L", "RGB" or "RGBA" for 1, 3 or 4 channels; or pixels (H, W, C) uint8.
        """
        pictures = self.resized(image)
        if self.crop is not None:
            height, width = height_and_width(self.crop)
            left, top = _crop_start(pictures[0].width, width), _crop_start(pictures[0].height, height)
            box = (left, top, left + width, top + height)
            fills = self._fills(pictures)
            pictures = [_cropped(picture, box, fill) for picture, fill in zip(pictures, fills, strict=True)]
        return to_pixels(pictures)

    def _fills(self, pictures: Sequence[Image.Image]) -> list[tuple[int, ...]]:
        """Returns the colour around each picture, where it is smaller than the crop."""
        colour = tuple(round(255 * share) if self.fit == "border" else 0 for share in self.mean)
        return [colour] if len(pictures) == 1 else [(value,) for value in colour]

    def resized(self, image: Image.Image | np.ndarray) -> list[Image.Image]:
        """Returns `image` resized before the crop, as `to_pictures` has it."""
        pictures = to_pictures(image, self.num_channels, self.high_bit_depth)
        size = self._size_before_crop(*pictures[0].size)
        if size is None:
            return pictures
        return resize_pictures(pictures, size, RESAMPLING[self.interpolation])

    def _size_before_crop(self, width: int, height: int) -> tuple[int, int] | None:
        """Returns (width, height) to which an image is resized; None: it is not."""
        if self.fit == "crop" or self.crop is None:
            return None if self.resize is None else _covering(width, height, *height_and_width(self.resize))
        to_height, to_width = height_and_width(self.resize or self.crop)
        if self.fit == "squash":
            return to_width, to_height
        if self.fit == "border":
            ratio = max(height / to_height, width / to_width)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        return _inside(width, height, to_height, to_width)

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns (pixels / 255 - mean) / std: (H, W, C) float32."""
        scaled = self.pixels(image).astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them, without those that came later where they are as they always were."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        return {name: v for name, v in values.items() if name not in LATER_FIELDS or v != LATER_FIELDS[name]}

    @classmethod
    def from_json(cls, values: Any) -> "Preprocess":
        """Returns the preprocessing from the result of `to_json`.

        Raises:
          UserError: for anything else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or set(values) | {*LATER_FIELDS} != {*names}:
            raise UserError(f"preprocess={values!r} must be an object of {', '.join(names)}")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class TenCrop:
    """Ten views of an image for evaluation (Krizhevsky et al. 2012): its corners, its centre, and these mirrored.

    Their order is torchvision's.

    Raises:
      UserError: if `preprocess` does not crop.
    """

    preprocess: Preprocess

    def __post_init__(self) -> None:
        if self.preprocess.crop is None or self.preprocess.fit != "crop":
            raise UserError("ten crops need a crop smaller than the images: these are taken whole")

    @property
    def changes_pixels(self) -> bool:
        """Always: one image becomes ten."""
        return True

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """The shape of the result of `pixels`."""
        shape = self.preprocess.image_shape
        assert shape is not None
        return 10, *shape

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Returns the views of `image`, resized as by `preprocess`: (10, height, width, C) uint8 of the crop.

        Raises:
          UserError: if the resized image is smaller than the crop.
        """
        pictures, (_, crop_height, crop_width, _) = self.preprocess.resized(image), self.image_shape
        width, height = pictures[0].size
        if width < crop_width or height < crop_height:
            crop = self.preprocess.crop
            raise UserError(f"crop={crop} must be at most the {width}x{height} pixels of an image for ten crops")
        right, bottom = width - crop_width, height - crop_height
        centre = (_crop_start(width, crop_width), _crop_start(height, crop_height))
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), centre]
        # The mirrored image is cropped again, as in torchvision: a centre at half a pixel moves.
        mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        return np.stack(
            [
                to_pixels([picture.crop((x, y, x + crop_width, y + crop_height)) for picture in views])
                for views in (pictures, mirrored)
                for x, y in places
            ]
        )


def _cropped(picture: Image.Image, box: tuple[int, int, int, int], fill: tuple[int, ...]) -> Image.Image:
    """Returns the part of the picture within the box (left, top, right, bottom), with `fill` outside of the picture."""
    cropped = picture.crop(box)  # with zeros outside
    left, top, right, bottom = box
    if not any(fill) or (left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height):
        return cropped
    canvas = Image.new(picture.mode, cropped.size, fill if len(fill) > 1 else fill[0])
    canvas.paste(picture, (-left, -top))
    return canvas


def _is_side(value: Any) -> bool:
    numbers = value if isinstance(value, tuple) else (value, value)
    return len(numbers) == 2 and all(type(number) is int and number >= 1 for number in numbers)


def _are_fractions(values: Any) -> bool:
    if not isinstance(values, tuple) or not values:
        return False
    return all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values)


def _covering(width: int, height: int, least_height: int, least_width: int) -> tuple[int, int]:
    """Returns (width, height), in proportion, that just cover the least ones; the longer side is rounded down."""
    if width * least_height <= height * least_width:
        return least_width, int(least_width * height / width)
    return int(least_height * width / height), least_height


def _inside(width: int, height: int, most_height: int, most_width: int) -> tuple[int, int]:
    """Returns (width, height), in proportion, that just fit into the most ones; the shorter side is rounded."""
    if width * most_height >= height * most_width:
        return most_width, max(1, round(most_width * height / width))
    return max(1, round(most_height * width / height)), most_height


def _crop_start(side: int, crop: int) -> int:
    """Returns where the centre crop begins along a side; negative by the padding before an image that is smaller."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# By the names of torchvision's recipes; "CIFAR" is how our own CIFAR networks are trained.
PREPROCESS = {
    "IMAGENET1K_V1": Preprocess(256, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    "IMAGENET1K_V2": Preprocess(232, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR": Preprocess(None, None, "bilinear", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
# Images as they are: nothing but the normalisation, which happens on the device, is left to do.
AS_THEY_ARE = Preprocess(None, None, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def as_they_are(num_channels: int) -> Preprocess:
    """Returns AS_THEY_ARE of so many channels."""
    return dataclasses.replace(AS_THEY_ARE, mean=(0.0,) * num_channels, std=(1.0,) * num_channels)
