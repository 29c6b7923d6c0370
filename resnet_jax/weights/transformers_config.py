"""transformers' config.json and preprocessor_config.json of its ResNet: read, and written of ours."""

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.data.transforms.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESAMPLING,
    Preprocess,
    Side,
    as_side,
    height_and_width,
)
from resnet_jax.errors import UserError
from resnet_jax.models.architectures import STAGES, VARIANTS
from resnet_jax.weights.class_names import imagenet_names, is_imagenet
from resnet_jax.weights.info import WeightsInfo

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
_FILTERS = (64, 128, 256, 512)
_CLASSIFIER = "ResNetForImageClassification"
# From this length on the processor of ConvNeXt, which ResNet's is, takes images whole.
_WHOLE_FROM = 384
# By Pillow's numbers, which the files hold.
_RESAMPLES = {int(number): name for name, number in RESAMPLING.items()}
_CROPPING, _SQUASHING = "BitImageProcessor", "ViTImageProcessor"


def read_transformers_config(where: str, content: Config, processor: Config | None) -> WeightsInfo:
    """Returns the info of a config of transformers' ResNet. `where` it stands is for messages.

    Args:
      processor: the content of preprocessor_config.json, if there is one.

    Raises:
      UserError: for another network, or one that is none of ours.
    """
    if content["model_type"] != "resnet":
        raise UserError(
            f"{where} is of the kind {content['model_type']!r} of transformers: its 'resnet' is read, and timm's models"
        )
    if content.get("downsample_in_first_stage", False):
        raise UserError(f"{where} halves images in the first stage (downsample_in_first_stage), which none of ours do")
    if (activation := content.get("hidden_act", "relu")) != "relu":
        # transformers (5.24) takes it at the end of a block alone, and ReLU inside.
        raise UserError(f"{where} has hidden_act={activation!r} beside ReLU, which none of ours has")
    sizes, kind = tuple(content.get("depths", (3, 4, 6, 3))), content.get("layer_type", "bottleneck")
    stages = {"stage_sizes": sizes, "block_cls": kind}
    depth = next((depth for depth, known in STAGES.items() if known == stages and f"resnet{depth}" in VARIANTS), None)
    widths = content.get("hidden_sizes", tuple(4 * filters for filters in _FILTERS))
    if kind == "bottleneck" and any(width % 4 for width in widths):
        raise UserError(f"{where} has hidden_sizes={widths!r}, of which a bottleneck needs multiples of 4")
    filters = tuple(size // (4 if kind == "bottleneck" else 1) for size in widths)
    labels = {int(label): str(name) for label, name in (content.get("id2label") or {}).items()}
    has_head = _CLASSIFIER in (content.get("architectures") or [_CLASSIFIER])
    num_classes = (len(labels) or content.get("num_labels", 2)) if has_head else None
    arguments: dict[str, Any] = {**({} if depth else stages), "num_classes": num_classes}
    if content.get("downsample_in_bottleneck", False) and kind == "bottleneck":
        arguments["stride_in"] = "1x1"
    if (stem := content.get("embedding_size", 64)) != _FILTERS[0]:
        arguments["stem_filters"] = stem
    if filters != tuple(_FILTERS[0] * 2**i for i in range(len(sizes))):
        arguments["stage_filters"] = filters
    names = tuple(labels[label] for label in sorted(labels))
    if is_imagenet(names):
        names = imagenet_names()
    if names == _numbered(len(names)) or len(names) != num_classes:
        names = ()
    preprocess = None if processor is None else read_processor(processor, content.get("num_channels", 3))
    multi_label = content.get("problem_type") == "multi_label_classification"
    base = f"resnet{depth}" if depth else "resnet50" if kind == "bottleneck" else "resnet18"
    return WeightsInfo(base, arguments, names, preprocess, multi_label=multi_label)


def read_processor(processor: Config, num_channels: int = 3) -> Preprocess | None:
    """Returns the preprocessing that a preprocessor_config.json says; None if it is of another kind than is done here,
    or for images of other channels.

    Images are Pillow's: the processors that resize tensors differ by a rounding.
    """
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")
    scales = processor.get("do_rescale", True) and math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255)
    is_conv_next = kind.startswith("ConvNext")
    if not scales or processor.get("do_pad") or not kind.startswith(("ConvNext", "Bit", "CLIP", "ViT")):
        return None
    normalizes = processor.get("do_normalize", True)
    mean = tuple(processor.get("image_mean") or IMAGENET_MEAN) if normalizes else (0.0,) * num_channels
    std = tuple(processor.get("image_std") or IMAGENET_STD) if normalizes else (1.0,) * num_channels
    if len(mean) != num_channels:
        return None
    size = processor.get("size")
    if isinstance(size, dict) and not {*size} <= {"shortest_edge", "height", "width"}:
        return None
    resample = _RESAMPLES[processor.get("resample", 2 if kind.startswith("ViT") else 3)]
    size = processor.get("size", _WHOLE_FROM if is_conv_next else 224)
    if is_conv_next:
        steps = _conv_next_steps(size, processor.get("crop_pct", 0.875)) if processor.get("do_resize", True) else None
        resize, crop, fit = steps or (None, None, "crop")
    else:
        squashes = "height" in size if isinstance(size, dict) else kind.startswith("ViT")
        resize, fit = _side(size), "squash" if squashes else "crop"
        crop = _side(processor.get("crop_size", 224)) if processor.get("do_center_crop", not squashes) else None
        if not processor.get("do_resize", True):
            resize, fit = None, "crop"
        if fit == "squash" and crop is None:
            resize, crop = None, resize
    return Preprocess(resize, crop, resample, mean, std, fit)


def _conv_next_steps(size: Any, share: float) -> tuple[Side | None, Side, str]:
    """Returns resize, crop and fit of ConvNeXt's processor."""
    side = size["shortest_edge"] if isinstance(size, dict) else size
    return (int(side / share), side, "crop") if side < _WHOLE_FROM else (None, side, "squash")


def _side(size: Any) -> Side:
    if isinstance(size, dict):
        return size["shortest_edge"] if "shortest_edge" in size else as_side(size["height"], size["width"])
    return size if isinstance(size, int) else as_side(*size)


def _numbered(count: int) -> tuple[str, ...]:
    """Returns the names that transformers gives to classes without any."""
    return tuple(f"LABEL_{label}" for label in range(count))


def write_transformers_config(model: "ResNet", info: WeightsInfo, num_channels: int) -> dict[str, Any]:
    """Returns the config by which transformers makes the model; it is for the caller to see whether it is the same
    network.
    """
    is_bottleneck = model.block_cls == "bottleneck"
    content: dict[str, Any] = {
        "architectures": ["ResNetModel" if model.num_classes is None else _CLASSIFIER],
        "model_type": "resnet",
        "num_channels": num_channels,
        "embedding_size": model.stem_features,
        "hidden_sizes": [filters * (4 if is_bottleneck else 1) for filters in model.filters_of_stages],
        "depths": list(model.stage_sizes),
        "layer_type": model.block_cls,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": is_bottleneck and model.stride_in == "1x1",
    }
    if model.num_classes is not None:
        names = info.class_names or _numbered(model.num_classes)
        content["id2label"] = {str(label): name for label, name in enumerate(names)}
        content["label2id"] = {name: label for label, name in enumerate(names)}
    if info.multi_label:
        content["problem_type"] = "multi_label_classification"
    return content


def write_processor(preprocess: Preprocess | None) -> dict[str, Any] | None:
    """Returns the content of preprocessor_config.json; None, with a warning, if transformers has no such processor."""
    if preprocess is None or preprocess.fit in ("pad", "border"):
        reason = "nothing tells how images are prepared" if preprocess is None else "transformers pads no images"
        logger.warning(f"{reason}: no preprocessor_config.json is written")
        return None
    resize, crop, squashes = preprocess.resize, preprocess.crop, preprocess.fit == "squash"
    size = resize or (crop if squashes else None)
    if size is not None and not squashes and isinstance(size, tuple):
        logger.warning(f"transformers has no shorter sides of {size}: no preprocessor_config.json is written")
        return None
    fields: dict[str, Any] = {
        "image_processor_type": _SQUASHING if squashes else _CROPPING,
        "do_resize": size is not None,
        "resample": int(RESAMPLING[preprocess.interpolation]),
        "do_center_crop": crop is not None and not (squashes and resize is None),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if size is not None:
        height, width = height_and_width(size)
        fields["size"] = {"height": height, "width": width} if squashes else {"shortest_edge": height}
    if fields["do_center_crop"] and crop is not None:
        height, width = height_and_width(crop)
        fields["crop_size"] = {"height": height, "width": width}
    return fields
