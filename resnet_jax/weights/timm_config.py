"""timm's config.json: reads a network, its classes and its images from it, and writes ours into it."""

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.data.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, as_side, height_and_width
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.architectures import VARIANTS
from resnet_jax.weights.class_names import imagenet_names, is_imagenet
from resnet_jax.weights.info import WeightsInfo

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

logger = logging.getLogger(__name__)

# The networks that timm has by the same names: not those for 32x32 images, and not the plain ones.
TIMM_NAMES = frozenset(
    name for name, one in VARIANTS.items() if one.get("stem") != "cifar" and one.get("shortcut") != "none"
)
_SIDE = 224  # in pixels, of the images that they were designed for
Config = Mapping[str, Any]
Arguments = dict[str, Any]

# timm's arguments by ours, where the values are the same.
_SAME_VALUES = {
    "layers": "stage_sizes",
    "cardinality": "groups",
    "base_width": "width_per_group",
    "block_reduce_first": "reduce_first",
    "down_kernel_size": "shortcut_kernel_size",
    "output_stride": "output_stride",
    "act_layer": "activation",
}
# Our arguments for the values of timm's arguments. They come before the named network's.
_VALUES: dict[str, dict[Any, Arguments]] = {
    "attn_layer": {"se": {"squeeze_excite": True}, "eca": {"channel_attention": True}},
    "aa_layer": {
        "avg": {"anti_alias": "average"}, "avgpool": {"anti_alias": "average"}, "blur": {"anti_alias": "blur"},
    },
    "norm_layer": {
        "batchnorm": {"norm_layer": "batch"}, "batchnorm2d": {"norm_layer": "batch"},
        "groupnorm": {"norm_layer": "group"},
    },
    "stem_type": {"": {"stem": "imagenet"}, "deep": {"stem": "deep"}, "deep_tiered": {"stem": "deep_tiered"}},
    "avg_down": {True: {"shortcut": "D"}, False: {"shortcut": "B"}},
    "replace_stem_pool": {True: {"stem_pool": "conv"}, False: {"stem_pool": "max"}},
    "global_pool": {"avg": {}},
}  # fmt: skip
# timm's arguments that decide how a network is trained, or that the weights show, and not what it answers.
_WITHOUT_EFFECT = (
    "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "in_chans", "num_classes", "img_size",
)  # fmt: skip


def read_timm_config(where: str, content: Config) -> WeightsInfo:
    """Returns the info of a config of timm's. `where` it stands is for messages.

    Raises:
      UserError: for a network that is none of ours, and arguments of it that have no counterpart.
    """
    name = content["architecture"]
    if name not in TIMM_NAMES:
        raise UserError(
            f"{where} is of {name!r}, no residual network of this package ('python -m resnet_jax list' shows all)"
        )
    pretrained = content.get("pretrained_cfg") or content
    num_classes = content.get("num_classes", pretrained.get("num_classes", 1000)) or None
    arguments: Arguments = {"num_classes": num_classes}
    for argument, value in (content.get("model_args") or {}).items():
        arguments |= _our_argument(where, argument, value)
    labels = content.get("label_names") or pretrained.get("label_names") or content.get("labels") or ()
    descriptions = content.get("label_descriptions") or pretrained.get("label_descriptions") or {}
    if isinstance(labels, Mapping):  # by number
        labels = _in_order(labels)
    names = tuple(str(descriptions.get(label, label)) for label in labels)
    published = num_classes == len(imagenet_names()) and "in1k" in str(pretrained.get("tag", ""))
    if is_imagenet(tuple(map(str, labels))) or is_imagenet(names) or (published and not names):
        names = imagenet_names()
    return WeightsInfo(name, arguments, names if len(names) == num_classes else (), _read_preprocess(pretrained))


def _in_order(labels: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the names of {"0": name, …} by number; none if a number is missing."""
    numbered = {int(number): name for number, name in labels.items()}
    return tuple(numbered[i] for i in range(len(numbered))) if {*numbered} == {*range(len(numbered))} else ()


def _our_argument(where: str, argument: str, value: Any) -> Arguments:
    if argument in _WITHOUT_EFFECT or value is None:
        return {}
    if (argument, value) == ("act_layer", "swish"):
        value = "silu"
    if argument in _SAME_VALUES:
        return {_SAME_VALUES[argument]: tuple(value) if isinstance(value, list) else value}
    known = _VALUES.get(argument, {})
    if isinstance(value, str | bool) and value in known:
        return known[value]
    raise UserError(
        f"{where} gives the network {argument}={value!r}, which is not translated: give the file of the weights, and "
        "name the network with --model and --model_args"
    )


def _read_preprocess(pretrained: Config) -> Preprocess:
    """Returns timm's preprocessing for validation: at the size for tests, if there is one."""
    _, height, width = pretrained.get("test_input_size") or pretrained.get("input_size") or (3, 224, 224)
    share = pretrained.get("test_crop_pct") or pretrained.get("crop_pct") or 0.875
    before, crop = as_side(math.floor(height / share), math.floor(width / share)), as_side(height, width)
    fits = {"center": "crop", "squash": "squash", "border": "border"}
    mode = pretrained.get("crop_mode") or "center"
    check_choice("crop_mode", mode, fits)
    fit = fits[mode]
    return Preprocess(
        before if fit == "crop" or before != crop else None,
        crop,
        pretrained.get("interpolation") or "bicubic",
        tuple(pretrained.get("mean") or IMAGENET_MEAN),
        tuple(pretrained.get("std") or IMAGENET_STD),
        fit,
    )


def write_timm_config(model: "ResNet", info: WeightsInfo, num_channels: int) -> dict[str, Any]:
    """Returns the config by which timm makes the model; it is for the caller to see whether it is the same network.

    Warns where timm cannot say how images are prepared, or that they may have several labels.

    Raises:
      UserError: for a network that timm has not under that name.
    """
    if info.model not in TIMM_NAMES:
        raise UserError(f"timm has no network {info.model!r}: write a file, with layout='torchvision'")
    if info.multi_label:
        logger.warning("an image may have several labels, which timm cannot say: read back, it has one")
    arguments = {} if num_channels == 3 else {"in_chans": num_channels}
    for theirs, ours in _SAME_VALUES.items():
        if ours in info.model_args and info.model_args[ours] != VARIANTS[info.model].get(ours):
            arguments[theirs] = info.model_args[ours]
    stem = "stem.conv" if model.preact else "conv1"
    if model.stem.startswith("deep"):
        stem = "stem.conv1" if model.preact else "conv1.0"
    pretrained = {
        "tag": "resnet_jax",
        "custom_load": False,
        "fixed_input_size": False,
        "num_classes": model.num_classes or 0,
        "first_conv": stem,
        "classifier": "head.fc" if model.preact else "fc",
        **_write_preprocess(info, num_channels),
    }
    return {
        "architecture": info.model,
        "num_classes": model.num_classes or 0,
        "num_features": model.filters_of_stages[-1] * (4 if model.bottlenecks[-1] else 1),
        "global_pool": "avg",
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": pretrained,
        **({"label_names": list(info.class_names)} if info.class_names else {}),
    }


def _write_preprocess(info: WeightsInfo, num_channels: int) -> dict[str, Any]:
    preprocess = info.preprocess
    if preprocess is None:
        logger.warning("nothing tells how images are prepared (--preprocess): timm will take what it does for ImageNet")
        return {"input_size": [num_channels, _SIDE, _SIDE]}
    size = preprocess.crop or preprocess.resize or info.image_size
    if size is None:
        logger.warning(f"images are taken as they are, which timm cannot say: it will make them {_SIDE}x{_SIDE}")
    crop = height_and_width(size or _SIDE)
    before = height_and_width(preprocess.resize or crop)
    if preprocess.crop is not None and preprocess.resize is None:
        logger.warning("images are cropped and not resized, which timm cannot say: it will resize them to the crop")
    if preprocess.fit == "pad" and any(preprocess.mean):
        logger.warning("timm pads images in the mean colour, where here they are padded in black")
    return {
        "input_size": [num_channels, *crop],
        "interpolation": preprocess.interpolation,
        "crop_pct": _crop_share(crop[0], before[0]),
        "crop_mode": {"crop": "center", "pad": "border"}.get(preprocess.fit, preprocess.fit),
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def _crop_share(crop: int, before: int) -> float:
    """Returns the share of `before` that is `crop`, of which timm, dividing and rounding down, makes `before` again."""
    share = crop / before
    while math.floor(crop / share) < before:
        share = math.nextafter(share, 0.0)
    return share
