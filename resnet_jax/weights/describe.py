"""Finds which model weights are of: from the weights, from the run that trained them, and from the caller."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.checkpoint.weights_directory import find_checkpoint
from resnet_jax.data.transforms.preprocess import Preprocess, height_and_width
from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model
from resnet_jax.weights.formats.keras_published import published_weights
from resnet_jax.weights.infer_architecture import has_conv_bias
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.model_config import ModelConfigError
from resnet_jax.weights.nearest_network import describe_options
from resnet_jax.weights.open_weights import open_weights
from resnet_jax.weights.read_info import read_info
from resnet_jax.weights.state_dict import Choice, StateDict

logger = logging.getLogger(__name__)


def describe_weights(
    path: Path,
    name: str | None,
    arguments: Mapping[str, Any],
    which: str | None = None,
    *,
    average: bool = True,
    choice: Choice | None = None,
) -> tuple[StateDict, ResNet, WeightsInfo]:
    """Returns the weights at `path`, not read yet, their model, and the info on them.

    Biased convolutions are seen in the weights.

    Args:
      name: the model's, None if the weights name it.
      arguments: override the ones that the weights give.
      which, average, choice: of a run and of a file, as `open_weights` takes them.

    Raises:
      UserError: if neither the caller nor the weights name the model, or the names contradict.
    """
    try:
        info = told_info(path, which)
    except ModelConfigError as error:
        if name is None or not path.is_file():
            raise
        logger.warning(f"{error}; {path} is taken for {name} without it")
        info = WeightsInfo()
    state = open_weights(path, which, average=average, choice=choice)
    if name is None and info.model is None:
        likely = describe_options(state.shapes)
        advice = f"; it looks like {likely}" if likely else " (python -m resnet_jax list shows all)"
        raise UserError(f"{path} does not tell which model it is of: name it with --model{advice}")
    if name is not None and info.model not in (None, name):
        raise UserError(f"{path} is of the model {info.model!r}, not of {name!r} as asked for")
    name = name or info.model
    assert name is not None
    biases = {"conv_bias": True} if has_conv_bias(state.tensors) else {}
    model_args = {**biases, **state.arguments, **info.model_args, **arguments}
    model = create_model(name, **model_args)
    model_args["num_classes"] = model.num_classes
    names = info.class_names if len(info.class_names) == model.num_classes else ()
    of_keras = published_weights(path.name)
    if of_keras and state.bgr:
        info = dataclasses.replace(info, preprocess=of_keras.preprocess(bgr=True))
    return state, model, dataclasses.replace(info, model=name, model_args=model_args, class_names=names)


def told_info(path: Path, which: str | None = None) -> WeightsInfo:
    """Returns the info on the weights at `path`, from the run that trained them or from the weights; its fields may
    be empty.

    Args:
      which: of a run's folder, as `open_weights` takes it.
    """
    return _run_info(path, which) or read_info(path)


def _run_info(path: Path, which: str | None) -> WeightsInfo | None:
    """Returns the info of the run whose folder this is (or its checkpoints, its best, or one of their steps); None if
    there is no run.
    """
    if not path.is_dir():
        return None
    try:
        step = find_checkpoint(path, which)
    except UserError:
        return None
    if not step.name.isdecimal():
        return None
    manifest = read_manifest(step)
    position = manifest["position"]
    class_names = tuple(position["class_names"])
    mean, std = (np.asarray(position["normalization"][key]) for key in ("mean", "std"))
    per_channel = mean.ndim == std.ndim == 1  # a mean image belongs to images of one size, and to no Preprocess
    preprocess = Preprocess(None, None, "bilinear", tuple(mean.tolist()), tuple(std.tolist())) if per_channel else None
    if position["preprocess"]:
        preprocess = Preprocess.from_json(position["preprocess"])
    name, arguments = _trained_model(manifest)
    return WeightsInfo(
        model=name,
        model_args={**arguments, "num_classes": len(class_names)},
        class_names=class_names,
        preprocess=preprocess,
        source=str(step.absolute().parent.parent),
        multi_label=position.get("multi_label", False),  # of one label an image it is not written
        image_size=_image_size(manifest),
        exif_rotation=manifest.get("config", {}).get("exif_rotation", False),
    )


def _image_size(manifest: dict[str, Any]) -> tuple[int, int] | None:
    """Returns (height, width) of the images that the run's evaluation saw; of an older one what its config says."""
    size = manifest["position"].get("image_size") or manifest.get("config", {}).get("image_size")
    return height_and_width(tuple(size) if isinstance(size, list) else size) if size else None


def _trained_model(manifest: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the model's name and arguments that a run's manifest holds; of an older one, those that its config
    says.
    """
    if "model" in manifest:
        return manifest["model"]["name"], _with_tuples(manifest["model"]["arguments"])
    fields = manifest["config"]
    arguments = _with_tuples(fields["model_args"])
    if fields.get("finetune", {}).get("head") == "add":
        arguments.setdefault("base_classes", create_model(fields["model"]).num_classes)
    return fields["model"], arguments


def _with_tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
