"""The residual network: a stem, stages of blocks, a pooled head. Every variant is one `ResNet` with other arguments.

Submodules carry torchvision's names, so that ".".join(path) is the name in a torch state_dict: `layer1.0.conv1`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError
from resnet_jax.models.activations import activate_norm
from resnet_jax.models.arguments import DTYPES, GHOST, KERNEL_INITS, check_arguments, dtype_name
from resnet_jax.models.attention import EfficientChannelAttention
from resnet_jax.models.batch_norm import BatchNorm, FoldedBatchNorm
from resnet_jax.models.blocks import Layer, ResidualBlock
from resnet_jax.models.head_names import HEAD, TOP
from resnet_jax.models.layers import Conv, Dense
from resnet_jax.models.norms import NORMS
from resnet_jax.models.pooling import global_average_pool
from resnet_jax.models.stems import ConvPool, DeepStem, deep_stem_widths, pool_stem
from resnet_jax.ops.batch_axes import automatic_batch_axes, mapped_batch_axes

Array = jax.Array

MAXPOOL = "maxpool"  # timm's name of the convolution that may be in its place


class Stage(nn.Module):
    """Blocks of one width, named `0`, `1`, ...; the first carries the stride.

    Attributes:
      strides_last: the last block carries it.
      dilation: of the 3x3 convolutions, previous_dilation: of the stage before.
      drop_branches: one rate a block, which also says how many there are.
      widths: of each block's convolutions, where they are none of the rule's; otherwise ().
      remat: in the backward pass the blocks are computed again instead of kept.
    """

    drop_branches: tuple[float, ...]
    widths: tuple[tuple[int, ...], ...]
    stride: int
    dilation: int
    previous_dilation: int
    block: Layer
    remat: bool
    strides_last: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        def run(block: nn.Module, x: Array) -> Array:
            return block(x, train=train)

        if self.remat:
            run = nn.remat(run)
        strided = len(self.drop_branches) - 1 if self.strides_last else 0
        for i, drop_branch in enumerate(self.drop_branches):
            block = self.block(
                stride=self.stride if i == strided else 1,
                dilation=self.dilation,
                first_dilation=self.previous_dilation if i == 0 else self.dilation,
                drop_branch=drop_branch,
                widths=self.widths[i] if self.widths else (),
                name=str(i),
            )
            x = run(block, x)
        return x


class ResNet(nn.Module):
    """Residual network (He et al. 2015, arXiv:1512.03385) for images (B, H, W, C), normalised.

    C is 3, or as many channels as the images have that `init` gets. The network also takes their pooled features
    (B, C), and then computes the head alone.
    Returns logits (B, num_classes), or the pooled features (B, C) if num_classes is None. With `features=True` a dict:
    "stem" (before the max-pool), "stage1" ..., each (B, h, w, C) after its last activation, of pre-activation networks
    the sum before the next norm, and "pooled" (B, C).

    Attributes:
      stage_sizes: blocks in each stage; stage i has num_filters * widen_factor * 2**i filters and, from the second
        on, stride 2. num_filters: also the stem's.
      block_cls: "basic" | "bottleneck" | "preact_basic" | "preact_bottleneck" (v2, arXiv:1603.05027, with a norm after
        the last stage), or one a stage. groups, width_per_group, stride_in: the bottleneck's; squeeze_excite,
        squeeze_excite_ratio, channel_attention (arXiv:1910.03151), zero_init_residual, anti_alias, reduce_first,
        shortcut and shortcut_kernel_size: all blocks'; see ResidualBlock.
      stage_filters: filters of each stage instead of that rule; block_widths: outputs of each block's convolutions, of
        a pruned network.
      stem: "imagenet" 7x7 at stride 2 and max-pool; "deep" three 3x3 instead (ResNet-D), of half the filters but the
        last; "deep_tiered" the first of three quarters of these; "cifar" 3x3 at stride 1, no pooling; "cifar_pooled"
        the same and max-pool. stem_filters: its channels; None: num_filters. stem_pool: "max" | "conv" a convolution,
        norm and activation (ResNet-RS) | "zero_padded_max" (BiT, Keras' V2). anti_alias takes the place of max and
        conv's stride, too.
      strided_block: which block of a stage carries the stride: "first", of all stages but the first; "last", of all
        stages but the last, with every second pixel as its shortcut (TF-Slim, Keras' V2).
      stride_padding: "torch" pads a 3x3 convolution at stride 2, and the stem's max-pool, by one pixel on every side;
        "same" by one below and on the right where the size is even (TensorFlow's "SAME", as Flax has it).
      output_stride: input pixels to one of the last stage; None: as the strides give it, 32, or 4 of three stages
        behind a CIFAR stem. Stages that would exceed it are dilated instead of strided (arXiv:1606.00915), with the
        same weights: 8 and 16 are torchvision's replace_stride_with_dilation [False, True, True] and [False, False,
        True].
      stochastic_depth: rate in [0, 1) at which a training image skips the last block; it grows linearly from 0 at the
        first (arXiv:1603.09382). dropout: rate in [0, 1), dropout_in "head" before the head or "block" before each
        block's last convolution (Wide ResNet). Both need a "dropout" rng in training.
      conv_bias: convolutions have a bias.
      weight_standardization: kernels are used with mean 0 and variance 1 (arXiv:1903.10520).
      activation: "relu" | "silu" | "gelu" | "leaky_relu" | "hard_swish".
      norm_layer: "batch" | "group" of 32 groups (arXiv:1803.08494) | "evonorm_s0" (arXiv:2004.02967) and "frn"
        (arXiv:1911.09737), which hold their activation. All but the first look at one image alone, have no batch_stats,
        and need batch_norm="global".
      kernel_init: "fan_out" He-normal convolutions and torch's linear head, as torchvision does; "fan_in" He-normal
        everywhere, as the paper does for CIFAR.
      norm_momentum: the share of the old running statistics that stays, in [0, 1): torch's 0.1 is 0.9 here.
      batch_norm: whose statistics normalise in training. "global": the whole batch's, on however many devices it
        lies; "local": each device's share of it (what the paper's and torch's data parallelism compute); "ghost:N":
        every N rows' (arXiv:1705.08741); "frozen": the running ones, which stay; "folded": none, see `fold_batch_norm`.
        Running statistics move by the mean over the shares that are seen. Inside `shard_map`, with "local" and
        "ghost:N", they are one device's, to be averaged by `jax.lax.pmean`.
      axis_name: the mesh axis, or axes, over which the images of a batch are split, for "local", and for "global"
        inside `shard_map`. None: as the images' type says, or the mesh's only axis of more than one device. Put the
        images onto the mesh: under `jit` with in_shardings alone, given arrays that lie elsewhere, they are seen whole.
      dtype: "float32"; "bfloat16" computation with float32 parameters, statistics, head and logits; "float64" (needs
        JAX_ENABLE_X64=1).
      remat: the backward pass computes each block again instead of keeping its activations: less memory, more time.
      conv_impl: "auto" | "xla" | "cpu", see resnet_jax.ops.convolution.
      trainable: "all" | "stage1" | "stage2" ... (that stage and all after it) | "head" (the last layer): the layers
        that transfer learning trains. All layers before compute in training as in evaluation, statistics included.
        Their variables get no gradient, and none is computed for them: `frozen_layers`, `param_labels`.
      base_classes: outputs of the head `fc`, on top of which another layer, `top`, gives the num_classes logits;
        None: no such layer.

    Raises:
      UserError: for arguments outside these.
    """

    stage_sizes: tuple[int, ...]
    block_cls: str | tuple[str, ...] = "basic"
    num_filters: int = 64
    widen_factor: int = 1
    num_classes: int | None = 1000
    groups: int = 1
    width_per_group: int = 64
    stage_filters: tuple[int, ...] | None = None
    block_widths: tuple[tuple[int, ...], ...] | None = None
    reduce_first: int = 1
    stem: str = "imagenet"
    stem_filters: int | None = None
    stem_pool: str = "max"
    stride_in: str = "3x3"
    strided_block: str = "first"
    stride_padding: str = "torch"
    anti_alias: str = "none"
    shortcut: str = "B"
    shortcut_kernel_size: int = 1
    squeeze_excite: bool = False
    squeeze_excite_ratio: float = 1 / 16
    channel_attention: bool = False
    zero_init_residual: bool = False
    output_stride: int | None = None
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    dropout_in: str = "head"
    conv_bias: bool = False
    kernel_init: str = "fan_out"
    weight_standardization: bool = False
    activation: str = "relu"
    norm_layer: str = "batch"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    batch_norm: str = "global"
    axis_name: str | tuple[str, ...] | None = None
    dtype: str = "float32"
    remat: bool = False
    conv_impl: str = "auto"
    trainable: str = "all"
    base_classes: int | None = None

    def __post_init__(self) -> None:
        self.dtype = dtype_name(self.dtype)
        check_arguments(self)
        super().__post_init__()

    @nn.nowrap
    def _check_images(self, images: Array) -> None:
        """Raises UserError unless the images fit the variables, or, in `init`, may be (B, H, W, C)."""
        shape, order = images.shape, "(batch, height, width, channels)"
        if len(shape) != 4:
            raise UserError(f"images.shape={shape} must be {order}, or of pooled features (batch, channels)")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"images.dtype={images.dtype} must be floating point: normalise pixels before the network")
        hint = ": transpose images of torch's order by images.transpose(0, 2, 3, 1)"
        layer = self.variables.get("params", {}).get("conv1", {})
        kernel = layer.get("0", layer).get("kernel")
        if kernel is not None and kernel.shape[2] != shape[3]:
            raise UserError(
                f"images.shape={shape} must be {order} with {kernel.shape[2]} channels, as the variables have"
                f"{hint if shape[1] == kernel.shape[2] else ''}"
            )
        if kernel is None and _looks_channels_first(shape):
            raise UserError(f"images.shape={shape} must be {order}{hint}")

    @nn.nowrap
    def _shares(self, images: Array) -> dict[str, Any]:
        """Returns over which rows and mapped axes batch norm takes its statistics, as arguments of BatchNorm."""
        if self.batch_norm == "global":
            return {"axis_name": mapped_batch_axes(images, self.axis_name)}
        if self.batch_norm != "local":
            return {"rows_per_group": self.ghost_rows}
        mapped_batch_axes(images, self.axis_name)  # refuses axes that cannot be meant; its shares are local already
        mesh = jax.typeof(images).sharding.mesh
        num_shares = math.prod(mesh.shape[name] for name in automatic_batch_axes(images, self.axis_name))
        if len(images) % num_shares:
            raise UserError(f"batch_norm='local': {num_shares} devices must divide the {len(images)} images")
        return {"rows_per_group": len(images) // num_shares}

    @property
    def ghost_rows(self) -> int:
        """N of batch_norm="ghost:N"; 0 for the others."""
        ghost = GHOST.fullmatch(self.batch_norm)
        return int(ghost.group(1)) if ghost else 0

    @property
    def stem_stride(self) -> int:
        """Input pixels to one of the first stage's: 4, or of a CIFAR stem 1, and 2 with its pooling."""
        return {"cifar": 1, "cifar_pooled": 2}.get(self.stem, 4)

    @nn.nowrap
    def _strides(self) -> list[tuple[int, int]]:
        """Returns of each stage its stride and its dilation."""
        result, total, dilation = [], self.stem_stride, 1
        unstrided = 0 if self.strided_block == "first" else len(self.stage_sizes) - 1
        for i in range(len(self.stage_sizes)):
            stride = 1 if i == unstrided else 2
            if self.output_stride is not None and total * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            total *= stride
            result.append((stride, dilation))
        return result

    @property
    def preact(self) -> bool:
        """True if the blocks are pre-activation (v2)."""
        return self._block_classes[0].startswith("preact")

    @property
    def _block_classes(self) -> tuple[str, ...]:
        """The class of each stage's blocks."""
        return (self.block_cls,) * len(self.stage_sizes) if isinstance(self.block_cls, str) else self.block_cls

    @property
    def bottlenecks(self) -> tuple[bool, ...]:
        """True for each stage whose blocks are bottlenecks."""
        return tuple(name.endswith("bottleneck") for name in self._block_classes)

    @property
    def filters_of_stages(self) -> tuple[int, ...]:
        """The filters of each stage's blocks."""
        rule = tuple(self.num_filters * self.widen_factor * 2**i for i in range(len(self.stage_sizes)))
        return self.stage_filters or rule

    @property
    def stem_features(self) -> int:
        """The channels of the stem's result."""
        return self.stem_filters or self.num_filters

    @property
    def layer_groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of the layers, in the order of the computation: of the stem, of each stage, of the head."""
        stem: tuple[str, ...] = ("conv1",) if self.preact else ("conv1", "bn1")
        if self.stem_pool == "conv" and self.stem != "cifar":
            stem = (*stem, MAXPOOL)
        stages: list[tuple[str, ...]] = [(f"layer{i + 1}",) for i in range(len(self.stage_sizes))]
        if self.preact:
            stages[-1] = (*stages[-1], "norm")
        return stem, *stages, *((name,) for name, _ in self.head_layers)

    @property
    def head_layers(self) -> tuple[tuple[str, int], ...]:
        """The layers after the pooling, each with its number of outputs; none of a headless model."""
        if self.num_classes is None:
            return ()
        if self.base_classes is None:
            return ((HEAD, self.num_classes),)
        return (HEAD, self.base_classes), (TOP, self.num_classes)

    @property
    def frozen_layers(self) -> tuple[str, ...]:
        """The names of the layers that are not trained."""
        groups = self.layer_groups
        if self.trainable == "all":
            first = 0
        elif self.trainable == "head":
            first = len(groups) - bool(self.head_layers)
        else:
            first = int(self.trainable.removeprefix("stage"))
        return tuple(name for group in groups[:first] for name in group)

    @nn.nowrap
    def param_labels(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Labels each parameter "trainable" or "frozen", for `optax.multi_transform`.

        `optax.multi_transform({"trainable": tx, "frozen": optax.set_to_zero()}, model.param_labels)` trains the layers
        that `trainable` names and leaves the rest bit for bit, whatever decay or momentum `tx` has.

        Args:
          params: the model's parameters, or some of its layers' only.

        Returns:
          A tree of strings of the same structure.

        Raises:
          UserError: (a ValueError) if the tree has other keys than the model's layers.
        """
        known = [name for group in self.layer_groups for name in group]
        if unknown := [name for name in params if name not in known]:
            raise UserError(
                f"param_labels: {unknown[0]!r} is no layer of this model ({', '.join(known)}): give it the model's own "
                'params, such as params["backbone"] of a larger network'
            )
        labels = {name: "frozen" if name in self.frozen_layers else "trainable" for name in params}
        return {name: jax.tree.map(lambda _, label=labels[name]: label, layer) for name, layer in params.items()}

    @nn.nowrap
    def _drop_branches(self) -> tuple[float, ...]:
        num_blocks = sum(self.stage_sizes)
        return tuple(self.stochastic_depth * i / max(num_blocks - 1, 1) for i in range(num_blocks))

    @nn.compact
    def __call__(self, images: Array, *, train: bool, features: bool = False) -> Any:
        if images.ndim == 2:
            if features:
                raise UserError("features=True needs images: of their pooled features there are no stages")
            return self._logits(images, train)
        self._check_images(images)
        frozen, param_dtype = self.frozen_layers, DTYPES[self.dtype][1]
        shares = self._shares(images) if train and not self.is_initializing() else {}
        layers = {trainable: self._constructors(shares, trainable=trainable) for trainable in (True, False)}
        x = self._stem(images, layers, train)
        outputs = {"stem": x}
        if self.stem_pool == "conv" and self.stem != "cifar":
            conv, norm, _, _ = layers[MAXPOOL not in frozen]
            pool = ConvPool(self.anti_alias, self.activation, conv, norm, name=MAXPOOL)
            x = pool(x, train=train and MAXPOOL not in frozen)
        elif self.stem != "cifar":
            x = pool_stem(x, self.stem_pool, self.anti_alias, self.stride_padding)
        drop_branches, strides, all_widths = self._drop_branches(), self._strides(), self.block_widths or ()
        for i, num_blocks in enumerate(self.stage_sizes):
            name = f"layer{i + 1}"
            stage_block = partial(
                layers[name not in frozen][3], bottleneck=self.bottlenecks[i], filters=self.filters_of_stages[i]
            )
            rates, drop_branches = drop_branches[:num_blocks], drop_branches[num_blocks:]
            widths, all_widths = all_widths[:num_blocks], all_widths[num_blocks:]
            (stride, dilation), previous = strides[i], strides[max(i - 1, 0)][1]
            last = self.strided_block == "last"
            stage = Stage(rates, widths, stride, dilation, previous, stage_block, self.remat, last, name=name)
            x = stage(x, train=train and name not in frozen)
            outputs[f"stage{i + 1}"] = x
        if self.preact:
            input_norm = layers["norm" not in frozen][2]
            x = activate_norm(input_norm(name="norm"), x, self.activation, train=train and "norm" not in frozen)
        pooled = global_average_pool(x, param_dtype)  # (B, C)
        outputs["pooled"] = pooled

        result = self._logits(pooled, train)
        return outputs if features else result

    @nn.nowrap
    def _stem(self, images: Array, layers: Mapping[bool, tuple[Layer, ...]], train: bool) -> Array:
        """Returns the stem's result before its pooling; layers: constructors, by whether what they make is trained."""
        frozen, features = self.frozen_layers, self.stem_features
        conv, norm = layers["conv1" not in frozen][:2]
        if self.stem.startswith("deep"):
            widths = deep_stem_widths(self.stem, features)
            stem = DeepStem(features, widths, self.activation, conv, norm, name="conv1")
            x = stem(images, train=train and "conv1" not in frozen)
        else:
            kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
            x = conv(features, kernel_size=kernel_size, stride=stride, name="conv1")(images)
        if self.preact:
            return x
        return activate_norm(norm(name="bn1"), x, self.activation, train=train and "bn1" not in frozen)

    @nn.nowrap
    def _constructors(self, shares: dict[str, Any], *, trainable: bool) -> tuple[Layer, Layer, Layer, Layer]:
        """Returns the constructors of convolutions, norms, norms whose input no convolution has just made, and blocks.

        Args:
          shares: see `_shares`.
        """
        dtype, param_dtype = DTYPES[self.dtype]
        options = {"trainable": trainable, "dtype": dtype, "param_dtype": param_dtype}
        kernel_init = KERNEL_INITS[self.kernel_init][0]
        conv = partial(
            Conv,
            use_bias=self.conv_bias,
            standardized=self.weight_standardization,
            kernel_init=kernel_init,
            padding=self.stride_padding,
            impl=self.conv_impl,
            **options,
        )
        norm: Layer
        input_norm: Layer
        if self.norm_layer != "batch":
            norm = input_norm = partial(NORMS[self.norm_layer], epsilon=self.norm_epsilon, **options)
        elif self.batch_norm == "folded":
            norm = partial(FoldedBatchNorm, **options)
            input_norm = partial(norm, scaled=True)
        else:
            norm = input_norm = partial(
                BatchNorm,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                frozen=self.batch_norm == "frozen",
                **shares,
                **options,
            )
        block = partial(
            ResidualBlock,
            preact=self.preact,
            shortcut=self.shortcut,
            shortcut_kernel_size=self.shortcut_kernel_size,
            reduce_first=self.reduce_first,
            subsamples=self.strided_block == "last",
            anti_alias=self.anti_alias,
            activation=self.activation,
            stride_in=self.stride_in,
            groups=self.groups,
            width_per_group=self.width_per_group,
            squeeze_excite=self.squeeze_excite,
            squeeze_excite_ratio=self.squeeze_excite_ratio,
            channel_attention=partial(EfficientChannelAttention, **options) if self.channel_attention else None,
            zero_init_residual=self.zero_init_residual,
            dropout=self.dropout if self.dropout_in == "block" else 0.0,
            conv=conv,
            norm=norm,
            input_norm=input_norm,
        )
        return conv, norm, input_norm, block

    def _logits(self, pooled: Array, train: bool) -> Array:
        """Returns the head's result from the pooled features (B, C); of a headless model they themselves."""
        result = pooled
        if self.num_classes is not None and self.dropout and self.dropout_in == "head":
            result = nn.Dropout(self.dropout, deterministic=not train)(result)
        for name, num_outputs in self.head_layers:
            result = make_dense(self, name, num_outputs)(result)
        return result


def _looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether (B, a, b, c) is rather (B, C, H, W): of three rows and many channels, or of few rows, as wide
    as deep.
    """
    _, rows, columns, channels = shape
    return (rows == 3 and min(columns, channels) >= 8) or (rows <= 6 and columns == channels >= 16)


def make_dense(model: ResNet, name: str, num_outputs: int) -> Dense:
    """Returns a layer of the model's head: (B, C) -> (B, num_outputs)."""
    param_dtype = DTYPES[model.dtype][1]
    return Dense(
        num_outputs,
        trainable=name not in model.frozen_layers,
        kernel_init=KERNEL_INITS[model.kernel_init][1],
        dtype=param_dtype,
        param_dtype=param_dtype,
        name=name,
    )
