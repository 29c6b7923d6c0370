"""The arguments of a network, read off the names and shapes of its tensors."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.models.attention import squeezed_channels

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

Shape = tuple[int, ...]
# Arguments of which names and shapes show nothing, or not everything.
TRACELESS = (
    "stride_in",
    "strided_block",
    "stride_padding",
    "anti_alias",
    "activation",
    "stem_pool",
    "weight_standardization",
    "norm_epsilon",
)
WITHOUT_PARAMETERS = ("A", "A_end", "none")  # shortcuts


def architecture(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the arguments of `ResNet` that follow from the tensors; empty if they are not a residual network's.

    What leaves no trace in them is not among them: see TRACELESS.
    """
    blocks: dict[int, set[int]] = {}
    for name in shapes:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    stem = next((shapes[name] for name in ("conv1.6.weight", "conv1.weight") if len(shapes.get(name, ())) == 4), None)
    if stem is None or 0 in stem or not _from(1, blocks) or not all(_from(0, numbers) for numbers in blocks.values()):
        return {}
    sizes = tuple(max(blocks[stage]) + 1 for stage in sorted(blocks))
    widths = [
        [_widths(shapes, f"layer{stage}.{block}") for block in range(size)] for stage, size in enumerate(sizes, 1)
    ]
    if any(len(of_block) not in (2, 3) or 0 in of_block for of_stage in widths for of_block in of_stage):
        return {}
    inner = shapes["layer1.0.conv2.weight"]
    if inner[1] == 0 or widths[0][0][0] % inner[1]:
        return {}
    preact = "norm.weight" in shapes or "bn1.weight" not in shapes
    kinds = tuple(("preact_" if preact else "") + ("bottleneck" if len(one[0]) == 3 else "basic") for one in widths)
    seen: dict[str, Any] = {
        "stage_sizes": sizes,
        "block_cls": kinds[0] if len({*kinds}) == 1 else kinds,
        "stem": _stem(shapes, stem),
        "stem_pool": "conv" if "maxpool.0.weight" in shapes else None,
        "shortcut": _shortcut(shapes),
        "shortcut_kernel_size": _projection_size(shapes),
        **_attention(shapes),
        "norm_layer": _norm_layer(shapes),
        "conv_bias": has_conv_bias(shapes),
        "num_classes": (shapes.get("fc.weight") or (0,))[0] or None,
    }
    return seen | _filters(stem[0], sizes, widths, widths[0][0][0] // inner[1])


def _widths(shapes: Mapping[str, Shape], block: str) -> tuple[int, ...]:
    """Returns the outputs of a block's convolutions; empty if it is none."""
    found = [shapes.get(f"{block}.conv{k}.weight", ()) for k in (1, 2, 3)]
    kernels = [shape for shape in found if len(shape) == 4]
    return tuple(shape[0] for shape in kernels) if all(len(shape) == 4 for shape in found[:2]) else ()


def _filters(stem: int, sizes: Sequence[int], widths: Sequence[Sequence[Shape]], groups: int) -> dict[str, Any]:
    """Returns the arguments that say how wide the network is."""
    filters = tuple(of_stage[0][-1] // (4 if len(of_stage[0]) == 3 else 1) for of_stage in widths)
    first = filters[0]
    if first % stem == 0 and first >= stem:
        seen: dict[str, Any] = {"num_filters": stem, "widen_factor": first // stem, "stem_filters": None}
    else:
        seen = {"num_filters": first, "widen_factor": 1, "stem_filters": stem}
    if filters != tuple(first * 2**i for i in range(len(filters))):
        seen["stage_filters"] = filters
    bottleneck = next((i for i, of_stage in enumerate(widths) if len(of_stage[0]) == 3), None)
    if bottleneck is not None and filters[bottleneck]:
        narrow, width, _ = widths[bottleneck][0]
        seen |= {
            "groups": groups if bottleneck == 0 else 1,
            "width_per_group": 64 * width // ((groups if bottleneck == 0 else 1) * filters[bottleneck]),
            "reduce_first": max(width // max(narrow, 1), 1),
        }
    if any(of_block != of_stage[0] for of_stage in widths for of_block in of_stage):  # a pruned network
        flat = tuple(of_block for of_stage in widths for of_block in of_stage)
        pruned = {"num_filters": stem, "widen_factor": 1, "stem_filters": None, "groups": 1, "width_per_group": 64}
        return {**pruned, "reduce_first": 1, "block_widths": flat}
    return seen


def _stem(shapes: Mapping[str, Shape], stem: Shape) -> str:
    if "conv1.6.weight" not in shapes:
        return "imagenet" if stem[-1] == 7 else "cifar"
    return "deep" if shapes.get("conv1.0.weight", ())[:1] == shapes.get("conv1.3.weight", ())[:1] else "deep_tiered"


def _attention(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    first = shapes.get("layer1.0.se.fc1.weight")
    if first is None:
        return {"squeeze_excite": False, "channel_attention": "layer1.0.se.conv.weight" in shapes}
    channels = first[1] if len(first) > 1 else 0
    ratios = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
    fitting = [ratio for ratio in ratios if squeezed_channels(channels, ratio) == first[0]]
    # A small network's first block is squeezed to 8 channels whatever the ratio: then 1/16, unless the last block
    # shows another.
    last = next((shapes[name] for name in reversed([*shapes]) if name.endswith(".se.fc1.weight")), first)
    better = [ratio for ratio in fitting if len(last) > 1 and squeezed_channels(last[1], ratio) == last[0]]
    return {
        "squeeze_excite": True,
        "squeeze_excite_ratio": next(iter(better or fitting), first[0] / max(channels, 1)),
        "channel_attention": False,
    }


def _norm_layer(shapes: Mapping[str, Shape]) -> str:
    if any(name.endswith(".running_var") for name in shapes):
        return "batch"
    leaves = {name.rpartition(".")[2] for name in shapes}
    return "evonorm_s0" if "v" in leaves else "frn" if "tau" in leaves else "group"


def _projection_size(shapes: Mapping[str, Shape]) -> int:
    kernels = (shape for name, shape in shapes.items() if ".downsample." in name and len(shape) == 4)
    return max((kernel[-1] for kernel in kernels), default=1)


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
        return actual in WITHOUT_PARAMETERS
    if field == "shortcut" and value == "B" and model.preact:  # whose pooling before a projection leaves no trace
        return actual in ("B", "D")
    if field == "stem_pool" and value is None:
        return actual != "conv"
    if field == "stem" and value == "cifar":  # a max-pool behind it leaves no trace
        return actual in ("cifar", "cifar_pooled")
    if field == "stem_filters" and value is not None:
        return model.stem_features == value
    return value == actual
