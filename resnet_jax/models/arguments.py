"""Checks the arguments of `ResNet`."""

import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.activations import ACTIVATIONS
from resnet_jax.models.choices import SHORTCUTS, STRIDES_IN
from resnet_jax.models.initializers import he_normal_fan_in, he_normal_fan_out, torch_linear_init
from resnet_jax.models.norms import NORMS, NUM_GROUPS
from resnet_jax.models.pooling import ANTI_ALIAS
from resnet_jax.models.stems import STEM_POOLS, STEMS, deep_stem_widths
from resnet_jax.ops.convolution import CONV_IMPLS

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

# The meaning of `dtype`: (computation, parameters with statistics, pooling, head and logits).
DTYPES = {
    "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.float32),
    "float64": (jnp.float64, jnp.float64),
}
GHOST = re.compile(r"ghost:([1-9][0-9]*)")
# By name: initializers of the convolutions and of the head.
KERNEL_INITS = {"fan_out": (he_normal_fan_out, torch_linear_init), "fan_in": (he_normal_fan_in, he_normal_fan_in)}
MOST_BLOCKS = 4096  # seven times as many as the deepest published network has
# The arguments in which a network may differ from the network of its initial weights: they decide how it is trained.
OF_TRAINING = (
    "num_classes", "base_classes", "trainable", "dtype", "batch_norm", "norm_momentum", "dropout", "dropout_in",
    "stochastic_depth", "zero_init_residual", "kernel_init", "remat", "conv_impl", "output_stride", "axis_name",
)  # fmt: skip
BLOCKS = ("basic", "bottleneck", "preact_basic", "preact_bottleneck")
NORM_LAYERS = ("batch", *NORMS)


def dtype_name(dtype: Any) -> Any:
    """Returns the name of a dtype that is given as one of JAX's or NumPy's; anything else as it is."""
    return np.dtype(dtype).name if isinstance(dtype, np.dtype | type) else dtype


def check_arguments(model: "ResNet") -> None:
    """Raises UserError for arguments outside those that ResNet names."""
    for field, known in (
        ("stem", STEMS),
        ("stem_pool", STEM_POOLS),
        ("stride_in", STRIDES_IN),
        ("strided_block", ("first", "last")),
        ("stride_padding", ("torch", "same")),
        ("anti_alias", ("none", *ANTI_ALIAS)),
        ("shortcut", SHORTCUTS),
        ("activation", ACTIVATIONS),
        ("norm_layer", NORM_LAYERS),
        ("dropout_in", ("head", "block")),
        ("kernel_init", KERNEL_INITS),
        ("dtype", DTYPES),
        ("conv_impl", CONV_IMPLS),
    ):
        check_choice(field, getattr(model, field), known)
    _check_stages(model)
    _check_norm(model)
    _check_strides(model)
    _check_trainable(model.trainable, [f"stage{i + 1}" for i in range(len(model.stage_sizes))])
    if model.dtype == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise UserError("dtype='float64' needs 64-bit jax: set the environment variable JAX_ENABLE_X64=1")
    if model.num_classes is not None and model.num_classes < 1:
        raise UserError(f"num_classes={model.num_classes} must be at least 1, or None for a headless model")
    if model.base_classes is not None and (model.base_classes < 1 or model.num_classes is None):
        raise UserError(f"base_classes={model.base_classes} must be at least 1, or None, which a headless model needs")
    if model.stem.startswith("deep") and model.stem_features % (8 if model.stem == "deep_tiered" else 2):
        field = "stem_filters" if model.stem_filters else "num_filters"
        what = "a multiple of 8" if model.stem == "deep_tiered" else "even"
        raise UserError(f"{field}={model.stem_features} must be {what} with stem={model.stem!r}")
    if model.shortcut == "none" and model.stochastic_depth:
        raise UserError("stochastic_depth skips a block by its shortcut: with shortcut='none' it must be 0")
    if model.squeeze_excite and model.channel_attention:
        raise UserError("squeeze_excite and channel_attention are two gates in one place: set one of them")
    if not 0.0 < model.squeeze_excite_ratio <= 1.0:
        raise UserError(f"squeeze_excite_ratio={model.squeeze_excite_ratio} must be above 0 and at most 1")
    for field in ("stochastic_depth", "dropout", "norm_momentum"):
        if not 0.0 <= getattr(model, field) < 1.0:
            raise UserError(f"{field}={getattr(model, field)} must be in [0, 1)")
    if not 0.0 < model.norm_epsilon < float("inf"):
        raise UserError(f"norm_epsilon={model.norm_epsilon} must be positive and finite")


def _check_trainable(trainable: str, stages: list[str]) -> None:
    """Raises UserError for what is no place to train from; torchvision's names of layers get ours."""
    known = ("all", *stages, "head")
    if trainable not in known and (stage := trainable.replace("layer", "stage")) in known:
        raise UserError(f"trainable={trainable!r} must be one of {', '.join(known)}; did you mean {stage!r}?")
    if trainable in ("stem", "conv1", "bn1"):
        raise UserError(f"trainable={trainable!r} must be one of {', '.join(known)}; 'stage1' freezes the stem alone")
    check_choice("trainable", trainable, known)


def _check_stages(model: "ResNet") -> None:
    sizes = model.stage_sizes
    if not sizes or min(sizes) < 1:
        raise UserError(f"stage_sizes={sizes} must name at least one stage, each of at least one block")
    if sum(sizes) > MOST_BLOCKS:
        raise UserError(f"stage_sizes={sizes} must be at most {MOST_BLOCKS} blocks together")
    classes = model.block_cls if isinstance(model.block_cls, tuple) else (model.block_cls,) * len(sizes)
    for name in classes:
        check_choice("block_cls", name, BLOCKS)
    if len(classes) != len(sizes) or len({name.startswith("preact") for name in classes}) > 1:
        raise UserError(
            f"block_cls={model.block_cls} must be one, or one for each of {len(sizes)} stages, all v2 or none"
        )
    for field in ("num_filters", "widen_factor", "groups", "width_per_group", "reduce_first"):
        if getattr(model, field) < 1:
            raise UserError(f"{field}={getattr(model, field)} must be at least 1")
    if model.shortcut_kernel_size not in (1, 3):
        raise UserError(f"shortcut_kernel_size={model.shortcut_kernel_size} must be 1 or 3")
    if model.stem_filters is not None and model.stem_filters < 1:
        raise UserError(f"stem_filters={model.stem_filters} must be at least 1, or None for num_filters")
    if not any(model.bottlenecks) and (model.groups, model.width_per_group) != (1, 64):
        raise UserError("groups and width_per_group belong to block_cls='bottleneck'")
    filters = model.stage_filters
    if filters is not None and (len(filters) != len(sizes) or min(filters) < 1):
        raise UserError(f"stage_filters={filters} must be a number, at least 1, for each of the {len(sizes)} stages")
    narrowest = min(model.filters_of_stages)
    if narrowest * model.width_per_group < 64:
        field = "num_filters" if filters is None else "stage_filters"
        raise UserError(
            f"{field}={getattr(model, field)} makes stages of {narrowest} filters: times width_per_group="
            f"{model.width_per_group} they must be at least 64"
        )
    inner = min(
        int(width * model.width_per_group / 64) * model.groups if bottleneck else width
        for width, bottleneck in zip(model.filters_of_stages, model.bottlenecks, strict=True)
    )
    if model.reduce_first > inner:
        raise UserError(f"reduce_first={model.reduce_first} must be at most {inner}, the narrowest block's outputs")
    _check_widths(model)


def _check_widths(model: "ResNet") -> None:
    if model.block_widths is None:
        return
    expected = [3 if model.bottlenecks[stage] else 2 for stage, n in enumerate(model.stage_sizes) for _ in range(n)]
    if [*map(len, model.block_widths)] != expected or min(map(min, model.block_widths)) < 1:
        raise UserError(
            f"block_widths must be a tuple for each of the {len(expected)} blocks, of 3 numbers for a bottleneck and 2 "
            "for a basic one, each at least 1"
        )


def _check_norm(model: "ResNet") -> None:
    if not GHOST.fullmatch(model.batch_norm):
        check_choice("batch_norm", model.batch_norm, ("global", "local", "ghost:N", "frozen", "folded"))
    if model.batch_norm == "ghost:N":
        raise UserError("batch_norm='ghost:N' needs a number of rows, for example ghost:32")
    if model.norm_layer == "batch":
        return
    if model.batch_norm != "global":
        raise UserError(
            f"batch_norm={model.batch_norm!r} needs norm_layer='batch': with {model.norm_layer!r} it stays 'global'"
        )
    widths = [model.stem_features, *model.filters_of_stages]
    widths += deep_stem_widths(model.stem, model.stem_features) if model.stem.startswith("deep") else ()
    uneven = next((width for width in widths if width % NUM_GROUPS), None)
    if model.norm_layer != "frn" and uneven is not None:
        raise UserError(
            f"norm_layer={model.norm_layer!r} has {NUM_GROUPS} groups, which must divide all its channels, and here "
            f"are {uneven}"
        )


def _check_same_padding(model: "ResNet") -> None:
    for field, plain in (("anti_alias", "none"), ("stem_pool", "max"), ("output_stride", None)):
        if getattr(model, field) != plain:
            raise UserError(
                f"stride_padding='same' needs {field}={plain!r}: with {getattr(model, field)!r} it stays 'torch'"
            )


def _check_strides(model: "ResNet") -> None:
    strides = [model.stem_stride * 2**i for i in range(len(model.stage_sizes))]
    if model.strided_block == "last" and model.output_stride is not None:
        raise UserError(f"output_stride={model.output_stride} needs strided_block='first': leave one of them out")
    if model.strided_block == "last" and model.shortcut not in ("A", "A_end", "B"):
        raise UserError(f"strided_block='last' needs shortcut='B' or 'A', not {model.shortcut!r}")
    if model.stride_padding == "same":
        _check_same_padding(model)
    if model.output_stride not in (None, *strides):
        raise UserError(f"output_stride={model.output_stride} must be one of {', '.join(map(str, strides))}")
    if model.output_stride in (None, strides[-1]):
        return
    where = f"output_stride={model.output_stride}"
    if model.shortcut == "D":
        raise UserError(f"{where} needs another shortcut than 'D', which pools by stride")
    if model.anti_alias != "none":
        raise UserError(f"{where} needs anti_alias='none': {model.anti_alias!r} pools by stride")
    if model.shortcut_kernel_size > 1:
        raise UserError(f"{where} needs shortcut_kernel_size=1: a projection is not dilated")
