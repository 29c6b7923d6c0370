"""Finds images and weights that are missing, and makes an experiment in which blank images stand in for them."""

from dataclasses import replace

import numpy as np

from resnet_jax.data.options import CROP, ImageOptions
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.data.tfds.builder import UnknownSetError
from resnet_jax.data.tfds.requirements import Needs, needs_of
from resnet_jax.data.transforms.preprocess import height_and_width
from resnet_jax.filesystem import expand
from resnet_jax.training.experiment import Experiment, Options, build_experiment
from resnet_jax.training.images import make_transform
from resnet_jax.weights.hub import cached_hub_model, parse_hub_model
from resnet_jax.weights.pretrained import TAGS, published_path

# So long that no schedule of any length is refused: how long the run will be is not known.
MANY_STEPS = 10**9


def dummy_data(options: Options, num_classes: int = 0, image_shape: tuple[int, ...] | None = None) -> Experiment:
    """Returns the options' experiment with one batch of blank images; only its shapes mean something, not its steps.

    Args:
      num_classes: 0 is the options', or ten.
      image_shape: (H, W, C) of images in memory, None where they are encoded.

    Raises:
      UserError: for options that make no experiment whatever the images are.
    """
    images, count = options.images, options.batches.batch_size
    own_size = (image_shape[0], image_shape[1]) if image_shape else CROP
    height, width = height_and_width(images.image_size or own_size)
    pixels = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (count, height, width, images.channels))
    names = tuple(map(str, range(num_classes or images.num_classes or 10)))
    source = ArraySource(pixels, np.zeros(count, np.int32), names).transformed(make_transform(options.augment, images))
    splits = Splits(source, source if images.validation_fraction > 0 else None, None)
    # Weights are of classes, which blank images do not have.
    options = replace(options, state=replace(options.state, class_weights="none"))
    return build_experiment(options, splits=splits, num_steps=MANY_STEPS)


def missing_needs(images: ImageOptions) -> Needs | None:
    """Returns what the options' TFDS set needs before it can be trained on; None if nothing, or there is no such
    set.
    """
    if images.dataset in ("digits", "folder"):
        return None
    try:
        return needs_of(images.dataset, images.data_dir)
    except UnknownSetError:  # reading the images reports it, as train does
        return None


def missing_weights(options: Options) -> str | None:
    """Returns where to put the published weights that a run begins from, if train has yet to download them."""
    weights = options.finetune.weights
    if not weights:
        return None
    if weights in TAGS:
        path = published_path(options.model.model, weights)
        return None if path.exists() else f"put {path.name} into {path.parent}"
    model = None if expand(weights).exists() else parse_hub_model(weights)
    if model is None or cached_hub_model(model) is not None:
        return None
    return "copy the hub's cache from a machine that has them"
