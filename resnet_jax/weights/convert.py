"""The convert command: weights from one file or checkpoint directory into another, with a report."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.weights_directory import check_replaceable, write_directory
from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import PREPROCESS, Preprocess
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.class_names import named_for
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.load import import_state_dict
from resnet_jax.weights.model_folder import hub_name
from resnet_jax.weights.names import LAYOUTS
from resnet_jax.weights.save import SUFFIXES, TORCH_SUFFIXES, check_target, save_weights
from resnet_jax.weights.save_folder import FOLDER_LAYOUTS, check_folder_target, save_folder
from resnet_jax.weights.state_dict import Choice

# What ends a folder's name, if anything does: a version.
FOLDER_SUFFIX = re.compile(r"(\.\d.*)?")


def convert(
    source: Path,
    target: Path,
    *,
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    head: str = "strict",
    layout: str = "torchvision",
    preprocess: Preprocess | str | None = None,
    adjustment: Adjustment | None = None,
    which: str | None = None,
    average: bool = True,
    choice: Choice | None = None,
) -> dict[str, Any]:
    """Writes the weights of `source` as `target` and returns the report on it, of plain values.

    Args:
      target: a name ending in .safetensors, .pth, .pt or .th, in `layout`. Any other is a folder: of the layouts timm
        and transformers one that they load, with their config.json; else a checkpoint directory, in which weights.json
        holds the model, class names and preprocessing. So does the metadata of a .safetensors file; a torch file
        holds none of these.
      preprocess: or its name in PREPROCESS; None keeps the info of `source`.
      adjustment: of either, by hand; with mean and std it is enough where nothing is known.
      which: of a run's folder the "newest" checkpoint, as None, or the "best".
      average: take the moving average of the weights, if it keeps one.
      choice: which network of a file is meant.

    Raises:
      UserError: before anything is written.
    """
    check_choice("layout", layout, LAYOUTS)
    if isinstance(preprocess, str):
        check_choice("preprocess", preprocess, PREPROCESS)
    if target.suffix in TORCH_SUFFIXES and (preprocess is not None or adjustment):
        raise UserError(f"{target} holds weights alone, no preprocessing: write a .safetensors file or a folder")
    to_file = target.suffix in SUFFIXES
    if to_file:
        check_target(target)
    elif not FOLDER_SUFFIX.fullmatch(target.suffix):
        raise UserError(f"{target} must end in one of {', '.join(SUFFIXES)}, or be the name of a folder")
    elif layout in FOLDER_LAYOUTS:
        check_folder_target(target)
    else:
        _check_plain(target, layout)
        check_replaceable(target)
    state, model, info = describe_weights(source, model_name, model_args or {}, which, average=average, choice=choice)
    variables, report = import_state_dict(source, state, model, head)
    info = _prepared(source, info, model, preprocess, head)
    if adjustment:
        info = dataclasses.replace(info, preprocess=adjustment.prepare(source, info.preprocess))
    if info.preprocess is not None and info.preprocess.num_channels != report.num_channels:
        raise UserError(
            f"{source} is of a network for images of {report.num_channels} channels, and mean={info.preprocess.mean} "
            f"is of {info.preprocess.num_channels}: give {report.num_channels} numbers"
        )
    info = dataclasses.replace(info, source=hub_name(source) or source.name)
    if to_file:
        save_weights(target, model, variables, layout, info)
    elif layout in FOLDER_LAYOUTS:
        save_folder(target, model, variables, layout, info)
    else:
        write_directory(target, variables, info.to_json())
    kept = None if target.suffix in TORCH_SUFFIXES else info.preprocess  # a state_dict has no place for it
    return dataclasses.asdict(report) | {
        **(dataclasses.asdict(state.taken) if state.taken else {}),
        "to": str(target),
        "model": info.model,
        "model_args": info.model_args,
        "preprocess": kept.to_json() if kept else None,
    }


def _check_plain(target: Path, layout: str) -> None:
    if layout != "torchvision":
        raise UserError(f"layout={layout!r} is of a file: end {target} in one of {', '.join(SUFFIXES)}")


def _prepared(
    source: Path, info: WeightsInfo, model: ResNet, preprocess: Preprocess | str | None, head: str
) -> WeightsInfo:
    """Returns `info` with the preprocessing asked for, and class names that a new head has not made meaningless."""
    if head == "reset":
        info = dataclasses.replace(info, class_names=(), multi_label=False)
    if isinstance(preprocess, str):
        names = info.class_names
        if not names and head != "reset":
            names = named_for(source, preprocess, model.num_classes)
        return dataclasses.replace(info, preprocess=PREPROCESS[preprocess], class_names=names)
    return dataclasses.replace(info, preprocess=preprocess or info.preprocess)
