"""What happens to a decoded image on the host before a network sees it, as torchvision does it on Pillow's images."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.errors import UserError, check_choice

# Pillow's filters always antialias.
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input, for evaluation; travels with weights.

    Attributes:
      resize: length in pixels of the shorter side, None: no resize.
      crop: side in pixels of the centre crop, None: the whole image.
      interpolation: "bilinear" or "bicubic", both antialiased.
      mean, std: of the three channels, in units of [0, 1].

    Raises:
      UserError: for values outside these.
    """

    resize: int | None
    crop: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"{name}={value!r} must be a number of pixels from 1 on, or None")
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not _are_three_fractions(values) or (name == "std" and 0 in values):
                interval = "(0, 1]" if name == "std" else "[0, 1]"
                raise UserError(f"{name}={values!r} must be three numbers in {interval}, where 1 is a full channel")

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape of what `pixels` gives; None if nothing is cropped: it depends on the image."""
        return None if self.crop is None else (self.crop, self.crop, 3)

    @property
    def changes_pixels(self) -> bool:
        """True if `pixels` gives anything but the image as it is."""
        return self.resize is not None or self.crop is not None

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Returns `image` resized and cropped, as RGB: (crop, crop, 3) uint8, or the whole (H, W, 3) if crop is None.

        Equals torchvision's Resize and CenterCrop, which fills with zeros where the image is smaller than the crop.
        """
        image = self.resized(image)
        if self.crop is not None:
            left, top = (_crop_start(side, self.crop) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return np.array(image)

    def resized(self, image: Image.Image) -> Image.Image:
        """Returns `image` as RGB, its shorter side resized."""
        image = image.convert("RGB")
        if self.resize is None:
            return image
        return image.resize(_resized(*image.size, self.resize), INTERPOLATIONS[self.interpolation])

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns (pixels / 255 - mean) / std: (H, W, 3) float32."""
        scaled = self.pixels(image).astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: Any) -> "Preprocess":
        """Returns what `to_json` gave.

        Raises:
          UserError: for anything else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
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
        if self.preprocess.crop is None:
            raise UserError("ten crops need a crop smaller than the images: these are taken whole")

    @property
    def changes_pixels(self) -> bool:
        """Always: one image becomes ten."""
        return True

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of what `pixels` gives."""
        crop = self.preprocess.crop
        assert crop is not None
        return 10, crop, crop, 3

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Returns the views of `image`, resized as by `preprocess`: (10, crop, crop, 3) uint8.

        Raises:
          UserError: if the resized image is smaller than the crop.
        """
        image, crop = self.preprocess.resized(image), self.image_shape[1]
        width, height = image.size
        if min(width, height) < crop:
            raise UserError(f"crop={crop} must be at most the {width}x{height} pixels of an image for ten crops")
        corners = [(0, 0), (width - crop, 0), (0, height - crop), (width - crop, height - crop)]
        places = [*corners, (_crop_start(width, crop), _crop_start(height, crop))]
        views = np.stack([np.array(image.crop((x, y, x + crop, y + crop))) for x, y in places])
        # The mirrored image is cropped anew, as in torchvision: a centre at half a pixel moves.
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.concatenate(
            [views, np.stack([np.array(mirrored.crop((x, y, x + crop, y + crop))) for x, y in places])]
        )


def _are_three_fractions(values: Any) -> bool:
    if not isinstance(values, tuple) or len(values) != 3:
        return False
    return all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values)


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Returns (width, height) with the shorter side as given, the longer in proportion and rounded down."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


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
