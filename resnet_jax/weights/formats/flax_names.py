"""Names in trees of Flax: our own, transformers', and the names of the ResNet in Flax's ImageNet example."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resnet_jax.weights.formats.named_tensors import NamedTensors, any_match, translate

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Under which names scripts put the variables beside other things.
WRAPPERS = ("model", "state", "target", "train_state", "variables", "params")
COLLECTIONS = ("params", "batch_stats")
# The example pads convolutions at stride 2, and its max-pool, as TensorFlow does.
EXAMPLE_ARGUMENTS = {"stride_padding": "same"}
_EXAMPLE = re.compile(r"params/(conv_init|(Bottleneck)?ResNetBlock_\d+)/")
_EXAMPLE_BLOCK = re.compile(r"(?:Bottleneck)?ResNetBlock_(\d{1,4})/(?:(Conv|BatchNorm)_(\d)|(conv|norm)_proj)")
PROJECTION = {"conv": "downsample.0", "norm": "downsample.1"}
_EXAMPLE_MODULES = {"conv_init": "conv1", "bn_init": "bn1", "Dense_0": "fc"}


def name_variables(tree: Any) -> NamedTensors:
    """Returns the arrays of a tree of Flax's by torch's names: transformers' as transformers has them there.

    Args:
      tree: variables {"params": ..., "batch_stats": ...}, the parameters alone, or what has them in it.

    Raises:
      ValueError: if two arrays have the same name.
    """
    entries = dict(_flatten(_variables(tree)))
    if any_match(entries, _EXAMPLE):
        return translate(entries, _example_rename(entries), "flax", EXAMPLE_ARGUMENTS)
    return translate(entries, _torch_name, "", {})


def _variables(tree: Any) -> dict[str, Any]:
    """Returns the collections, however they are wrapped."""
    found: dict[str, Any] = {}
    for _ in range(len(WRAPPERS)):
        if not isinstance(tree, dict):
            break
        found |= {name: tree[name] for name in COLLECTIONS if isinstance(tree.get(name), dict)}
        inner = next((tree[name] for name in WRAPPERS if isinstance(tree.get(name), dict)), None)
        if inner is None or not any(isinstance(inner.get(name), dict) for name in (*COLLECTIONS, *WRAPPERS)):
            break
        tree = inner
    return found or ({"params": tree} if isinstance(tree, dict) else {})


def _flatten(tree: Mapping[Any, Any], above: tuple[str, ...] = ()) -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        path = (*above, str(name))
        if isinstance(value, dict):
            yield from _flatten(value, path)
        elif value is not None:
            yield "/".join(path), value


def _torch_name(name: str) -> str | None:
    """Returns "params/layer1/0/conv1/kernel" as "layer1.0.conv1.weight"; None if it is of no known kind."""
    _, *modules, leaf = name.split("/")
    # A list of modules is numbered so: layer/layer_0.
    modules = [re.sub(r"^layer_(\d+)$", r"\1", module) for module in modules]
    return ".".join((*modules, LEAVES.get(leaf, leaf))) if modules else None


def _example_rename(names: Iterable[str]) -> Callable[[str], str | None]:
    """Returns the function from the example's names, whose blocks are counted through all stages, to torchvision's.

    From the second stage on, the first block is the one with a projection.
    """
    blocks: dict[int, bool] = {}
    for name in names:
        if match := _EXAMPLE_BLOCK.match(name.partition("/")[2]):
            blocks[int(match[1])] = blocks.get(int(match[1]), False) or match[4] is not None
    places: dict[int, tuple[int, int]] = {}
    stage, place = 1, -1
    for block, projects in sorted(blocks.items()):
        stage, place = (stage + 1, 0) if projects and places else (stage, place + 1)
        places[block] = stage, place

    def rename(name: str) -> str | None:
        module, _, leaf = name.partition("/")[2].rpartition("/")
        here = _EXAMPLE_MODULES.get(module)
        if match := _EXAMPLE_BLOCK.fullmatch(module):
            block, kind, k, projection = match.groups()
            stage, place = places[int(block)]
            part = f"{'conv' if kind == 'Conv' else 'bn'}{int(k) + 1}" if kind else PROJECTION[projection]
            here = f"layer{stage}.{place}.{part}"
        return f"{here}.{LEAVES[leaf]}" if here and leaf in LEAVES else None

    return rename
