"""Finds the network among all that a file of weights holds: under which prefix, with which head, and the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_jax.errors import UserError, abridge, truncate

Shape = tuple[int, ...]
# How the names of a block's tensors begin, in one framework or another, after the network's own prefix.
_BLOCKS = (
    r"layer\d+\.\d+\.",  # torchvision, timm, OpenMMLab
    r"stages\.\d+\.blocks\.\d+\.",  # timm's v2
    r"(resnet\.)?encoder\.stages\.\d+\.layers\.\d+\.",  # transformers
    r"block\d+\.layer\.\d+\.",  # Wide ResNets for CIFAR
    r"conv\d+_x\.\d+\.",  # pytorch-cifar100
    r"stage_\d+\.(\d+|stage_\d+_bottleneck_\d+)\.",  # ResNeXt for CIFAR
    r"res\d+\.\d+\.",  # detectron2
    r"layers\.\d+\.\d+\.",  # NVIDIA
    r"[4-7]\.\d+\.conv\d\.",  # a torch.nn.Sequential of torchvision's children, as fastai's body
)
_ANCHOR = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(_BLOCKS)})")
# The modules of a network beside its blocks, by torchvision's names; others at their level are no part of it.
_PARTS = re.compile(r"(conv1|bn1|maxpool|norm|fc|top|layer\d+)\b")
# The first block of the adversarial Wide ResNets once more, which their forward pass does not use.
_UNUSED = re.compile(r"sub_block\d+")
# Words in the names of what lies beside a network, and of matrices that are no head.
_BESIDE = re.compile(r"criterion|loss|queue|normali[sz]|^(mean|std)$")
_NO_HEAD = re.compile(r"proj|predict|prototype|queue|criterion|loss|aux|embed")


@dataclass(frozen=True)
class FoundNetwork:
    """A network's tensors among all in a file.

    Attributes:
      names: the names in the file, by those after the prefix.
      left: the names of the others.
    """

    prefix: str
    names: dict[str, str]
    left: list[str]


def find_network(where: str, entries: Mapping[str, Any], prefix: str | None = None) -> FoundNetwork | None:
    """Returns the network in a file's entries; None if there is none by the names that are known.

    Args:
      where: for messages.
      entries: by name; equal ones are the same tensor.
      prefix: of the network, whole, its last modules or others of which one alone has them; None: it is the only one.

    Raises:
      UserError: if there are several, or none of this prefix.
    """
    prefixes = {name[: match.start()] for name in entries if (match := _ANCHOR.search(name))}
    networks = {one: _names_under(entries, one, prefixes) for one in sorted(prefixes, key=lambda one: (len(one), one))}
    if prefix is not None:
        wanted = prefix.strip(".")
        chosen = (
            [one for one in networks if one.strip(".") == wanted]
            or [one for one in networks if f".{one}".endswith(f".{wanted}.")]
            or [one for one in networks if f".{wanted}." in f".{one}"]
        )
        if len(chosen) != 1:
            raise UserError(f"{where} holds no network under prefix={prefix!r}: there are {_shown(networks)}")
        networks = {chosen[0]: networks[chosen[0]]}
    if not networks:
        return None
    first, *others = networks
    for other in others:
        if not _are_same(entries, networks[first], networks[other]):
            raise UserError(
                f"{where} holds {len(networks)} networks, under {_shown(networks)}: choose by prefix= "
                "(convert --prefix)"
            )
    names = networks[first]
    taken = {name for one in networks.values() for name in one.values()}
    return FoundNetwork(first, names, [name for name in entries if name not in taken])


def _names_under(entries: Iterable[str], prefix: str, prefixes: set[str]) -> dict[str, str]:
    """Returns the names that begin with `prefix` and not with a longer one, by what comes behind it."""
    longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    return {
        name.removeprefix(prefix): name
        for name in entries
        if name.startswith(prefix) and not (longer and name.startswith(longer))
    }


def _are_same(entries: Mapping[str, Any], one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Returns whether two networks are the same tensors, stored once, as where a module is part of two others."""
    return all(inner in other and entries[name] == entries[other[inner]] for inner, name in one.items())


def _shown(networks: Mapping[str, Any]) -> str:
    return abridge([truncate(prefix.rstrip(".") or "''") for prefix in networks], 6) or "none"


def name_head(shapes: Mapping[str, Shape], others: Mapping[str, Shape]) -> dict[str, str]:
    """Returns the names of the tensors that are the head, by fc.weight and fc.bias; empty if there is none, or no sign
    which.

    Args:
      shapes: of the network's tensors, by torchvision's names; tensors of no known module are candidates too.
      others: of the rest of the file, by its own names.
    """
    if "fc.weight" in shapes:
        return {}
    last = max((key for name in shapes if (key := _place_in_blocks(name))), default=None)
    if last is None or not shapes[last[2]]:  # a damaged file may hold a number there
        return {}
    features = shapes[last[2]][0]
    candidates = {**{name: shape for name, shape in shapes.items() if not _is_part(name)}, **others}
    found = [
        name.removesuffix(".weight")
        for name, shape in candidates.items()
        if name.endswith(".weight")
        and (len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)))
        and shape[1] == features
        and candidates.get(f"{name.removesuffix('.weight')}.bias") == shape[:1]
        and not _NO_HEAD.search(name)
    ]
    # One of several layers is a projection's.
    modules = [name.rpartition(".")[0].rpartition(".")[0] for name, shape in candidates.items() if len(shape) == 2]
    found = [name for name in found if "." not in name or modules.count(name.rpartition(".")[0]) == 1]
    return {f"fc.{leaf}": f"{found[0]}.{leaf}" for leaf in ("weight", "bias")} if len(found) == 1 else {}


def _is_part(name: str) -> bool:
    """Returns whether a tensor is of a module of the network; a head of several layers is none."""
    return _PARTS.match(name) is not None and re.match(r"fc\.\d+\.", name) is None


def _place_in_blocks(name: str) -> tuple[int, int, str] | None:
    """Returns (stage, block, name) of a block's last convolution, which of two is the larger number's."""
    match = re.fullmatch(r"layer(\d+)\.(\d+)\.conv\d+\.weight", name)
    return (int(match[1]), int(match[2]), name) if match else None


def beside_network(shapes: Mapping[str, Shape]) -> list[str]:
    """Returns the names of tensors at the network's level that are no part of it: projections, queues, losses.

    What has convolutions, or norms alone, might be a part that is not known here, and is none of these: only matrices
    are, and what is called like losses, queues and the images' mean.
    """
    groups: dict[str, list[str]] = {}
    for name in shapes:
        if not _is_part(name):
            groups.setdefault(name.partition(".")[0], []).append(name)
    beside = []
    for module, names in groups.items():
        convolves = any(len(shapes[name]) == 4 and max(shapes[name][2:]) > 1 for name in names)
        is_linear = any(len(shapes[name]) == 2 for name in names) and not convolves
        if _UNUSED.fullmatch(module) or is_linear or (_BESIDE.search(module) and not convolves):
            beside += names
    return beside
