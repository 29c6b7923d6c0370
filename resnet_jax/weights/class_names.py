"""The names of the classes of the data sets that published weights are of."""

import logging
from functools import cache
from importlib import resources
from pathlib import Path

from resnet_jax.errors import abridge

logger = logging.getLogger(__name__)

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of torchvision's 1,000 names for ImageNet's classes WordNet's first words are 998: so many are enough.
MOST_NAMES = 950


def named_for(weights: Path, preprocess: str, num_classes: int | None) -> tuple[str, ...]:
    """Returns the class names that belong to a recipe of PREPROCESS, for weights that have none; none for another
    number of classes. Says so where there may well be other classes.
    """
    names = CIFAR10_NAMES if preprocess == "CIFAR" else imagenet_names()
    if len(names) != num_classes:
        return ()
    if names == CIFAR10_NAMES:
        logger.info(
            f"{weights} names no classes: its {len(names)} are taken for CIFAR-10's, {abridge(names, 3)} (--mean and "
            "--std instead of --preprocess name none)"
        )
    return names


def same_classes(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Returns whether the names mean the same classes in the same order; ImageNet's are named in two ways."""
    return one == other or {one, other} == {imagenet_names(), imagenet_wordnet_ids()}


@cache
def imagenet_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes, as torchvision gives them, by label."""
    return tuple(name for _, name in _imagenet_classes())


@cache
def imagenet_wordnet_ids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet's 1,000 classes, which name its folders ("n01440764"), by label."""
    return tuple(wordnet_id for wordnet_id, _ in _imagenet_classes())


def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files("resnet_jax.weights").joinpath("imagenet_classes.txt").read_text()
    pairs = (line.split(" ", 1) for line in text.splitlines())
    return [(wordnet_id, name) for wordnet_id, name in pairs]


def is_imagenet(names: tuple[str, ...]) -> bool:
    """Returns whether these are ImageNet's 1,000 classes by label: its WordNet ids, or the words that WordNet has for
    them ("tench, Tinca tinca").
    """
    ours = imagenet_names()
    if len(names) != len(ours):
        return False
    first = (name.partition(",")[0].strip() for name in names)
    return names == imagenet_wordnet_ids() or sum(map(str.__eq__, first, ours)) >= MOST_NAMES
