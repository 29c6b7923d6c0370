"""Where images come from and how a batch is made of them; knows nothing of models or training."""

from resnet_jax.data.augment import augment, image_keys, normalize
from resnet_jax.data.batches import TrainBatches, epoch_order, eval_batches
from resnet_jax.data.sources import Source, hold_out, load_source

__all__ = [
    "Source",
    "TrainBatches",
    "augment",
    "epoch_order",
    "eval_batches",
    "hold_out",
    "image_keys",
    "load_source",
    "normalize",
]
