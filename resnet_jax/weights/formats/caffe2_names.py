"""Names of Caffe2's blobs, which Detectron's and MSRA's ResNets have: "res2_0_branch2a_w"."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from resnet_jax.weights.formats.named_tensors import NamedTensors
from resnet_jax.weights.lazy_tensor import ArrayTensor, Unreadable

_BLOB = re.compile(r"res(\d{1,2})_(\d{1,3})_branch(1|2[abc])_(bn_|gn_)?(\w+)")
_STEM = re.compile(r"(?:res_)?conv1_(bn_|gn_)?(\w+)")
_HEAD = re.compile(r"(?:pred|fc1000)_([wb])")
# Of a convolution, and of a norm.
_OF_CONVOLUTION = {"w": "weight", "b": "bias"}
_OF_NORM = {
    "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias",
    "rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_PARTS = {"2a": "1", "2b": "2", "2c": "3"}
# Where a norm has been made an affine map, these statistics leave it one: (x - 0) / sqrt(1 - epsilon + epsilon).
NORM_EPSILON = 1e-5
NOTE = (
    "networks of Caffe2 take blue first (bgr=True, convert --bgr), and MSRA's have their stride in the first 1x1 "
    "convolution (stride_in='1x1'): no tensor shows either"
)
_AFFINE = ("_bn_s", "_bn_gamma")
_OF_NETWORK = re.compile(r"res\d|conv1_")
# What training leaves beside the weights.
_COUNTERS = ("_momentum",)


def is_caffe2(names: Iterable[str]) -> bool:
    """Returns whether these are names of blobs of a ResNet."""
    return any(_BLOB.fullmatch(name) for name in names)


def name_blobs(blobs: Mapping[str, Any]) -> NamedTensors:
    """Returns the blobs by torchvision's names, in whose order of axes they are.

    Norms without statistics get those that make them the affine map that they are there.

    Raises:
      ValueError: if two have the same name.
    """
    tensors: dict[str, Any] = {}
    originals: dict[str, str] = {}
    left: list[str] = []
    for name, blob in blobs.items():
        if name.endswith(_COUNTERS) or isinstance(blob, str | bytes | int | float):
            continue
        here = blob_name(name) or name
        if here == name and not _OF_NETWORK.match(name):
            left.append(name)
            continue
        if here in tensors:
            raise ValueError(f"it holds {here} as {originals[here]} and as {name}")
        tensors[here], originals[here] = blob, name
    for name in [*tensors]:
        if originals[name].endswith(_AFFINE):
            _add_statistics(name.rpartition(".")[0], tensors, originals)
    return NamedTensors(tensors, originals, "caffe2", left=tuple(left), note=NOTE)


def _add_statistics(module: str, tensors: dict[str, Any], originals: dict[str, str]) -> None:
    """Adds the statistics of a norm that has none, next to its scale."""
    scale = tensors[f"{module}.weight"]
    if f"{module}.running_var" in tensors or isinstance(scale, Unreadable):
        return
    for leaf, value in (("running_mean", 0.0), ("running_var", 1.0 - NORM_EPSILON)):
        tensors[f"{module}.{leaf}"] = ArrayTensor(np.full(scale.shape, value))
        originals[f"{module}.{leaf}"] = originals[f"{module}.weight"]


def blob_name(name: str) -> str | None:
    """Returns torchvision's name of a blob: "res2_0_branch2a_bn_s" is "layer1.0.bn1.weight"; None if there is none."""
    if match := _HEAD.fullmatch(name):
        return f"fc.{_OF_CONVOLUTION[match[1]]}"
    if match := _BLOB.fullmatch(name):
        stage, block, branch, norm, leaf = match.groups()
        if branch == "1":
            module = f"downsample.{int(norm is not None)}"
        else:
            module = f"{'bn' if norm else 'conv'}{_PARTS[branch]}"
        module = f"layer{int(stage) - 1}.{int(block)}.{module}"
    elif match := _STEM.fullmatch(name):
        norm, leaf = match.groups()
        module = "bn1" if norm else "conv1"
    else:
        return None
    leaf = (_OF_NORM if norm else _OF_CONVOLUTION).get(leaf, "")
    return f"{module}.{leaf}" if leaf else None
