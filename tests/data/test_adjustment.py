"""How images are prepared, adjusted by hand."""

from pathlib import Path

import pytest

from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import PREPROCESS, Preprocess
from resnet_jax.errors import UserError

V1 = PREPROCESS["IMAGENET1K_V1"]
SQUASH = Preprocess(None, 384, "bicubic", V1.mean, V1.std, "squash")
CASES = [
    (Adjustment(), V1, (256, 224, "bilinear")),
    (Adjustment(resize=232), V1, (232, 224, "bilinear")),
    (Adjustment(crop=288), V1, (329, 288, "bilinear")),  # 288 / (224 / 256), rounded down
    (Adjustment(crop=288, resize=288), V1, (288, 288, "bilinear")),
    (Adjustment(crop=288, crop_pct=1.0), V1, (288, 288, "bilinear")),
    (Adjustment(crop_pct=0.95), V1, (235, 224, "bilinear")),
    (Adjustment(crop=(96, 64), crop_pct=0.5), V1, ((192, 128), (96, 64), "bilinear")),
    (Adjustment(interpolation="lanczos"), V1, (256, 224, "lanczos")),
    (Adjustment(crop=64), PREPROCESS["CIFAR"], (None, 64, "bilinear")),
    (Adjustment(crop_pct=1.0), SQUASH, (None, 384, "bicubic")),
    (Adjustment(crop_pct=0.9), SQUASH, (426, 384, "bicubic")),
]


@pytest.mark.parametrize(("adjustment", "known", "expected"), CASES)
def test_what_is_given_replaces_what_is_known(adjustment, known, expected):
    adjusted = adjustment.adjust(known)
    assert (adjusted.resize, adjusted.crop, adjusted.interpolation) == expected
    assert (adjusted.mean, adjusted.std, adjusted.fit) == (known.mean, known.std, known.fit)


def test_mean_and_std_are_enough_where_nothing_is_known():
    given = Adjustment(mean=(0.5,), std=(0.25,), crop=28, resize=32)
    assert given.prepare(Path("w"), None) == Preprocess(32, 28, "bilinear", (0.5,), (0.25,))
    with pytest.raises(UserError, match=r"w does not tell how its images were prepared: give --mean and --std"):
        Adjustment(crop=28).prepare(Path("w"), None)


REFUSED = [
    (Adjustment(resize=256, crop_pct=0.9), "--resize and --crop_pct say the same in two ways"),
    (Adjustment(crop_pct=1.5), r"--crop_pct 1\.5 must be above 0 and at most 1"),
    (Adjustment(crop_pct=0.0), r"--crop_pct 0\.0 must be above 0"),
    (Adjustment(interpolation="cubic"), r"interpolation='cubic' must be one of nearest, bilinear, bicubic"),
    (Adjustment(crop=0, resize=8), "crop=0 must be a number of pixels from 1 on"),
]


@pytest.mark.parametrize(("adjustment", "message"), REFUSED)
def test_values_that_make_no_sense_are_refused(adjustment, message):
    with pytest.raises(UserError, match=message):
        adjustment.adjust(V1)


def test_a_share_needs_a_crop():
    with pytest.raises(UserError, match=r"--crop_pct 0\.9 needs a crop"):
        Adjustment(crop_pct=0.9).adjust(PREPROCESS["CIFAR"])
