"""The residual network: a stem, stages of blocks, a pooled head. Every variant is one `ResNet` with other arguments.

Submodules carry torchvision's names, so that ".".join(path) is the name in a torch state_dict: `layer1.0.conv1`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError, choose
from resnet_jax.models.blocks import BLOCKS, SHORTCUTS, Layer
from resnet_jax.models.convolution import CONV_IMPLS
from resnet_jax.models.layers import (
    BatchNorm,
    Conv,
    FoldedBatchNorm,
    global_average_pool,
    he_normal_fan_in,
    he_normal_fan_out,
    max_pool,
    torch_linear_init,
    uniform_bias_init,
)

Array = jax.Array

# What `dtype` means: (computation, parameters with statistics, pooling, head and logits).
DTYPES = {
    "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.float32),
    "float64": (jnp.float64, jnp.float64),
}
KERNEL_INITS = {"fan_out": (he_normal_fan_out, torch_linear_init), "fan_in": (he_normal_fan_in, he_normal_fan_in)}


class Stage(nn.Module):
    """`num_blocks` blocks of one width, named `0`, `1`, ...; the first carries the stride."""

    num_blocks: int
    stride: int
    block: Layer

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in range(self.num_blocks):
            x = self.block(stride=self.stride if i == 0 else 1, name=str(i))(x, train=train)
        return x


class ResNet(nn.Module):
    """Residual network (He et al. 2015, arXiv:1512.03385) for images (B, H, W, 3), normalised.

    Returns logits (B, num_classes), or the pooled features (B, C) if num_classes is None. With `features=True` a dict:
    "stem" (before the max-pool), "stage1" ..., each (B, h, w, C) after its last activation, and "pooled" (B, C).

    stage_sizes: blocks in each stage; stage i has num_filters * 2**i filters and, from the second on, stride 2.
    block_cls: "basic" | "bottleneck". groups, width_per_group, stride_in: the bottleneck's, see BottleneckBlock.
    stem: "imagenet" 7x7 at stride 2 and max-pool; "cifar" 3x3 at stride 1, no pooling.
    shortcut: "A" zero-padding, "B" projection where shapes differ, "C" projection everywhere, "none" plain network.
    zero_init_residual: the last batch-norm scale of each block starts at zero.
    dropout: rate in [0, 1) before the head; needs a "dropout" rng in training.
    kernel_init: "fan_out" He-normal convolutions and torch's linear head, as torchvision does; "fan_in" He-normal
        everywhere, as the paper does for CIFAR.
    norm_momentum: the share of the old running statistics that stays, in [0, 1): torch's 0.1 is 0.9 here.
    batch_norm: "global" batch statistics in training; "frozen" running statistics always; "folded" none, see
        `fold_batch_norm`.
    dtype: "float32"; "bfloat16" computation with float32 parameters, statistics, head and logits; "float64" (needs
        JAX_ENABLE_X64=1).
    conv_impl: "auto" | "xla" | "cpu", see resnet_jax.models.convolution.

    Raises UserError (a ValueError) for arguments outside these.
    """

    stage_sizes: tuple[int, ...]
    block_cls: str = "basic"
    num_filters: int = 64
    num_classes: int | None = 1000
    groups: int = 1
    width_per_group: int = 64
    stem: str = "imagenet"
    stride_in: str = "3x3"
    shortcut: str = "B"
    zero_init_residual: bool = False
    dropout: float = 0.0
    conv_bias: bool = False
    kernel_init: str = "fan_out"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    batch_norm: str = "global"
    dtype: str = "float32"
    conv_impl: str = "auto"

    def __post_init__(self) -> None:
        self._check_arguments()
        super().__post_init__()

    def _check_arguments(self) -> None:
        choose("block_cls", self.block_cls, BLOCKS)
        choose("stem", self.stem, ("imagenet", "cifar"))
        choose("stride_in", self.stride_in, ("3x3", "1x1"))
        choose("shortcut", self.shortcut, SHORTCUTS)
        choose("kernel_init", self.kernel_init, KERNEL_INITS)
        choose("batch_norm", self.batch_norm, ("global", "frozen", "folded"))
        choose("dtype", self.dtype, DTYPES)
        choose("conv_impl", self.conv_impl, CONV_IMPLS)
        if self.dtype == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
            raise UserError("dtype='float64' needs 64-bit jax: set the environment variable JAX_ENABLE_X64=1")
        if not self.stage_sizes or min(self.stage_sizes) < 1:
            raise UserError(f"stage_sizes={self.stage_sizes} must name at least one stage, each of at least one block")
        if self.num_classes is not None and self.num_classes < 1:
            raise UserError(f"num_classes={self.num_classes} must be at least 1, or None for a headless model")
        for field in ("num_filters", "groups", "width_per_group"):
            if getattr(self, field) < 1:
                raise UserError(f"{field}={getattr(self, field)} must be at least 1")
        if self.block_cls == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise UserError("groups and width_per_group belong to block_cls='bottleneck'")
        if self.num_filters * self.width_per_group < 64:
            raise UserError(
                f"num_filters={self.num_filters} * width_per_group={self.width_per_group} must be at least 64"
            )
        for field in ("dropout", "norm_momentum"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"{field}={getattr(self, field)} must be in [0, 1)")
        if self.norm_epsilon <= 0.0:
            raise UserError(f"norm_epsilon={self.norm_epsilon} must be positive")

    @nn.compact
    def __call__(self, images: Array, *, train: bool, features: bool = False) -> Any:
        if images.ndim != 4:
            raise ValueError(f"images.shape={images.shape} must be (batch, height, width, channels)")
        dtype, param_dtype = DTYPES[self.dtype]
        kernel_init, head_init = KERNEL_INITS[self.kernel_init]
        conv = partial(
            Conv,
            use_bias=self.conv_bias,
            kernel_init=kernel_init,
            impl=self.conv_impl,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        norm: Layer
        if self.batch_norm == "folded":
            norm = partial(FoldedBatchNorm, dtype=dtype, param_dtype=param_dtype)
        else:
            norm = partial(
                BatchNorm, momentum=self.norm_momentum, epsilon=self.norm_epsilon, dtype=dtype, param_dtype=param_dtype
            )
        block = partial(
            BLOCKS[self.block_cls],
            conv=conv,
            norm=norm,
            shortcut=self.shortcut,
            zero_init_residual=self.zero_init_residual,
            stride_in=self.stride_in,
            groups=self.groups,
            width_per_group=self.width_per_group,
        )
        norm_train = train and self.batch_norm != "frozen"

        kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.num_filters, kernel_size=kernel_size, stride=stride, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x, train=norm_train))
        outputs = {"stem": x}
        if self.stem == "imagenet":
            x = max_pool(x)
        for i, num_blocks in enumerate(self.stage_sizes):
            stage_block = partial(block, filters=self.num_filters * 2**i)
            stride = 1 if i == 0 else 2
            x = Stage(num_blocks, stride, stage_block, name=f"layer{i + 1}")(x, train=norm_train)
            outputs[f"stage{i + 1}"] = x
        pooled = global_average_pool(x, param_dtype)  # (B, C)
        outputs["pooled"] = pooled

        result = pooled
        if self.num_classes is not None:
            if self.dropout:
                result = nn.Dropout(self.dropout, deterministic=not train)(result)
            result = nn.Dense(
                self.num_classes,
                dtype=param_dtype,
                param_dtype=param_dtype,
                kernel_init=head_init,
                bias_init=uniform_bias_init(pooled.shape[-1]),
                name="fc",
            )(result)
        return outputs if features else result
