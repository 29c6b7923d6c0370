"""How frameworks and repositories call a network's modules, as rules from their names to torchvision's.

In a rule {x} stands for a number and {x+1} for the same number counted from one.
"""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

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
# pytorch-cifar100's, stages counted from two; understood, never written. ReLU has a number in a Sequential, too.
CONV_X: tuple[Rule, ...] = (
    ("conv1.0", "conv1"),
    ("conv1.1", "bn1"),
    *(
        (f"conv{{s+1}}_x.{{b}}.residual_function.{number}", f"layer{{s}}.{{b}}.{module}")
        for number, module in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"), (6, "conv3"), (7, "bn3"))
    ),
    ("conv{s+1}_x.{b}.shortcut.{k}", "layer{s}.{b}.downsample.{k}"),
)
# ResNeXt for CIFAR, and the ResNet beside it; understood, never written.
_RESNEXT_MODULES = (
    ("conv_a", "conv1"), ("bn_a", "bn1"), ("conv_b", "conv2"), ("bn_b", "bn2"),
    ("conv_reduce", "conv1"), ("bn_reduce", "bn1"), ("conv_conv", "conv2"), ("bn", "bn2"), ("conv_expand", "conv3"),
    ("bn_expand", "bn3"), ("shortcut.shortcut_conv", "downsample.0"), ("shortcut.shortcut_bn", "downsample.1"),
    ("downsample.{k}", "downsample.{k}"),
)  # fmt: skip
STAGE_NUMBERS: tuple[Rule, ...] = (
    ("conv_1_3x3", "conv1"),
    ("bn_1", "bn1"),
    *(
        (f"{block}.{there}", f"layer{{s}}.{{b}}.{here}")
        for block in ("stage_{s}.{b}", "stage_{s}.stage_{s}_bottleneck_{b}")
        for there, here in _RESNEXT_MODULES
    ),
    ("classifier", "fc"),
)
# detectron2's, with the norm inside of the convolution; understood, never written.
DETECTRON2: tuple[Rule, ...] = (
    ("stem.conv1", "conv1"),
    ("stem.conv1.norm", "bn1"),
    ("res{s+1}.{b}.conv{k}", "layer{s}.{b}.conv{k}"),
    ("res{s+1}.{b}.conv{k}.norm", "layer{s}.{b}.bn{k}"),
    ("res{s+1}.{b}.shortcut", "layer{s}.{b}.downsample.0"),
    ("res{s+1}.{b}.shortcut.norm", "layer{s}.{b}.downsample.1"),
    ("linear", "fc"),
)
# NVIDIA's, whose stages lie in one list; understood, never written.
NVIDIA: tuple[Rule, ...] = (
    ("layers.{s}.{b}.se.squeeze", "layer{s+1}.{b}.se.fc1"),
    ("layers.{s}.{b}.se.expand", "layer{s+1}.{b}.se.fc2"),
    ("layers.{s}.{b}.downsample.{k}", "layer{s+1}.{b}.downsample.{k}"),
    *((f"layers.{{s}}.{{b}}.{name}{{k}}", f"layer{{s+1}}.{{b}}.{name}{{k}}") for name in ("conv", "bn")),
)
# A torch.nn.Sequential of torchvision's children, as fastai's body: 3 is the pooling; understood, never written.
NUMBERED: tuple[Rule, ...] = (
    ("0", "conv1"),
    ("1", "bn1"),
    *(
        (f"{number}.{{b}}.{there}", f"layer{number - 3}.{{b}}.{there}")
        for number in (4, 5, 6, 7)
        for there in ("conv{k}", "bn{k}", "downsample.{k}")
    ),
)
# OpenMMLab's names of a deep stem, whose last norm is a part of it, and of squeeze-and-excitation.
OPENMMLAB: tuple[Rule, ...] = (
    *((f"stem.{number}", f"conv1.{number}") for number in (0, 1, 3, 4, 6)),
    ("stem.7", "bn1"),
    ("layer{s}.{b}.se_layer.conv{k}.conv", "layer{s}.{b}.se.fc{k}"),
)
# More names that tutorials give to the same modules; understood, never written.
ALIASES: tuple[Rule, ...] = (
    *AKAMASTER,
    *OPENMMLAB,
    ("stem.conv1", "conv1"),  # maskrcnn-benchmark's
    ("stem.bn1", "bn1"),
    ("layer{s}.{b}.identity_downsample.{k}", "layer{s}.{b}.downsample.{k}"),
    ("layer{s}.{b}.downsample.conv", "layer{s}.{b}.downsample.0"),
    ("layer{s}.{b}.downsample.bn", "layer{s}.{b}.downsample.1"),
    ("classifier", "fc"),
)

# By how the names of their blocks begin.
OTHERS = (
    (re.compile(r"conv\d+_x\.\d+\."), CONV_X),
    (re.compile(r"stage_\d+\."), STAGE_NUMBERS),
    (re.compile(r"res\d+\.\d+\."), DETECTRON2),
    (re.compile(r"layers\.\d+\.\d+\."), NVIDIA),
    (re.compile(r"[4-7]\.\d+\.conv\d\."), NUMBERED),
)


# The ResNets for CIFAR beside ResNeXt pad a shortcut's channels behind, and detectron2 reads colours as OpenCV does.
_CONV_A = re.compile(r"(^|\.)stage_\d+\.\d+\.conv_a\.")
_PROJECTION = re.compile(r"\.(downsample|shortcut)\.")
_DETECTRON2 = re.compile(r"(^|\.)(res\d+\.\d+\.conv\d+\.norm|stem\.bn1)\.")
BLUE_FIRST = (
    "detectron2's and maskrcnn-benchmark's networks take blue first unless their config says RGB: bgr=True (convert "
    "--bgr) makes the network one for red first; those of MSRA's weights have stride_in='1x1' as well"
)


def untold_arguments(names: Collection[str]) -> dict[str, Any]:
    """Returns the arguments of `ResNet` that networks with these names have, which their tensors do not show."""
    pads_behind = any(map(_CONV_A.search, names)) and not any(map(_PROJECTION.search, names))
    return {"shortcut": "A_end"} if pads_behind else {}


def untold_note(names: Collection[str]) -> str:
    """Returns a line on what one must know of networks with these names; empty if there is nothing."""
    return BLUE_FIRST if any(map(_DETECTRON2.search, names)) else ""


_NUMBER = re.compile(r"\{(\w)(\+1)?\}")


def rename(name: str, rules: tuple[Rule, ...]) -> str | None:
    """Returns `name` by the first rule that fits its module; None if none does."""
    module, dot, leaf = name.rpartition(".")
    for pattern, replacement in rules:
        match = _compiled(pattern).fullmatch(module)
        if match is None:
            continue
        numbers = {field[1]: int(match[field[1]]) - bool(field[2]) for field in _NUMBER.finditer(pattern)}
        if min(numbers.values(), default=0) >= 0:
            return replacement.format_map(_Numbers(numbers)) + dot + leaf
    return None


class _Numbers(dict[str, int]):
    """Maps the text between braces, {x} and {x+1}, to numbers."""

    def __missing__(self, key: str) -> int:
        return self[key.removesuffix("+1")] + 1


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    seen: set[str] = set()

    def capture(field: re.Match[str]) -> str:
        if field[1] in seen:  # the same number again
            return f"(?P={field[1]})"
        seen.add(field[1])
        return rf"(?P<{field[1]}>0|[1-9]\d{{0,4}})"

    return re.compile(_NUMBER.sub(capture, pattern.replace(".", r"\.")))


def from_one(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Returns the rules for a tutorial that counts its stages from one, as we do."""
    return tuple((there, here.replace("{s+1}", "{s}")) for there, here in rules)
