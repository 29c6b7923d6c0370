"""How training images are varied, as a config has it."""

from dataclasses import dataclass
from typing import Annotated

from resnet_jax.ranges import FOUR_NUMBERS, NOT_NEGATIVE, POSITIVE, PROBABILITY, TWO_NUMBERS, OneOf, at_most


@dataclass(frozen=True)
class AugmentOptions:
    """How a training image is another one each time."""

    crop_padding: Annotated[int, NOT_NEGATIVE]
    crop_padding_mode: Annotated[str, OneOf(("zeros", "reflect"))]
    flip: bool
    flip_alternates: bool
    random_resized_crop: bool
    crop_size: Annotated[int, NOT_NEGATIVE, at_most(8192)]  # 0: image_size
    crop_scale: Annotated[tuple[float, float], TWO_NUMBERS]
    crop_ratio: Annotated[tuple[float, float], TWO_NUMBERS]
    resampler: str
    antialias: bool
    color_jitter: Annotated[tuple[float, float, float, float], FOUR_NUMBERS]
    policy: str
    policy_num_ops: Annotated[int, POSITIVE]
    policy_magnitude: float
    cutout_size: Annotated[int, NOT_NEGATIVE]
    random_erasing: Annotated[float, PROBABILITY]
    mixup: Annotated[float, NOT_NEGATIVE]
    cutmix: Annotated[float, NOT_NEGATIVE]

    @property
    def changes_images(self) -> bool:
        """True if an image is another one each time it is trained on."""
        of_one = (self.crop_padding, self.flip, self.random_resized_crop, self.cutout_size)
        drawn = (*of_one, self.random_erasing, self.mixup, self.cutmix, *self.color_jitter)
        return any(drawn) or self.policy != "none"
