"""Every model by name: a table of arguments for `ResNet`, and `create_model` that reads it."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import UserError, suggestion
from resnet_jax.models.resnet import ResNet, dtype_name

IMAGENET_STAGES: dict[int, dict[str, Any]] = {
    18: {"stage_sizes": (2, 2, 2, 2), "block_cls": "basic"},
    26: {"stage_sizes": (2, 2, 2, 2), "block_cls": "bottleneck"},
    34: {"stage_sizes": (3, 4, 6, 3), "block_cls": "basic"},
    50: {"stage_sizes": (3, 4, 6, 3), "block_cls": "bottleneck"},
    101: {"stage_sizes": (3, 4, 23, 3), "block_cls": "bottleneck"},
    152: {"stage_sizes": (3, 8, 36, 3), "block_cls": "bottleneck"},
}


DEPTHS = (18, 34, 50, 101, 152)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which network a run trains: a name, the arguments of `ResNet` over it, and two that stand by themselves."""

    model: str
    model_args: Mapping[str, Any]
    dtype: str
    batch_norm: str


def _cifar(depth: int, block_cls: str = "basic", **arguments: Any) -> dict[str, Any]:
    """Returns the paper's network for 32x32 images (section 4.2): three stages of 16/32/64 filters, option A shortcuts.

    6n+2 layers, with bottlenecks 9n+2.
    """
    num_blocks = (depth - 2) // (9 if "bottleneck" in block_cls else 6)
    family = {"stage_sizes": (num_blocks,) * 3, "num_filters": 16, "stem": "cifar", "shortcut": "A", "num_classes": 10}
    return {**family, "block_cls": block_cls, **arguments}


def _wide(depth: int, widen_factor: int) -> dict[str, Any]:
    """Returns the Wide ResNet for 32x32 images: 6n+4 layers, of which the stem and the three projections are not in
    the blocks.
    """
    wide = {"widen_factor": widen_factor, "dropout_in": "block", "shortcut": "B"}
    return _cifar(depth - 2, "preact_basic", **wide)


VARIANTS: dict[str, dict[str, Any]] = {
    # He et al. 2015, arXiv:1512.03385; bottlenecks v1.5 as in torchvision.
    **{f"resnet{depth}": IMAGENET_STAGES[depth] for depth in DEPTHS},
    # Xie et al. 2016, arXiv:1611.05431.
    "resnext50_32x4d": {**IMAGENET_STAGES[50], "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {**IMAGENET_STAGES[101], "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {**IMAGENET_STAGES[101], "groups": 64, "width_per_group": 4},
    # Zagoruyko and Komodakis 2016, arXiv:1605.07146.
    "wide_resnet50_2": {**IMAGENET_STAGES[50], "width_per_group": 128},
    "wide_resnet101_2": {**IMAGENET_STAGES[101], "width_per_group": 128},
    # ResNet-D: He et al. 2018, arXiv:1812.01187.
    **{f"resnet{depth}d": {**IMAGENET_STAGES[depth], "stem": "deep", "shortcut": "D"} for depth in IMAGENET_STAGES},
    # Squeeze-and-excitation: Hu et al. 2017, arXiv:1709.01507.
    **{f"seresnet{depth}": {**IMAGENET_STAGES[depth], "squeeze_excite": True} for depth in DEPTHS},
    # Pre-activation, v2: He et al. 2016, arXiv:1603.05027.
    **{f"resnetv2_{depth}": {**IMAGENET_STAGES[depth], "block_cls": "preact_bottleneck"} for depth in (50, 101, 152)},
    # The first for 32x32 images (arXiv:1512.03385, section 4.2).
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110, 1202)},
    # Pre-activation for them, projections where shapes differ as in the authors' code.
    **{f"preact_resnet{depth}": _cifar(depth, "preact_basic", shortcut="B") for depth in (20, 56, 110)},
    **{f"preact_resnet{depth}": _cifar(depth, "preact_bottleneck", shortcut="B") for depth in (164, 1001)},
    # Wide ResNet for them (arXiv:1605.07146); dropout acts inside the blocks.
    **{f"wrn{depth}_{factor}": _wide(depth, factor) for depth, factor in ((16, 8), (28, 10), (40, 4))},
    # The tutorials' network for them: ImageNet's four stages behind a 3x3 stem without max-pool.
    **{
        f"cifar_resnet{depth}": {**IMAGENET_STAGES[depth], "stem": "cifar", "num_classes": 10} for depth in (18, 34, 50)
    },
    # The plain networks that show the degradation problem (arXiv:1512.03385, sections 4.1 and 4.2).
    **{f"plain{depth}": {**IMAGENET_STAGES[depth], "shortcut": "none"} for depth in (18, 34)},
    **{f"plain{depth}": _cifar(depth, shortcut="none") for depth in (20, 32, 44, 56)},
}


# Arguments that torchvision and timm have for what is said otherwise here.
_PUBLISHED = (
    "published weights are loaded beside the model: variables = resnet_jax.load_pretrained({name!r}, 'IMAGENET1K_V1')"
)
_CHANNELS = "leave it out: the images given to model.init, or the weights that are loaded, decide"
_FEATURES = "model.apply(variables, images, train=False, features=True) gives those of every stage"
ELSEWHERE = {
    **dict.fromkeys(("pretrained", "weights", "weights_backbone", "progress", "pretrained_cfg"), _PUBLISHED),
    "checkpoint_path": "resnet_jax.load_weights(path, model) reads the variables of a file",
    **dict.fromkeys(("in_chans", "in_channels", "input_channels", "num_channels"), _CHANNELS),
    **dict.fromkeys(("features_only", "out_indices", "return_nodes"), _FEATURES),
    **dict.fromkeys(("global_pool", "include_top"), "num_classes=None gives the pooled features"),
    "drop_path_rate": "it is called stochastic_depth here",
    **dict.fromkeys(("drop_rate", "dropout_rate"), "it is called dropout here"),
    **dict.fromkeys(("zero_init_last", "zero_init_last_bn"), "it is called zero_init_residual here"),
    "cardinality": "it is called groups here",
    "base_width": "it is called width_per_group here",
    "replace_stride_with_dilation": "output_stride=16 or output_stride=8 dilates the last stage, or the last two",
    **dict.fromkeys(
        ("norm_layer", "act_layer"), "batch_norm chooses the statistics; another layer is a model of one's own"
    ),
    **dict.fromkeys(("block", "layers"), "they are called block_cls and stage_sizes here"),
    "stem_type": "stem is 'imagenet', 'deep' or 'cifar'",
    "avg_down": "shortcut='D' pools before the projection",
    **dict.fromkeys(("precision", "param_dtype"), "dtype is 'float32', 'bfloat16' or 'float64'"),
    "device": "JAX computes where the variables lie: jax.device_put(variables, device)",
    **dict.fromkeys(("scriptable", "exportable", "jit"), "jax.jit compiles what calls the model"),
}


def list_models() -> list[str]:
    """Returns the names that `create_model` takes, family by family."""
    return list(VARIANTS)


def default_image_size(name: str) -> int:
    """Returns the side in pixels of the images that the named model was designed for: 224, or 32 with a CIFAR stem."""
    return 32 if _arguments(name).get("stem") == "cifar" else 224


def create_model(name: str, /, **overrides: Any) -> ResNet:
    """Returns the named model as a Linen module, any argument of `ResNet` overridden.

    num_classes is 1000, or 10 for the models made for 32x32 images, unless given; None makes a headless model. dtype
    may be one of JAX's or NumPy's as well, as jnp.bfloat16.

    Raises:
      UserError: for an unknown name or argument, and for a value of the wrong type or range.
    """
    arguments = {**_arguments(name), **overrides}
    if "dtype" in arguments:
        arguments["dtype"] = dtype_name(arguments["dtype"])
    hints = typing.get_type_hints(ResNet)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(ResNet)}
    for internal in ("parent", "name"):
        fields.pop(internal, None)
    for key, value in arguments.items():
        if key not in fields:
            if key in ELSEWHERE:
                raise UserError(f"{key!r} is no argument of {name}: {ELSEWHERE[key].format(name=name)}")
            raise UserError(
                f"{key!r} is no argument of {name}: use one of {', '.join(fields)}{suggestion(key, fields)}"
            )
        arguments[key] = _checked(key, value, fields[key])
    return ResNet(**arguments)


def _arguments(name: str) -> dict[str, Any]:
    if name not in VARIANTS:
        near = suggestion(name, VARIANTS)
        raise UserError(f"model={name!r} is not known{near} ('python -m resnet_jax list' shows all)")
    return VARIANTS[name]


def _checked(key: str, value: Any, hint: Any) -> Any:
    """Returns `value` as the argument's type: whole numbers serve as floats, lists as tuples; nothing else is
    converted.
    """
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in allowed:
        if typing.get_origin(kind) is tuple:
            item_kind = typing.get_args(kind)[0]
            if isinstance(value, list | tuple) and value and all(type(item) is item_kind for item in value):
                return tuple(value)
        elif type(value) is kind:
            return value
    if float in allowed and type(value) is int:
        return float(value)
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
    raise UserError(f"{key}={value!r} must be of type {expected}")
