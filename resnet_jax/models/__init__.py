"""The networks: pure Linen modules that know nothing of data, training or weights."""

from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import (
    BasicBlock,
    BottleneckBlock,
    Downsample,
    PreActBasicBlock,
    PreActBottleneckBlock,
    ResidualBlock,
    zero_padding_shortcut,
)
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.layers import Conv, SqueezeExcite, average_pool, global_average_pool, max_pool, stochastic_depth
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import num_input_channels, variable_shapes
from resnet_jax.models.variants import create_model, default_image_size, list_models

__all__ = [
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "Downsample",
    "PreActBasicBlock",
    "PreActBottleneckBlock",
    "ResNet",
    "ResidualBlock",
    "SqueezeExcite",
    "average_pool",
    "create_model",
    "default_image_size",
    "fold_batch_norm",
    "global_average_pool",
    "list_models",
    "max_pool",
    "num_input_channels",
    "stochastic_depth",
    "variable_shapes",
    "zero_padding_shortcut",
]
