"""The arguments of a network, read off the names and shapes of its tensors."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

Shape = tuple[int, ...]


def architecture(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the arguments of `ResNet` that the tensors tell; empty if they are not a residual network's.

    What leaves no trace in them, such as the stride's place or a shortcut without parameters, is not among them.
    """
    blocks: dict[int, set[int]] = {}
    for name in shapes:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    first = "layer1.0"
    stem = next((shapes[name] for name in ("conv1.6.weight", "conv1.weight") if len(shapes.get(name, ())) == 4), None)
    inner = shapes.get(f"{first}.conv2.weight", ())
    outer = shapes.get(f"{first}.conv3.weight", inner)
    if stem is None or any(len(shape) != 4 or 0 in shape for shape in (inner, outer)) or 0 in stem:
        return {}
    if not _from(1, blocks) or not all(_from(0, numbers) for numbers in blocks.values()) or inner[0] % inner[1]:
        return {}
    bottleneck = f"{first}.conv3.weight" in shapes
    filters = outer[0] // 4 if bottleneck else inner[0]
    preact = "norm.weight" in shapes or "bn1.weight" not in shapes
    seen: dict[str, Any] = {
        "stage_sizes": tuple(max(blocks[stage]) + 1 for stage in sorted(blocks)),
        "block_cls": ("preact_" if preact else "") + ("bottleneck" if bottleneck else "basic"),
        "num_filters": stem[0],
        "widen_factor": max(filters // stem[0], 1),
        "stem": "deep" if "conv1.6.weight" in shapes else "imagenet" if stem[-1] == 7 else "cifar",
        "squeeze_excite": f"{first}.se.fc1.weight" in shapes,
        "shortcut": _shortcut(shapes),
        "conv_bias": has_conv_bias(shapes),
        "num_classes": (shapes.get("fc.weight") or (0,))[0] or None,
    }
    if bottleneck and filters:
        groups = inner[0] // inner[1]
        seen |= {"groups": groups, "width_per_group": 64 * inner[0] // (groups * filters)}
    return seen


def _from(start: int, numbers: Iterable[int]) -> bool:
    """Returns whether the numbers are those from `start` on, without a gap."""
    return sorted(numbers) == list(range(start, start + len(sorted(numbers))))


def has_conv_bias(names: Iterable[str]) -> bool:
    """Returns whether the convolutions, or some of them, have biases."""
    return not {"conv1.bias", "layer1.0.conv1.bias", "layer1.0.downsample.0.bias"}.isdisjoint(names)


def _shortcut(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the projection option, or None where no shortcut has parameters (A, or none at all)."""
    projections = {name.split(".downsample.")[0] for name in shapes if ".downsample." in name}
    if not projections:
        return None
    if any(".downsample.2." in name for name in shapes):
        return "D"
    return "C" if any(not block.endswith(".0") for block in projections) else "B"


def agrees(model: "ResNet", field: str, value: Any) -> bool:
    """Returns whether the model's argument is what `architecture` has seen, as far as tensors show it."""
    actual = getattr(model, field)
    if field == "shortcut" and value is None:
        return actual in ("A", "none")
    return value == actual
