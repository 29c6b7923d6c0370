"""Checks what the policies choose, how often, and that only the draws decide; test_image_ops.py checks the pixels."""

import zlib
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from golden_files import GOLDEN
from PIL import Image

from resnet_jax.data.transforms import image_ops, policies
from resnet_jax.data.transforms.image_ops import INCREASING, WIDE_RANGES, magnitude_at
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.data.transforms.policies import POLICIES, AutoAugment, ColorJitter, IncreasingRandAugment, RandAugment
from resnet_jax.errors import UserError

TrivialAugmentWide = policies.TrivialAugmentWide
GREY = (124, 116, 104)
SMALL = Image.new("RGB", (331, 662))
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
PLAIN = {"Identity", "AutoContrast", "Equalize"}


@pytest.fixture(scope="module")
def photo():
    with Image.open(GOLDEN / "china.jpg") as image:
        return image.convert("RGB").resize((64, 48))


@pytest.fixture
def chosen(monkeypatch):
    """The (name, magnitude, interpolation, fill) of the operators that policy(SMALL, …) applies, for each sample."""

    def run(policy, num_samples):
        applied = []

        def record(image, *choice):
            applied[-1].append(choice)
            return image

        monkeypatch.setattr(image_ops, "apply_operator", record)
        for sample in range(num_samples):
            applied.append([])
            policy(SMALL, KeyedRandom(3, 1, sample))
        return applied

    return run


def flat(applied):
    return [choice for choices in applied for choice in choices]


def assert_alike(values, outcomes):
    """Each outcome has its share of the values, to within 5 standard deviations."""
    counts, outcomes = Counter(values), list(outcomes)
    assert set(counts) <= set(outcomes)
    for outcome in outcomes:
        assert_share(counts[outcome], len(values), 1 / len(outcomes))


def assert_share(count, total, probability):
    assert abs(count - total * probability) <= 5 * (total * probability * (1 - probability)) ** 0.5


def test_randaugment_draws_its_14_operators_alike_and_their_signs(chosen):
    applied = chosen(RandAugment(), 2000)
    assert {len(choices) for choices in applied} == {2}
    assert_alike([name for name, *_ in flat(applied)], WIDE_RANGES)
    pairs = Counter(tuple(name for name, *_ in choices) for choices in applied)
    assert len(pairs) == 14 * 14  # the second operator does not hang on the first
    signed = [magnitude > 0 for name, magnitude, *_ in flat(applied) if name in SIGNED]
    assert_share(sum(signed), len(signed), 0.5)


def test_randaugment_has_one_magnitude_for_each_operator(chosen):
    magnitudes = {}
    for name, magnitude, *_ in flat(chosen(RandAugment(magnitude=30), 500)):
        magnitudes.setdefault(name, set()).add(round(magnitude, 6))
    # 150 / 331 of the width and of the height.
    largest = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150, "TranslateY": 300, "Rotate": 30}
    largest |= dict.fromkeys(["Brightness", "Color", "Contrast", "Sharpness"], 0.9)
    expected = {name: {magnitude, -magnitude} for name, magnitude in largest.items()}
    assert magnitudes == expected | {name: {0} for name in PLAIN} | {"Posterize": {4}, "Solarize": {0}}


def test_randaugment_passes_on_what_it_is_told(chosen):
    policy = RandAugment(num_ops=5, magnitude=1, num_magnitude_bins=3, interpolation="bilinear", fill=GREY)
    applied = chosen(policy, 100)
    assert {len(choices) for choices in applied} == {5}
    assert {tuple(sampling) for _, _, *sampling in flat(applied)} == {("bilinear", GREY)}
    assert {abs(magnitude) for name, magnitude, *_ in flat(applied) if name == "Rotate"} == {15.0}


def test_trivialaugment_draws_operator_bin_and_sign_alike(chosen):
    applied = chosen(TrivialAugmentWide(num_magnitude_bins=5, interpolation="bicubic", fill=GREY), 7000)
    assert {len(choices) for choices in applied} == {1}
    choices = flat(applied)
    assert {tuple(sampling) for _, _, *sampling in choices} == {("bicubic", GREY)}
    assert_alike([name for name, *_ in choices], WIDE_RANGES)
    for name in WIDE_RANGES.keys() - PLAIN:
        bins = [magnitude_at(name, WIDE_RANGES, index, 5) for index in range(5)]
        assert_alike([abs(magnitude) for other, magnitude, *_ in choices if other == name], bins)
    moved = [magnitude > 0 for name, magnitude, *_ in choices if name in SIGNED and magnitude]
    assert_share(sum(moved), len(moved), 0.5)


def test_trivialaugment_reaches_its_wide_ranges(chosen):
    extremes = {}
    for name, magnitude, *_ in flat(chosen(TrivialAugmentWide(), 10_000)):
        low, high = extremes.get(name, (magnitude, magnitude))
        extremes[name] = min(low, round(magnitude, 6)), max(high, round(magnitude, 6))
    largest = {"TranslateX": 32, "TranslateY": 32, "Rotate": 135}
    expected = {name: (-largest.get(name, 0.99), largest.get(name, 0.99)) for name in SIGNED}
    assert extremes == expected | dict.fromkeys(PLAIN, (0, 0)) | {"Posterize": (2, 8), "Solarize": (0, 255)}


@pytest.mark.parametrize(
    ("policy", "checksum"), [("imagenet", 2718713458), ("cifar10", 2208133915), ("svhn", 2800858471)]
)
def test_autoaugment_has_the_published_pairs(policy, checksum):
    pairs = policies._AUTOAUGMENT[policy]
    assert zlib.crc32(repr(pairs).encode()) == checksum  # computed from torchvision 0.29's tables, None written as 0


def test_autoaugment_draws_a_pair_and_applies_each_operator_with_its_probability(chosen, monkeypatch):
    pairs = ((("Rotate", 0.25, 9), ("Solarize", 1.0, 3)), (("Posterize", 0.0, 9), ("Invert", 0.75, 0)))
    monkeypatch.setitem(policies._AUTOAUGMENT, "svhn", pairs)
    applied = chosen(AutoAugment("svhn", "bicubic", GREY), 2000)
    sampling = ("bicubic", GREY)
    counts = Counter(tuple(choices) for choices in applied)
    left, right, solarized = ("Rotate", 30.0, *sampling), ("Rotate", -30.0, *sampling), ("Solarize", 170.0, *sampling)
    invert = [choices for choices in counts if choices and choices[0][0] == "Invert"]
    assert counts.keys() == {(left, solarized), (right, solarized), (solarized,), (), *invert}
    assert {(name, abs(magnitude)) for ((name, magnitude, *_),) in invert} == {("Invert", 0.0)}
    assert_share(counts[left, solarized], 2000, 0.5 * 0.25 * 0.5)
    assert_share(counts[right, solarized], 2000, 0.5 * 0.25 * 0.5)
    assert_share(counts[(solarized,)], 2000, 0.5 * 0.75)
    assert_share(counts[()], 2000, 0.5 * 0.25)


def test_increasing_randaugment_draws_its_15_operators_alike_and_applies_half_of_them(chosen):
    applied = chosen(IncreasingRandAugment(), 3000)
    assert_alike([name for name, *_ in flat(applied)], INCREASING)
    lengths = Counter(map(len, applied))
    for length, probability in {0: 0.25, 1: 0.5, 2: 0.25}.items():
        assert_share(lengths[length], 3000, probability)
    assert_alike([interpolation for _, _, interpolation, _ in flat(applied)], ["bilinear", "bicubic"])
    assert {fill for *_, fill in flat(applied)} == {GREY}


def test_increasing_randaugment_draws_magnitudes_from_a_normal_and_signs_alike(chosen):
    applied = flat(chosen(IncreasingRandAugment(probability=1), 6000))
    degrees = np.array([magnitude for name, magnitude, *_ in applied if name == "Rotate"])
    levels = np.abs(degrees) / 3
    # About 800 of them: the mean's deviation is 0.018, that of the deviation 0.0125.
    assert abs(levels.mean() - 7) < 0.09
    assert abs(levels.std() - 0.5) < 0.065
    assert_share((degrees > 0).sum(), len(degrees), 0.5)
    factors = np.array([magnitude for name, magnitude, *_ in applied if name == "ColorIncreasing"])
    assert_share((factors > 1).sum(), len(factors), 0.5)


def test_increasing_randaugment_clips_its_magnitudes_to_10_and_0(chosen):
    for magnitude, end in ((10, 30.0), (0, 0.0)):
        applied = flat(chosen(IncreasingRandAugment(magnitude=magnitude, magnitude_std=2, probability=1), 3000))
        degrees = [abs(value) for name, value, *_ in applied if name == "Rotate"]
        assert_share(degrees.count(end), len(degrees), 0.5)
        assert 0 <= min(degrees) < max(degrees) <= 30


def test_increasing_randaugment_without_deviation_or_probability(chosen):
    applied = flat(chosen(IncreasingRandAugment(num_ops=3, magnitude=5, magnitude_std=0, probability=1), 300))
    assert len(applied) == 900
    assert {abs(magnitude) for name, magnitude, *_ in applied if name == "Rotate"} == {15.0}
    assert flat(chosen(IncreasingRandAugment(probability=0), 100)) == []


def test_color_jitter_draws_factors_from_their_ranges_and_all_orders_alike(monkeypatch):
    applied = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(image_ops, name, lambda image, factor, name=name: applied.append((name, factor)) or image)
    policy = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    for sample in range(2400):
        policy(SMALL, KeyedRandom(3, 1, sample))
    orders = [tuple(name for name, _ in applied[i : i + 4]) for i in range(0, len(applied), 4)]
    assert_alike(orders, permutations(["brightness", "contrast", "saturation", "hue"]))
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for name, (low, high) in ranges.items():
        quarters = [int(4 * (factor - low) / (high - low)) for other, factor in applied if other == name]
        assert_alike(quarters, range(4))


def test_color_jitter_leaves_out_what_is_zero(photo):
    assert image_ops.hue(photo, 0.0) != photo
    assert ColorJitter()(photo, KeyedRandom(0, 0, 0)) == photo


@pytest.mark.parametrize("name", POLICIES)
def test_draws_alone_decide_the_image(name, photo):
    policy, before = POLICIES[name](), photo.tobytes()
    results = [policy(photo, KeyedRandom(5, 2, sample)) for sample in range(20)]
    assert results == [policy(photo, KeyedRandom(5, 2, sample)) for sample in range(20)]
    assert len({result.tobytes() for result in results}) >= 8
    assert {(result.size, result.mode) for result in results} == {((64, 48), "RGB")}
    assert photo.tobytes() == before


def test_policies_go_by_these_names():
    assert {name: policy() for name, policy in POLICIES.items()} == {
        "randaugment": RandAugment(2, 9, 31, "nearest", (0, 0, 0)),
        "randaugment_increasing": IncreasingRandAugment(2, 7, 0.5, 0.5, GREY),
        "trivialaugment": TrivialAugmentWide(31, "nearest", (0, 0, 0)),
        **{f"autoaugment_{data}": AutoAugment(data, "nearest", (0, 0, 0)) for data in ("imagenet", "cifar10", "svhn")},
    }
    assert POLICIES["randaugment"](magnitude=5) == RandAugment(magnitude=5)


@pytest.mark.parametrize(
    ("policy", "arguments", "message"),
    [
        (RandAugment, {"num_ops": 0}, r"^num_ops=0 must be a whole number from 1 on$"),
        (RandAugment, {"magnitude": 31}, r"^magnitude=31 must be a whole number from 0 to 30$"),
        (RandAugment, {"num_magnitude_bins": 1}, r"^num_magnitude_bins=1 must be a whole number from 2 on$"),
        (RandAugment, {"interpolation": "neerest"}, r"interpolation='neerest' must be one of nearest, .*'nearest'\?$"),
        (RandAugment, {"fill": (0, 0, 256)}, r"^fill=\(0, 0, 256\) must be three whole numbers from 0 to 255: red, "),
        (RandAugment, {"fill": [0, 0, 0]}, r"fill=\[0, 0, 0\] must be"),
        (TrivialAugmentWide, {"num_magnitude_bins": True}, r"num_magnitude_bins=True must be"),
        (TrivialAugmentWide, {"interpolation": None}, r"interpolation=None must be one of"),
        (TrivialAugmentWide, {"fill": (0, 0)}, r"fill=\(0, 0\) must be"),
        (AutoAugment, {"policy": "imagnet"}, r"policy='imagnet' must be one of imagenet, cifar10, svhn; did you mean"),
        (AutoAugment, {"interpolation": "box"}, r"interpolation='box' must be one of"),
        (AutoAugment, {"fill": 0}, r"fill=0 must be"),
        (IncreasingRandAugment, {"num_ops": "2"}, r"num_ops='2' must be"),
        (IncreasingRandAugment, {"magnitude": 10.5}, r"^magnitude=10\.5 must be a number from 0 to 10$"),
        (IncreasingRandAugment, {"magnitude_std": -0.5}, r"^magnitude_std=-0\.5 must be a number from 0 on$"),
        (IncreasingRandAugment, {"magnitude_std": float("inf")}, r"magnitude_std=inf must be"),
        (IncreasingRandAugment, {"probability": 1.5}, r"^probability=1\.5 must be a number from 0 to 1$"),
        (IncreasingRandAugment, {"fill": (0.5, 0.5, 0.5)}, r"fill=\(0\.5, 0\.5, 0\.5\) must be"),
        (ColorJitter, {"brightness": -0.1}, r"^brightness=-0\.1 must be a number from 0 on$"),
        (ColorJitter, {"contrast": float("nan")}, r"contrast=nan must be"),
        (ColorJitter, {"saturation": (0.5, 1.5)}, r"saturation=\(0\.5, 1\.5\) must be"),
        (ColorJitter, {"hue": 0.6}, r"^hue=0\.6 must be a number from 0 to 0\.5$"),
    ],
)
def test_bad_arguments_name_the_field_and_the_rule(policy, arguments, message):
    with pytest.raises(UserError, match=message):
        policy(**arguments)
