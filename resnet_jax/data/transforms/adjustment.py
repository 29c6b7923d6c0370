"""Adjusts by hand how images are prepared for weights."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.data.transforms.preprocess import AS_THEY_ARE, PREPROCESS, Preprocess, Side, as_side, height_and_width
from resnet_jax.errors import UserError

Channels = tuple[float, ...]


@dataclass(frozen=True)
class Adjustment:
    """Changes to a `Preprocess`; None leaves a field as it is.

    Attributes:
      mean, std, interpolation: as in `Preprocess`.
      resize, crop: as in `Preprocess`, in pixels. A new crop alone keeps its share of what it is cropped from.
      crop_pct: the crop's share, above 0 and at most 1, of what it is cropped from, which decides `resize`.
    """

    mean: Channels | None = None
    std: Channels | None = None
    resize: Side | None = None
    crop: Side | None = None
    crop_pct: float | None = None
    interpolation: str | None = None

    def __bool__(self) -> bool:
        """Returns whether anything is given."""
        return self != Adjustment()

    def prepare(self, weights: Path, known: Preprocess | None) -> Preprocess:
        """Returns how images are prepared for weights: as is known, with these changes; mean and std are enough.

        Raises:
          UserError: if neither is there, and as `adjust` does.
        """
        if known is not None:
            return self.adjust(known)
        if self.mean is None or self.std is None:
            raise UserError(
                f"{weights} does not tell how its images were prepared: give --mean and --std, or --preprocess "
                f"{'|'.join(PREPROCESS)}"
            )
        return self.adjust(dataclasses.replace(AS_THEY_ARE, mean=self.mean, std=self.std))

    def adjust(self, preprocess: Preprocess) -> Preprocess:
        """Returns `preprocess` with these changes.

        Raises:
          UserError: for values outside their ranges, or that make no sense together.
        """
        if self.resize is not None and self.crop_pct is not None:
            raise UserError("--resize and --crop_pct say the same in two ways: give one of them")
        crop = preprocess.crop if self.crop is None else self.crop
        return dataclasses.replace(
            preprocess,
            mean=self.mean or preprocess.mean,
            std=self.std or preprocess.std,
            interpolation=self.interpolation or preprocess.interpolation,
            crop=crop,
            resize=self._resize(preprocess, crop) if self.resize is None else self.resize,
        )

    def _resize(self, preprocess: Preprocess, crop: Side | None) -> Side | None:
        share = self.crop_pct
        if share is not None and not 0 < share <= 1:
            raise UserError(f"--crop_pct {share} must be above 0 and at most 1, the crop's share of the resized image")
        if share is not None and crop is None:
            raise UserError(f"--crop_pct {share} needs a crop: give --crop, in pixels")
        if share is None and self.crop is not None and preprocess.resize and preprocess.crop:
            share = height_and_width(preprocess.crop)[0] / height_and_width(preprocess.resize)[0]
        if share is None or crop is None:
            return preprocess.resize
        before = as_side(*(math.floor(side / share) for side in height_and_width(crop)))
        return before if preprocess.fit == "crop" or before != crop else None
