"""Writes a folder that timm or transformers loads: config.json beside model.safetensors, by the names of theirs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.weights_directory import check_replaceable, replacing_folder
from resnet_jax.errors import UserError
from resnet_jax.models.arguments import OF_TRAINING
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import num_input_channels
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.model_config import parse_model_config
from resnet_jax.weights.model_folder import CONFIG, PROCESSOR, WEIGHTS
from resnet_jax.weights.safetensors_file import write_safetensors
from resnet_jax.weights.save import state_dict_arrays
from resnet_jax.weights.timm_config import write_timm_config
from resnet_jax.weights.transformers_config import write_processor, write_transformers_config

FOLDER_LAYOUTS = ("timm", "transformers")
_FILES = (CONFIG, PROCESSOR, WEIGHTS[0])


def save_folder(path: Path, model: ResNet, variables: Mapping[str, Any], layout: str, info: WeightsInfo) -> None:
    """Writes the model as a folder that timm.create_model("local-dir:PATH", pretrained=True) or transformers'
    AutoModelForImageClassification.from_pretrained(PATH) loads; it appears at once when it is whole.

    Args:
      variables: of `model.init`.
      layout: "timm" or "transformers".
      info: whose model is the model's name, and whose class names and preprocessing travel along.

    Raises:
      UserError: for a network that the other cannot build, and for anything else at `path` than such a folder.
    """
    check_folder_target(path)
    num_channels = num_input_channels(model, variables)
    files: dict[str, Any] = {}
    if layout == "timm":
        files[CONFIG] = write_timm_config(model, info, num_channels)
    else:
        files[CONFIG] = write_transformers_config(model, info, num_channels)
        files[PROCESSOR] = write_processor(info.preprocess)
    _check_same(path, layout, model, files[CONFIG])
    tensors = state_dict_arrays(model, variables, layout)
    with replacing_folder(path) as new:
        for name, content in files.items():
            if content is not None:
                (new / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_safetensors(new / WEIGHTS[0], tensors, {"format": "pt"})


def check_folder_target(path: Path) -> None:
    """Raises UserError (a ValueError) if something other than such a folder is at `path`, or it cannot be made."""
    check_replaceable(path, _FILES)


def _check_same(path: Path, layout: str, model: ResNet, config: Mapping[str, Any]) -> None:
    """Raises UserError (a ValueError) unless the config says the same network again."""
    again = parse_model_config(str(path / CONFIG), config, None).create_model()
    if model.batch_norm == "folded":
        raise UserError("the batch norm of this network is folded into its convolutions: write the one with batch norm")
    ignored = {*OF_TRAINING, "parent", "name"} - {"num_classes", "base_classes", "output_stride"}
    names = [field.name for field in dataclasses.fields(model) if field.name not in ignored]
    differing = [name for name in names if getattr(again, name) != getattr(model, name)]
    if differing:
        values = ", ".join(f"{name}={getattr(model, name)!r}" for name in differing)
        raise UserError(f"{layout} has no such network ({values}): write a file, with layout='torchvision'")
