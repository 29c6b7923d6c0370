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

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

Path = tuple[str, ...]  # the collection, the modules, the variable: ("params", "layer1", "0", "conv1", "kernel")
Rule = tuple[str, str]  # the module's name there, and here

TIMM_V2: tuple[Rule, ...] = (
    ("stem.conv", "conv1"),
    ("stem.conv1", "conv1.0"),
    ("stem.norm1", "conv1.1"),
    ("stem.conv2", "conv1.3"),
    ("stem.norm2", "conv1.4"),
    ("stem.conv3", "conv1.6"),
    ("stages.{s}.blocks.{b}.norm{k}", "layer{s+1}.{b}.bn{k}"),
    ("stages.{s}.blocks.{b}.conv{k}", "layer{s+1}.{b}.conv{k}"),
    ("stages.{s}.blocks.{b}.downsample.conv", "layer{s+1}.{b}.downsample.0"),
    ("norm", "norm"),
    ("head.fc", "fc"),
)
TRANSFORMERS: tuple[Rule, ...] = (
    ("resnet.embedder.embedder.convolution", "conv1"),
    ("resnet.embedder.embedder.normalization", "bn1"),
    ("resnet.encoder.stages.{s}.layers.{b}.layer.{k}.convolution", "layer{s+1}.{b}.conv{k+1}"),
    ("resnet.encoder.stages.{s}.layers.{b}.layer.{k}.normalization", "layer{s+1}.{b}.bn{k+1}"),
    ("resnet.encoder.stages.{s}.layers.{b}.shortcut.convolution", "layer{s+1}.{b}.downsample.0"),
    ("resnet.encoder.stages.{s}.layers.{b}.shortcut.normalization", "layer{s+1}.{b}.downsample.1"),
    ("classifier.1", "fc"),
)
TUTORIAL: tuple[Rule, ...] = (("layer{s}.{b}.shortcut.{k}", "layer{s}.{b}.downsample.{k}"),)
AKAMASTER: tuple[Rule, ...] = (*TUTORIAL, ("linear", "fc"))
# Tutorials that write conv, batch norm and ReLU as one nn.Sequential and count stages from zero.
SEQUENTIAL: tuple[Rule, ...] = (
    ("conv1.0", "conv1"),
    ("conv1.1", "bn1"),
    ("layer{s}.{b}.conv{k}.0", "layer{s+1}.{b}.conv{k}"),
    ("layer{s}.{b}.conv{k}.1", "layer{s+1}.{b}.bn{k}"),
    ("layer{s}.{b}.downsample.{k}", "layer{s+1}.{b}.downsample.{k}"),
)
# The Wide ResNets for CIFAR that most repositories have; understood, never written.
WIDE: tuple[Rule, ...] = (
    ("block{s}.layer.{b}.bn{k}", "layer{s}.{b}.bn{k}"),
    ("block{s}.layer.{b}.conv{k}", "layer{s}.{b}.conv{k}"),
    ("block{s}.layer.{b}.convShortcut", "layer{s}.{b}.downsample.0"),
    ("bn1", "norm"),
)
# More names that tutorials give to the same modules; understood, never written.
ALIASES: tuple[Rule, ...] = (
    *AKAMASTER,
    ("layer{s}.{b}.identity_downsample.{k}", "layer{s}.{b}.downsample.{k}"),
    ("layer{s}.{b}.downsample.conv", "layer{s}.{b}.downsample.0"),
    ("layer{s}.{b}.downsample.bn", "layer{s}.{b}.downsample.1"),
    ("classifier", "fc"),
)

LAYOUTS = ("torchvision", "timm", "transformers", "akamaster", "tutorial")
# The layers of a head; the last one that a model has is the one that gives its classes.
HEADS = (HEAD, TOP)

# torch's names of a module's variables, by ours; which of the two a "weight" is, its rank tells.
TORCH_LEAVES = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var",
    "v": "v", "tau": "tau",  # EvoNorm's and filter response norm's
}  # fmt: skip
# What a state_dict holds besides weights: counters of batch norm, and of torch's averaged models.
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


def recognize_layout(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Returns the layout of a state_dict with these names, and torchvision's name for each of them.

    A prefix that all share (`module.`, `_orig_mod.`, `model.`) is dropped; a name of no layout stays as it is.
    """
    names = list(names)
    prefix = _shared_prefix(names) or _prefix_of_stem(names)
    modules = {name: name.removeprefix(prefix) for name in names}
    layout, rules = _recognize(modules.values())
    if layout == "transformers":  # a headless network has no `resnet.` before its names
        modules = {name: f"resnet.{m}" if m.startswith(("embedder.", "encoder.")) else m for name, m in modules.items()}
    renamed = {name: _rename(module, rules) or module for name, module in modules.items()}
    if layout == "torchvision" and renamed != modules:
        layout = "akamaster" if any(module.startswith("linear.") for module in modules.values()) else "tutorial"
    return layout, renamed


def _recognize(names: Iterable[str]) -> tuple[str, tuple[Rule, ...]]:
    names = list(names)
    if any(".normalization." in name for name in names):
        return "transformers", TRANSFORMERS
    if any(re.match(r"stages\.\d+\.blocks\.", name) for name in names):
        return "timm", TIMM_V2
    if any(re.match(r"block\d+\.layer\.\d+\.", name) for name in names):
        return "tutorial", WIDE
    if any(re.match(r"layer\d+\.\d+\.conv\d+\.0\.", name) for name in names):
        from_zero = any(name.startswith("layer0.") for name in names)
        return "tutorial", SEQUENTIAL if from_zero else _from_one(SEQUENTIAL)
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
        there = _rename(here, inverse)
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


def _rename(name: str, rules: tuple[Rule, ...]) -> str | None:
    """Returns `name` by the first rule that fits its module; None if none does."""
    module, dot, leaf = name.rpartition(".")
    for pattern, replacement in rules:
        match = re.fullmatch(_NUMBER.sub(_capture, pattern.replace(".", r"\.")), module)
        if match is None:
            continue
        numbers = {field[1]: int(match[field[1]]) - bool(field[2]) for field in _NUMBER.finditer(pattern)}
        if min(numbers.values(), default=0) >= 0:
            return replacement.format_map(_Numbers(numbers)) + dot + leaf
    return None


_NUMBER = re.compile(r"\{(\w)(\+1)?\}")


class _Numbers(dict[str, int]):
    """What {x} and {x+1} stand for."""

    def __missing__(self, key: str) -> int:
        return self[key.removesuffix("+1")] + 1


def _capture(field: re.Match[str]) -> str:
    return rf"(?P<{field.group(1)}>0|[1-9]\d{{0,4}})"


def _from_one(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Returns the rules for a tutorial that counts its stages from one, as we do."""
    return tuple((there, here.replace("{s+1}", "{s}")) for there, here in rules)
