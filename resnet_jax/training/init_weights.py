"""Reads a model's initial variables for transfer learning from weights."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from resnet_jax.data.options import ImageOptions
from resnet_jax.distributed.processes import warn
from resnet_jax.errors import UserError
from resnet_jax.models.arguments import OF_TRAINING
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.class_names import same_classes
from resnet_jax.weights.describe import describe_weights, told_info
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.load import import_state_dict
from resnet_jax.weights.names import HEADS, torch_arrays
from resnet_jax.weights.pretrained import find_weights

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Options

logger = logging.getLogger(__name__)

Variables = dict[str, Any]
NEAR = 2e-3  # so far recipes round the same mean and std


def load_initial(options: "Options", model: ResNet, class_names: tuple[str, ...]) -> Variables | None:
    """Returns the variables of config.finetune.weights for `model`, in host memory; None if the run begins from
    scratch.

    The last layer is drawn with key 0 unless config.finetune.head is "keep".

    Args:
      class_names: of the images to be trained on.

    Raises:
      UserError: for weights that cannot be read, or are of another network than the config's. Warns if their images
        were normalised otherwise.
    """
    finetune, model_name = options.finetune, options.model.model
    if not finetune.weights:
        return None
    path, head = find_weights(finetune.weights, model_name), finetune.head
    told = told_info(path)
    weights, theirs, _ = describe_weights(path, model_name, {})
    if weights.taken is not None and jax.process_index() == 0:
        logger.info(f"beginning from {path}: {weights.taken}")
    _check_network(path, told, theirs, model, weights.arguments)
    _check_head(path, head, weights.shapes, model)
    if head == "keep" and told.class_names and not same_classes(told.class_names, class_names):
        raise UserError(
            f"config.finetune.head='keep' needs the classes of {path} in its order ({', '.join(told.class_names[:3])} "
            f"…), and the images have {', '.join(class_names[:3])} …: use replace or add"
        )
    _check_normalization(path, told, options.images)
    variables, report = import_state_dict(
        path, weights, model, "strict" if head == "keep" else "reset", options.images.channels, adapt_stem=True
    )
    if report.adapted:
        warn(report.adapted)
    variables = jax.tree.map(np.asarray, variables)
    for name, array in torch_arrays(variables).items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is not finite: no run can begin from these weights")
    return variables


def _check_normalization(path: Path, told: WeightsInfo, images: ImageOptions) -> None:
    """Warns if the images of the weights were normalised otherwise than the run's."""
    if told.preprocess is None or told.preprocess.num_channels != images.channels:
        return
    theirs, ours = (told.preprocess.mean, told.preprocess.std), images.statistics()
    if images.normalize != "channel" or not np.allclose(theirs, ours, atol=NEAR):
        warn(
            f"the images of {path} were normalised with mean {told.preprocess.mean} and std {told.preprocess.std}, "
            f"those of this run with config.normalize={images.normalize!r}, config.mean={images.mean} and "
            f"config.std={images.std}"
        )


def _check_network(path: Path, told: WeightsInfo, theirs: ResNet, ours: ResNet, known: Mapping[str, object]) -> None:
    """known: arguments that all networks of the file's layout have."""
    fields = [field.name for field in dataclasses.fields(ResNet)] if told.model else [*told.model_args, *known]
    fields = [name for name in fields if name not in (*OF_TRAINING, "parent", "name")]
    differing = {name: getattr(theirs, name) for name in fields if getattr(theirs, name) != getattr(ours, name)}
    if theirs.conv_bias != ours.conv_bias:  # seen in the weights, whatever they say
        differing["conv_bias"] = theirs.conv_bias
    if differing:
        options = " ".join(f"--config.model_args.{name}={value!r}" for name, value in differing.items())
        raise UserError(f"{path} is of another network than the config's: set {options}")


def _check_head(path: Path, head: str, shapes: Mapping[str, tuple[int, ...]], model: ResNet) -> None:
    """shapes: of the weights' tensors."""
    there = [shapes[f"{name}.weight"][0] for name in HEADS if f"{name}.weight" in shapes]  # outputs of each layer
    num_classes, base_classes = there[-1] if there else 0, there[0] if len(there) == 2 else None
    if head == "keep" and base_classes != model.base_classes:
        advice = f"set --config.model_args.base_classes={base_classes}" if base_classes else "leave out base_classes"
        raise UserError(
            f"config.finetune.head='keep' keeps a layer on top of {model.base_classes} outputs, and {path} has one on "
            f"top of {base_classes}: {advice}"
        )
    if head == "keep" and num_classes != model.num_classes:
        raise UserError(
            f"config.finetune.head='keep' needs weights of {model.num_classes} classes, as the images have, and {path} "
            f"has {num_classes}: use replace or add"
        )
    if head == "add" and base_classes is not None:
        raise UserError(f"{path} has a layer on top of its head already: use config.finetune.head=keep, or replace")
    if head == "add" and num_classes != model.base_classes:
        advice = f"set --config.model_args.base_classes={num_classes}" if num_classes else "use replace"
        raise UserError(
            f"config.finetune.head='add' takes a head of {model.base_classes} classes and {path} has {num_classes}: "
            f"{advice}"
        )
