"""Residual blocks and their shortcuts (He et al. 2015, arXiv:1512.03385, and 2016, arXiv:1603.05027)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers

from resnet_jax.errors import check_choice
from resnet_jax.models.activations import ACTIVATIONS, activate_norm
from resnet_jax.models.attention import SqueezeExcite
from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.choices import SHORTCUTS, STRIDES_IN
from resnet_jax.models.layers import Conv, activate_sum, stochastic_depth
from resnet_jax.models.pooling import ANTI_ALIAS, average_pool
from resnet_jax.ops.convolution import subsample

Array = jax.Array
Layer = Callable[..., nn.Module]


class Convolution(NamedTuple):
    """One convolution of a block's residual branch."""

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1


class Downsample(nn.Module):
    """Projection shortcut: a convolution, 1x1 or of kernel_size, and a norm, named `0` and `1` as torchvision does.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features).

    Attributes:
      norm: None leaves the norm out.
      average: ResNet-D's (arXiv:1812.01187): the stride is an average pooling's before the convolution; beside a norm
        the names are then `1` and `2`, as timm's.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer | None
    average: bool = False
    kernel_size: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        first = int(self.average and self.norm is not None)
        stride = 1 if self.average else self.stride
        if self.average and self.stride > 1:
            x = average_pool(x, self.stride)
        x = self.conv(self.features, kernel_size=self.kernel_size, stride=stride, name=str(first))(x)
        return x if self.norm is None else self.norm(name=str(first + 1))(x, train=train)


def norm_alone(norm: Layer) -> Layer:
    """Returns the constructor of a norm after which nothing is activated, although it may hold an activation."""
    holds_activation = getattr(norm.func if isinstance(norm, partial) else norm, "activates", False)
    return partial(norm, activate=False) if holds_activation else norm


def zero_padding_shortcut(x: Array, features: int, stride: int, *, at_end: bool = False) -> Array:
    """Computes option A: every `stride`-th pixel, with zero channels added equally on both sides; no parameters.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features).

    Args:
      at_end: the zero channels are all behind the others.

    Raises:
      ValueError: if features < C.
    """
    extra = features - x.shape[-1]
    if extra < 0:
        raise ValueError(f"shortcut A cannot reduce channels={x.shape[-1]} to features={features}; use shortcut B")
    x = subsample(x, stride)
    before = 0 if at_end else extra // 2
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, extra - before)))


class ResidualBlock(nn.Module):
    """A residual branch of two or three convolutions, and a shortcut around it.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), F) with F = filters, of a bottleneck 4 * filters, or
    the last of `widths`.

    Attributes:
      bottleneck: 1x1, 3x3 and 1x1 convolutions instead of two 3x3. Its inner width is `filters * width_per_group / 64
        * groups`: ResNeXt (arXiv:1611.05431) groups the 3x3, Wide ResNet widens it.
      stride_in: which convolution of a bottleneck carries the stride: "1x1" the first (v1: the paper, Caffe), "3x3"
        the second (v1.5: torchvision). Of two 3x3 it is always the first.
      preact: batch norm and ReLU before each convolution, nothing after the sum (v2); a projection then sees the
        activated input and has no batch norm. Otherwise batch norm after each convolution, ReLU after the sum.
      shortcut: "A" zero-padding on both sides, "A_end" behind, "B" projection where the shapes differ, "C" projection
        everywhere, "D" average pooling and projection where they differ, "none" no shortcut at all (a plain network).
      dilation, first_dilation: of the 3x3 convolutions; of the first, which carries the stride of two 3x3, the
        latter: where a stage is dilated instead of strided, its first block still looks at pixels as near as those
        before it.
      widths: outputs of each convolution, where they are none of the rule's (a pruned network).
      reduce_first: the first convolution has this many times fewer outputs (SENet-154).
      shortcut_kernel_size: of a projection that changes the size of the images, or is dilated.
      subsamples: where the stride alone changes the shape, the shortcut is every `stride`-th pixel and no projection.
      anti_alias: "average" or "blur": the convolution that carries the stride has none, and its activated result is
        pooled so (arXiv:1904.11486); "none".
      squeeze_excite: channels gated by their means at the end of the branch, see SqueezeExcite; squeeze_excite_ratio:
        its inner width by its outer. channel_attention: the constructor of another gate, EfficientChannelAttention.
      zero_init_residual: the branch starts at zero (arXiv:1706.02677), by its last batch-norm scale, with `preact` by
        its last kernel.
      dropout: rate before the branch's last convolution (Wide ResNet, arXiv:1605.07146). drop_branch: rate at which a
        training image skips the branch (stochastic depth). Both in [0, 1), from the "dropout" rng.
      activation: the replacement for ReLU, by its name in ACTIVATIONS.
      conv, norm: constructors of the layers; input_norm: constructs the norm on the input of `preact` (None: norm).
    """

    filters: int
    bottleneck: bool
    preact: bool = False
    stride: int = 1
    shortcut: str = "B"
    stride_in: str = "3x3"
    groups: int = 1
    width_per_group: int = 64
    dilation: int = 1
    first_dilation: int = 1
    widths: tuple[int, ...] = ()
    reduce_first: int = 1
    shortcut_kernel_size: int = 1
    subsamples: bool = False
    anti_alias: str = "none"
    squeeze_excite: bool = False
    squeeze_excite_ratio: float = 1 / 16
    channel_attention: Layer | None = None
    zero_init_residual: bool = False
    dropout: float = 0.0
    drop_branch: float = 0.0
    activation: str = "relu"
    conv: Layer = Conv
    norm: Layer = BatchNorm
    input_norm: Layer | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        check_choice("stride_in", self.stride_in, STRIDES_IN)
        check_choice("anti_alias", self.anti_alias, ("none", *ANTI_ALIAS))
        check_choice("activation", self.activation, ACTIVATIONS)
        convolutions = self._convolutions()
        last, features = len(convolutions), convolutions[-1].features
        y = x
        if self.preact:
            y = activate_norm((self.input_norm or self.norm)(name="bn1"), x, self.activation, train=train)
        projected = y  # what a projection sees
        for k, convolution in enumerate(convolutions, 1):
            if k == last and self.dropout:
                y = nn.Dropout(self.dropout, deterministic=not train)(y)
            zero = {"kernel_init": initializers.zeros} if self.preact and k == last and self.zero_init_residual else {}
            pools = convolution.stride > 1 and self.anti_alias != "none"
            strided = convolution._replace(stride=1) if pools else convolution
            y = self.conv(**strided._asdict(), **zero, name=f"conv{k}")(y)
            if k < last:
                y = activate_norm(self.norm(name=f"bn{k + self.preact}"), y, self.activation, train=train)
            if pools:
                y = ANTI_ALIAS[self.anti_alias](y, convolution.stride)
        if not self.preact:
            scale_init = initializers.zeros if self.zero_init_residual else initializers.ones
            y = norm_alone(self.norm)(name=f"bn{last}", scale_init=scale_init)(y, train=train)
        if self.squeeze_excite:
            y = SqueezeExcite(self.conv, self.squeeze_excite_ratio, name="se")(y)
        if self.channel_attention is not None:
            y = self.channel_attention(channels=(4 if self.bottleneck else 1) * self.filters, name="se")(y)
        if train and self.drop_branch:
            y = stochastic_depth(self.make_rng("dropout"), y, self.drop_branch)
        if self.shortcut != "none":
            y = y + self._shortcut(x, projected, features, train)
        return y if self.preact else activate_sum(y, self.activation)

    def _convolutions(self) -> tuple[Convolution, ...]:
        if not self.bottleneck:
            rule: tuple[Convolution, ...] = (
                Convolution(self.filters // self.reduce_first, 3, self.stride, dilation=self.first_dilation),
                Convolution(self.filters, 3, dilation=self.dilation),
            )
        else:
            width = int(self.filters * self.width_per_group / 64) * self.groups
            first, second = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
            rule = (
                Convolution(width // self.reduce_first, 1, first),
                Convolution(width, 3, second, self.groups, self.first_dilation),
                Convolution(4 * self.filters, 1),
            )
        if not self.widths:
            return rule
        return tuple(one._replace(features=width) for one, width in zip(rule, self.widths, strict=True))

    def _shortcut(self, x: Array, projected: Array, features: int, train: bool) -> Array:
        changes_width = x.shape[-1] != features
        changes_shape = self.stride != 1 or changes_width
        projects = changes_width if self.subsamples else changes_shape
        if self.shortcut == "C" or (self.shortcut in ("B", "D") and projects):
            norm = None if self.preact else norm_alone(self.norm)
            kernel_size = self.shortcut_kernel_size if self.stride > 1 or self.dilation > 1 else 1
            downsample = Downsample(
                features, self.stride, self.conv, norm, self.shortcut == "D", kernel_size, name="downsample"
            )
            return downsample(projected, train=train)
        at_end = self.shortcut == "A_end"
        return zero_padding_shortcut(x, features, self.stride, at_end=at_end) if changes_shape else x


BasicBlock = partial(ResidualBlock, bottleneck=False)
BottleneckBlock = partial(ResidualBlock, bottleneck=True)
PreActBasicBlock = partial(ResidualBlock, bottleneck=False, preact=True)
PreActBottleneckBlock = partial(ResidualBlock, bottleneck=True, preact=True)
