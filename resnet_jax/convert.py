"""The convert command: weights from one file or checkpoint directory into another, with a report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.data.transforms import PREPROCESS, Preprocess
from resnet_jax.errors import UserError, choose
from resnet_jax.models import ResNet, create_model
from resnet_jax.weights.directory import check_replaceable, write_directory
from resnet_jax.weights.info import WeightsInfo, names_for, read_info
from resnet_jax.weights.likely import has_conv_bias
from resnet_jax.weights.load import import_weights, open_weights
from resnet_jax.weights.names import LAYOUTS
from resnet_jax.weights.save import SUFFIXES, TORCH_SUFFIXES, check_target, save_weights

# Endings of files that are something else; a name without one is a folder's.
OTHER_SUFFIXES = (".bin", ".ckpt", ".h5", ".keras", ".msgpack", ".npz", ".onnx", ".pkl", ".tar", ".zip")


def convert(
    source: Path,
    target: Path,
    *,
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    head: str = "strict",
    layout: str = "torchvision",
    preprocess: Preprocess | str | None = None,
) -> dict[str, Any]:
    """Writes the weights of `source` as `target` and returns the report on it, of plain values.

    target: a name ending in .safetensors, .pth, .pt or .th, in `layout`; any other is a checkpoint directory, in which
    weights.json tells the model, class names and preprocessing. So does the metadata of a .safetensors file; a torch
    file tells nothing. preprocess: a name in PREPROCESS; None keeps what is known of `source`.
    Raises UserError (a ValueError) before anything is written.
    """
    choose("layout", layout, LAYOUTS)
    if isinstance(preprocess, str):
        choose("preprocess", preprocess, PREPROCESS)
    to_file = target.suffix in SUFFIXES
    if target.suffix in OTHER_SUFFIXES:
        raise UserError(f"--to {target} must end in one of {', '.join(SUFFIXES)}, or be a folder")
    if to_file:
        check_target(target)
    else:
        check_replaceable(target)
    model, info = describe_weights(source, model_name, model_args or {})
    variables, report = import_weights(source, model, head)
    info = _prepared(info, model, preprocess, head)
    info = dataclasses.replace(info, source=source.name)
    if to_file:
        save_weights(target, model, variables, layout, info)
    else:
        write_directory(target, variables, info.to_json())
    kept = None if target.suffix in TORCH_SUFFIXES else info.preprocess  # a state_dict has no place for it
    return dataclasses.asdict(report) | {
        "to": str(target),
        "model": info.model,
        "model_args": info.model_args,
        "preprocess": kept.to_json() if kept else None,
    }


def describe_weights(path: Path, name: str | None, arguments: Mapping[str, Any]) -> tuple[ResNet, WeightsInfo]:
    """The model of the weights at `path`, and what is known of them.

    name: the model's, None if the weights tell it. arguments: over those that the weights tell. Biased convolutions
    are seen in the weights. Raises UserError (a ValueError) if the name is neither given nor told.
    """
    info = read_info(path)
    if name is None:
        if info.model is None:
            raise UserError(f"{path} does not tell which model it is of: name it with --model")
        name = info.model
    told = dict(info.model_args) if info.model == name else {}
    if has_conv_bias(open_weights(path).tensors):
        told["conv_bias"] = True
    model_args = {**told, **arguments}
    model = create_model(name, **model_args)
    model_args["num_classes"] = model.num_classes
    names = info.class_names if len(info.class_names) == model.num_classes else ()
    return model, dataclasses.replace(info, model=name, model_args=model_args, class_names=names)


def _prepared(info: WeightsInfo, model: ResNet, preprocess: Preprocess | str | None, head: str) -> WeightsInfo:
    """`info` with the preprocessing asked for, and class names that a new head has not made meaningless."""
    if head == "reset":
        info = dataclasses.replace(info, class_names=())
    if isinstance(preprocess, str):
        names = () if head == "reset" else names_for(preprocess, model.num_classes)
        return dataclasses.replace(info, preprocess=PREPROCESS[preprocess], class_names=info.class_names or names)
    return dataclasses.replace(info, preprocess=preprocess or info.preprocess)
