"""What is not at hand yet: which images and weights; and an experiment in which blank images stand in for them."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.config import OPEN_FIELDS
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.data.tfds.builder import UnknownSetError
from resnet_jax.data.tfds.requirements import Needs, needs_of
from resnet_jax.training.experiment import Experiment, build_experiment
from resnet_jax.training.images import IMAGE_SIZE, make_transform
from resnet_jax.weights.pretrained import TAGS, published_path

# So long that no schedule of any length is refused: how long the run will be is not known.
MANY_STEPS = 10**9


def dummy_data(config: ConfigDict, num_classes: int = 0, image_shape: tuple[int, ...] | None = None) -> Experiment:
    """The config's experiment with one batch of blank images; only its shapes mean something, not its steps.

    num_classes: 0 is the config's, or ten. image_shape: (H, W, C) of images in memory, None where they are encoded.
    Raises UserError (a ValueError) for a config that makes no experiment whatever the images are.
    """
    config = _lengthened(config)
    own_size = image_shape[0] if image_shape else IMAGE_SIZE
    size = config.image_size or own_size
    count = config.batch_size
    pixels = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (count, size, size, 3))
    names = tuple(map(str, range(num_classes or config.num_classes or 10)))
    source = ArraySource(pixels, np.zeros(count, np.int32), names).transformed(make_transform(config))
    return build_experiment(config, splits=Splits(source, source if _validates(config) else None, None))


def missing_needs(config: ConfigDict) -> Needs | None:
    """What the config's TFDS set needs before it can be trained on; None if nothing, or there is no such set."""
    if config.dataset in ("digits", "folder"):
        return None
    try:
        return needs_of(config.dataset, config.data_dir)
    except UnknownSetError:  # reading the images tells of it, as train does
        return None


def missing_weights(config: ConfigDict) -> Path | None:
    """Where the published weights that a run begins from would lie, if train has yet to download them."""
    if config.finetune.weights not in TAGS:
        return None
    path = published_path(config.model, config.finetune.weights)
    return None if path.exists() else path


def _lengthened(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.num_steps = MANY_STEPS
    for field in OPEN_FIELDS:
        config[field].unlock()
    return config


def _validates(config: ConfigDict) -> bool:
    return config.validation_fraction > 0
