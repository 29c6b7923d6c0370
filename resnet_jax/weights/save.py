"""A model's variables as a weights file, in the names and shapes that another framework expects."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UserError, check_choice
from resnet_jax.filesystem import atomic_write, check_parents, expand
from resnet_jax.models.head_names import HEAD
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import num_input_channels, variable_shapes
from resnet_jax.weights.infer_architecture import TRACELESS
from resnet_jax.weights.info import METADATA_KEY, WeightsInfo
from resnet_jax.weights.names import LAYOUTS, layout_names, torch_arrays
from resnet_jax.weights.safetensors_file import write_safetensors

logger = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pth", ".pt", ".th")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)


def save_weights(
    path: str | Path,
    model: ResNet,
    variables: Mapping[str, Any],
    layout: str = "torchvision",
    info: WeightsInfo | None = None,
) -> None:
    """Writes the model's variables as a state_dict to `path`, which it replaces at once when the file is complete.

    Args:
      variables: of `model.init` for images of any number of channels.
      path: ends in .safetensors, or, if torch is installed, in .pth, .pt or .th.
      layout: whose names: "torchvision" (timm's as well, but for pre-activation networks), "timm", "transformers",
        "akamaster" (CIFAR; the head is `linear`) or "tutorial" (`shortcut` for `downsample`). Counters of batches are
        written as 0.
      info: written into a .safetensors file's metadata, so that its preprocessing and class names travel with it.

    Raises:
      UserError: if the ending is another, the variables are not the model's, the layout has no names for such a
        network, or the disk is full.
    """
    path = expand(path)
    check_target(path)
    tensors = state_dict_arrays(model, variables, layout)
    if (info is None or path.suffix in TORCH_SUFFIXES) and (line := _untold(path, model)):
        logger.warning(line)
    if path.suffix == ".safetensors":
        metadata = {"format": "pt", **({METADATA_KEY: info.to_json()} if info else {})}
        write_safetensors(path, tensors, metadata)
    else:
        _write_torch(path, tensors)


def _untold(path: Path, model: ResNet) -> str:
    """Returns a line that says what of the network torch's names and shapes do not show, where it is not what
    torchvision computes; empty if there is nothing.
    """
    usual = {field.name: field.default for field in dataclasses.fields(ResNet)}
    told = {name: value for name in TRACELESS if (value := getattr(model, name)) not in (usual[name], "conv")}
    if model.shortcut == "A_end":
        told["shortcut"] = model.shortcut
    if model.stem == "cifar_pooled":
        told["stem"] = model.stem
    call = ", ".join(f"{name}={value!r}" for name, value in told.items())
    return f"{path} does not show that its network has {call}: torch needs a network that computes so" if told else ""


def check_target(path: Path) -> None:
    """Raises UserError (a ValueError) if `path` cannot be a weights file here."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another name")
    check_parents(path)
    if path.suffix in TORCH_SUFFIXES:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise UserError(
                f"{path} cannot be written: {path.suffix} needs torch (pip install torch), .safetensors needs nothing"
            ) from None


def state_dict_arrays(model: ResNet, variables: Mapping[str, Any], layout: str) -> dict[str, np.ndarray]:
    """Returns the state_dict of `save_weights`: arrays in torch's order by the layout's names, counters included."""
    check_choice("layout", layout, LAYOUTS)
    shapes = variable_shapes(model, num_input_channels(model, variables))
    expected, actual = (jax.tree.map(np.shape, dict(tree)) for tree in (shapes, variables))
    if expected != actual:
        raise UserError("the variables are not this model's: their names or shapes differ from those of model.init")
    arrays = torch_arrays(variables)
    if layout == "timm" and model.preact and model.num_classes is not None:
        arrays[f"{HEAD}.weight"] = arrays[f"{HEAD}.weight"][:, :, None, None]  # timm's head is a 1x1 convolution
    counters = [f"{name.removesuffix('running_var')}num_batches_tracked" for name in arrays if "running_var" in name]
    arrays.update(dict.fromkeys(counters, np.zeros((), np.int64)))
    return {there: arrays[here] for here, there in layout_names(layout, model, arrays).items()}


def _write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import torch

    # A copy: torch takes no read-only memory.
    tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
    with atomic_write(path) as file:
        torch.save(tensors, file)
