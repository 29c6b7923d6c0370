"""Every model by name: a table of arguments for `ResNet`, and `create_model` that reads it."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import UserError, suggestion
from resnet_jax.models.architectures import VARIANTS
from resnet_jax.models.arguments import dtype_name
from resnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which network a run trains: a name, the arguments of `ResNet` over it, and two that stand alone."""

    model: str
    model_args: Mapping[str, Any]
    dtype: str
    batch_norm: str


# Arguments of torchvision and timm for which this package has another way.
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
    "act_layer": "it is called activation here",
    "aa_layer": "anti_alias='average' or 'blur' is what it is called here",
    "attn_layer": "squeeze_excite=True or channel_attention=True is what it is called here",
    "replace_stem_pool": "stem_pool='conv' is what it is called here",
    "stem_width": "stem_filters is the number of the stem's outputs, of a deep stem twice that",
    "channels": "stage_filters gives the filters of each stage",
    "down_kernel_size": "it is called shortcut_kernel_size here",
    "block_reduce_first": "it is called reduce_first here",
    **dict.fromkeys(("block", "layers"), "they are called block_cls and stage_sizes here"),
    "stem_type": "stem is 'imagenet', 'deep', 'deep_tiered', 'cifar' or 'cifar_pooled'",
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
            converted = _as_tuple(value, typing.get_args(kind)[0])
            if converted is not None:
                return converted
        elif type(value) is kind:
            return value
    if float in allowed and type(value) is int:
        return float(value)
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
    raise UserError(f"{key}={value!r} must be of type {expected}")


def _as_tuple(value: Any, item_kind: Any) -> tuple[Any, ...] | None:
    """Returns a list or tuple, not empty, of items of this kind as a tuple; None if it is none."""
    if not isinstance(value, list | tuple) or not value:
        return None
    if typing.get_origin(item_kind) is tuple:
        inner = [_as_tuple(item, typing.get_args(item_kind)[0]) for item in value]
        return None if None in inner else tuple(inner)
    return tuple(value) if all(type(item) is item_kind for item in value) else None
