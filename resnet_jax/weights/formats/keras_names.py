"""Names that keras.applications gives to the layers of its ResNets, and the order in which it makes them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]
NORM_EPSILON = 1.001e-5
# What the networks have and no tensor shows: of version 1, and of version 2.
V1 = {"stride_in": "1x1", "norm_epsilon": NORM_EPSILON}
V2 = {"strided_block": "last", "stem_pool": "zero_padded_max", "norm_epsilon": NORM_EPSILON}
# The variables of layers, by their class, in the order in which they are made.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
_LEAVES = {
    "kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
_MODULES = {
    "conv1_conv": "conv1", "conv1_bn": "bn1", "post_bn": "norm",
    "predictions": "fc", "probs": "fc", "fc1000": "fc",
}  # fmt: skip
_BLOCK = re.compile(r"conv(\d{1,2})_block(\d{1,3})_(?:([0-3])_(conv|bn)|(preact_bn))")


def is_keras_resnet(layers: Mapping[str, Any] | Sequence[str]) -> bool:
    """Returns whether layers of these names form a ResNet."""
    return "conv1_conv" in layers and any(_BLOCK.fullmatch(layer) for layer in layers)


def is_v2(layers: Mapping[str, Any] | Sequence[str]) -> bool:
    """Returns whether a ResNet of these layers is pre-activated."""
    return any(layer.endswith("_preact_bn") for layer in layers)


def torch_name(layer: str, variable: str, *, v2: bool) -> str | None:
    """Returns torchvision's name: ("conv2_block1_1_conv", "kernel") is "layer1.0.conv1.weight"; None if there is
    none.
    """
    leaf, module = _LEAVES.get(variable), _MODULES.get(layer)
    if match := _BLOCK.fullmatch(layer):
        stage, block, number, kind, preact = match.groups()
        if preact:
            part = "bn1"
        elif number == "0":
            part = f"downsample.{int(kind == 'bn')}"
        else:
            part = f"conv{number}" if kind == "conv" else f"bn{int(number) + v2}"
        module = f"layer{int(stage) - 1}.{int(block) - 1}.{part}"
    return f"{module}.{leaf}" if module and leaf else None


def names_by_order(kernels: Sequence[Shape], num_norms: int) -> tuple[list[str], list[str]]:
    """Returns the names of the convolutions and of the norms of a ResNet, in the order in which Keras stores them.

    Args:
      kernels: the convolutions' shapes (k, k, in, out), in that order.

    Raises:
      ValueError: if they are none of a ResNet.
    """
    convolutions, blocks = ["conv1_conv"], []
    stage, block, i = 1, 0, 1
    while i + 2 < len(kernels):
        # Two of the same outputs after the 3x3: the projection, then the block's last.
        projects = i + 3 < len(kernels) and kernels[i + 2][-1] == kernels[i + 3][-1]
        stage, block = (stage + 1, 1) if projects else (stage, block + 1)
        numbers = (1, 2, 0, 3) if projects else (1, 2, 3)
        convolutions += [f"conv{stage}_block{block}_{number}_conv" for number in numbers]
        blocks.append((f"conv{stage}_block{block}", numbers))
        i += len(numbers)
    v1 = ["conv1_bn", *(f"{name}_{number}_bn" for name, numbers in blocks for number in numbers)]
    v2 = [*(f"{name}_{norm}_bn" for name, _ in blocks for norm in ("preact", 1, 2)), "post_bn"]
    norms = next((names for names in (v1, v2) if len(names) == num_norms), None)
    if len(convolutions) != len(kernels) or stage == 1 or norms is None:
        raise ValueError("its layers are not those of a ResNet of keras.applications")
    return convolutions, norms


def names_by_path(model: Any, above: str = "layers/") -> dict[str, str]:
    """Returns the names of the layers in a model's config.json, by the path under which Keras stores their arrays."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    inside = model.get("config") if isinstance(model, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
            continue
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer["class_name"]).lower()
        count = counts[kind] = counts.get(kind, -1) + 1
        path = f"{above}{kind}{f'_{count}' if count else ''}"
        inner = layer.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            names[path] = inner["name"]
        names |= names_by_path(layer, f"{path}/layers/")
    return names
