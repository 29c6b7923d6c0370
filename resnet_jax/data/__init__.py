"""Where images come from and how a batch is made of them; knows nothing of models or training."""

from resnet_jax.data.batches import EvalBatches, TrainBatches, balanced_order, epoch_order
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import hold_out, load_source, load_splits
from resnet_jax.data.transforms.augment import augment, image_keys, normalize

__all__ = [
    "ArraySource",
    "DatasetOptions",
    "EvalBatches",
    "TrainBatches",
    "augment",
    "balanced_order",
    "epoch_order",
    "hold_out",
    "image_keys",
    "load_source",
    "load_splits",
    "normalize",
]
