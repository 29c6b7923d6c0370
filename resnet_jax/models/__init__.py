"""The networks: pure Linen modules that know nothing of data, training or weights."""

from resnet_jax.models.attention import EfficientChannelAttention, SqueezeExcite
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
from resnet_jax.models.layers import Conv, stochastic_depth
from resnet_jax.models.norms import EvoNormS0, FilterResponseNorm, GroupNorm
from resnet_jax.models.pooling import average_pool, blur_pool, global_average_pool, max_pool
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import num_input_channels, variable_shapes
from resnet_jax.models.variants import create_model, default_image_size, list_models

__all__ = [
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "Downsample",
    "EfficientChannelAttention",
    "EvoNormS0",
    "FilterResponseNorm",
    "GroupNorm",
    "PreActBasicBlock",
    "PreActBottleneckBlock",
    "ResNet",
    "ResidualBlock",
    "SqueezeExcite",
    "average_pool",
    "blur_pool",
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
