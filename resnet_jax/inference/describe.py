"""What weights are of: told by themselves, by the run that trained them, and by whoever asks."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.checkpoint.weights_directory import find_checkpoint
from resnet_jax.config import config_from_dict
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.models import ResNet, create_model
from resnet_jax.training.finetuning import finetune_arguments
from resnet_jax.training.workdir import CONFIG_FILE, read_config
from resnet_jax.weights.infer_architecture import describe_options, has_conv_bias
from resnet_jax.weights.info import WeightsInfo, read_info
from resnet_jax.weights.load import open_weights
from resnet_jax.weights.state_dict import StateDict


def describe_weights(
    path: Path, name: str | None, arguments: Mapping[str, Any], which: str | None = None, *, average: bool = True
) -> tuple[StateDict, ResNet, WeightsInfo]:
    """The weights at `path`, not read yet, their model, and what else is known of them.

    name: the model's, None if the weights tell it. arguments: over those that the weights tell. which, average: of a
    run, as `open_weights` takes them. Biased convolutions are seen in the weights. Raises UserError (a ValueError) if
    the name is neither given nor told, or contradicts.
    """
    info = told_info(path)
    state = open_weights(path, which, average=average)
    if name is None and info.model is None:
        likely = describe_options(state.shapes)
        advice = f"; it looks like {likely}" if likely else " (python -m resnet_jax list shows all)"
        raise UserError(f"{path} does not tell which model it is of: name it with --model{advice}")
    if name is not None and info.model not in (None, name):
        raise UserError(f"{path} is of the model {info.model!r}, not of {name!r} as asked for")
    name = name or info.model
    assert name is not None
    biases = {"conv_bias": True} if has_conv_bias(state.tensors) else {}
    model_args = {**biases, **info.model_args, **arguments}
    model = create_model(name, **model_args)
    model_args["num_classes"] = model.num_classes
    names = info.class_names if len(info.class_names) == model.num_classes else ()
    return state, model, dataclasses.replace(info, model=name, model_args=model_args, class_names=names)


def told_info(path: Path) -> WeightsInfo:
    """What is told of the weights at `path`, by the run that trained them or by themselves; its fields may be empty."""
    return _run_info(path) or read_info(path)


def _run_info(path: Path) -> WeightsInfo | None:
    """What the run tells whose folder this is, or its checkpoints, its best, or one of their steps; None if none."""
    if not path.is_dir():
        return None
    workdir = next((folder for folder in (path, *path.absolute().parents[:2]) if (folder / CONFIG_FILE).exists()), None)
    if workdir is None or not (step := find_checkpoint(path)).name.isdecimal():
        return None
    config = config_from_dict(read_config(workdir))
    position = read_manifest(step)["position"]
    class_names = tuple(position["class_names"])
    mean, std = (np.asarray(position["normalization"][key]) for key in ("mean", "std"))
    per_channel = mean.ndim == std.ndim == 1  # a mean image belongs to images of one size, and to no Preprocess
    preprocess = Preprocess(None, None, "bilinear", tuple(mean.tolist()), tuple(std.tolist())) if per_channel else None
    if position["preprocess"]:
        preprocess = Preprocess.from_json(position["preprocess"])
    arguments = finetune_arguments(config)
    del arguments["trainable"]  # that was how they were trained
    return WeightsInfo(
        model=config.model,
        model_args={**config.model_args.to_dict(), **arguments, "num_classes": len(class_names)},
        class_names=class_names,
        preprocess=preprocess,
        source=str(workdir),
    )
