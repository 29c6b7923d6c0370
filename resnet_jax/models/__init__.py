"""The networks: pure Linen modules that know nothing of data, training or weights."""

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Downsample, add_shortcut, zero_padding_shortcut
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.layers import BatchNorm, Conv, global_average_pool, max_pool
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model, default_image_size, list_models

__all__ = [
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "Downsample",
    "ResNet",
    "add_shortcut",
    "create_model",
    "default_image_size",
    "fold_batch_norm",
    "global_average_pool",
    "list_models",
    "max_pool",
    "zero_padding_shortcut",
]
