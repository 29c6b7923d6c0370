"""The names that frameworks give a network's tensors, as a rule in both directions.

Ours are torchvision's: the path of a Linen module is the name in torch's state_dict. The other layouts are tables of
module names, in which {x} stands for a number and {x+1} for the same number counted from one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.errors import UserError
from resnet_jax.models.head_names import HEAD, TOP
from resnet_jax.weights.layouts import (
    AKAMASTER,
    ALIASES,
    OTHERS,
    SEQUENTIAL,
    TIMM_V2,
    TRANSFORMERS,
    TUTORIAL,
    WIDE,
    Rule,
    from_one,
    rename,
)  # fmt: skip

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

Path = tuple[str, ...]  # the collection, the modules, the variable: ("params", "layer1", "0", "conv1", "kernel")

LAYOUTS = ("torchvision", "timm", "transformers", "akamaster", "tutorial")
# The layers of a head; the last one that a model has is the one that gives its classes.
HEADS = (HEAD, TOP)

# torch's names of a module's variables, by ours; the rank of a "weight" decides which of the two it is.
TORCH_LEAVES = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var",
    "v": "v", "tau": "tau",  # EvoNorm's and filter response norm's
}  # fmt: skip
# Entries of a state_dict besides weights: counters of batch norm, and of torch's averaged models.
COUNTERS = ("num_batches_tracked", "n_averaged")


def torch_name(path: Path) -> str:
    """Returns torchvision's name of a variable: ("params", "fc", "kernel") -> "fc.weight"."""
    _, *modules, leaf = path
    return ".".join((*modules, TORCH_LEAVES[leaf]))


def torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the axes of one of our arrays in torch's order: HWIO -> OIHW, WIO -> OIW, (in, out) -> (out, in)."""
    return {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def jax_axes(ndim: int) -> tuple[int, ...]:
    """Returns the axes of one of torch's arrays in our order: OIHW -> HWIO, OIW -> WIO, (out, in) -> (in, out)."""
    return {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def torch_shapes(variables: Mapping[str, Any]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Returns for each variable by torchvision's name its path and its shape in torch's order."""
    return {
        torch_name(path): (path, tuple(leaf.shape[axis] for axis in torch_axes(leaf.ndim)))
        for path, leaf in _flat(variables).items()
    }


def torch_arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the variables as torchvision's state_dict: arrays in torch's order, of which none is copied."""
    flat = {path: np.asarray(leaf) for path, leaf in _flat(variables).items()}
    return {torch_name(path): array.transpose(torch_axes(array.ndim)) for path, array in flat.items()}


def _flat(variables: Mapping[str, Any]) -> dict[Path, Any]:
    """Returns the variables by path, the parameters before the statistics."""
    flat = flatten_dict(dict(variables))
    return dict(sorted(flat.items(), key=lambda item: item[0][0] != "params"))


def recognize_layout(names: Iterable[str], *, has_prefix: bool = True) -> tuple[str, dict[str, str]]:
    """Returns the layout of a state_dict with these names, and torchvision's name for each of them.

    A prefix that all share (`module.`, `_orig_mod.`, `model.`) is dropped; a name of no layout stays as it is.
    """
    names = list(names)
    prefix = (_shared_prefix(names) or _prefix_of_stem(names)) if has_prefix else ""
    modules = {name: name.removeprefix(prefix) for name in names}
    layout, rules = _recognize(modules.values())
    if layout == "transformers":  # a headless network has no `resnet.` before its names
        modules = {name: f"resnet.{m}" if m.startswith(("embedder.", "encoder.")) else m for name, m in modules.items()}
    renamed = {name: rename(module, rules) or module for name, module in modules.items()}
    renamed = _behind_pooling(renamed)
    if layout == "torchvision" and renamed != modules:
        layout = "akamaster" if any(module.startswith("linear.") for module in modules.values()) else "tutorial"
    return layout, renamed


_PROJECTION_NORM = re.compile(r"(layer\d+\.\d+\.downsample\.)([12])\.running_mean")


def _behind_pooling(names: Mapping[str, str]) -> dict[str, str]:
    """Returns torchvision's names, with all projections counted behind a pooling if some of them are.

    OpenMMLab's ResNet-D pools only where a block strides: its other projections begin with the convolution.
    """
    found = filter(None, map(_PROJECTION_NORM.fullmatch, names.values()))
    places = {match[1]: match[2] for match in found}
    if {*places.values()} != {"1", "2"}:
        return dict(names)
    moved = {f"{module}{k}.": f"{module}{k + 1}." for module, place in places.items() if place == "1" for k in (0, 1)}
    parts = {there: name.rpartition(".") for there, name in names.items()}
    return {there: moved.get(f"{module}.", f"{module}{dot}") + leaf for there, (module, dot, leaf) in parts.items()}


def _recognize(names: Iterable[str]) -> tuple[str, tuple[Rule, ...]]:
    names = list(names)
    if any(".normalization." in name for name in names):
        return "transformers", TRANSFORMERS
    if any(re.match(r"stages\.\d+\.blocks\.", name) for name in names):
        return "timm", TIMM_V2
    if any(re.match(r"block\d+\.layer\.\d+\.", name) for name in names):
        return "tutorial", WIDE
    for pattern, rules in OTHERS:
        if any(pattern.match(name) for name in names):
            return "tutorial", rules
    if any(re.match(r"layer\d+\.\d+\.conv\d+\.0\.", name) for name in names):
        from_zero = any(name.startswith("layer0.") for name in names)
        return "tutorial", SEQUENTIAL if from_zero else from_one(SEQUENTIAL)
    return "torchvision", ALIASES


def layout_names(layout: str, model: "ResNet", names: Iterable[str]) -> dict[str, str]:
    """Returns the layout's name for each of torchvision's `names` of this model.

    Raises:
      UserError: if the layout has no names for such a network.
    """
    rules: dict[str, tuple[Rule, ...]] = {
        "torchvision": (),
        "timm": TIMM_V2 if model.preact else (),
        "transformers": TRANSFORMERS,
        "akamaster": AKAMASTER,
        "tutorial": TUTORIAL,
    }
    inverse = tuple((here, there) for there, here in rules[layout])
    complete = layout == "transformers" or (layout == "timm" and model.preact)  # its rules name all that it has
    renamed = {}
    for here in names:
        there = rename(here, inverse)
        if there is None and complete:
            raise UserError(f"layout={layout!r} has no name for {here}; use layout='torchvision'")
        renamed[here] = there or here
    if layout == "transformers" and model.num_classes is None:  # its ResNetModel, which the classifier calls `resnet`
        return {here: there.removeprefix("resnet.") for here, there in renamed.items()}
    return renamed


def _shared_prefix(names: list[str]) -> str:
    """Returns the leading modules that all names share, names without a module left aside."""
    inner = [name.split(".") for name in names if "." in name]
    prefix: list[str] = []
    while inner and all(len(parts) > len(prefix) + 2 for parts in inner):
        heads = {parts[len(prefix)] for parts in inner}
        if len(heads) > 1:
            break
        prefix.append(heads.pop())
    return "".join(f"{part}." for part in prefix)


def _prefix_of_stem(names: list[str]) -> str:
    """Returns what stands before the stem's name where other things, such as a loss's weights, lie beside the
    network.
    """
    stems = [name.removesuffix("conv1.weight") for name in names if name.endswith(".conv1.weight")]
    return min(stems, key=len, default="") if not any(name.startswith(("conv1.", "stem.")) for name in names) else ""
