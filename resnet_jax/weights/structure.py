"""Gives a state_dict the network's names by its structure, where its own are unknown."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from resnet_jax.errors import UserError, truncate
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.weights.lazy_tensor import Unreadable
from resnet_jax.weights.match_structure import Shape, by_number, match_structure
from resnet_jax.weights.names import torch_shapes
from resnet_jax.weights.state_dict import StateDict

BLUR = "filt"  # the buffer of an anti-aliasing filter, which has no weights


def by_structure(path: Path, state: StateDict, model: ResNet) -> StateDict:
    """Returns the same tensors by the names of the model's, matched by `match_structure`.

    Raises:
      UserError: if they do not fit, or two could stand for one another.
    """
    shapes = {name: tensor.shape for name, tensor in state.entries.items() if not isinstance(tensor, Unreadable)}
    is_ordered = state.format != "safetensors"
    if not is_ordered:
        shapes = dict(sorted(shapes.items(), key=lambda item: by_number(item[0])))
    expected = {name: shape for name, (_, shape) in torch_shapes(variable_shapes(model)).items()}
    found = match_structure(str(path), shapes, expected, is_ordered=is_ordered)
    tensors = {here: state.entries[there] for here, there in found.items()}
    left = _beside(path, shapes, found, is_ordered=is_ordered)
    return replace(state, tensors=tensors, originals=found, left=[*state.left, *left])


def _beside(path: Path, shapes: Mapping[str, Shape], found: Mapping[str, str], *, is_ordered: bool) -> list[str]:
    """Returns the names of the file's tensors that are not matched.

    Raises:
      UserError: for one among the blocks' tensors, by its place or its name: a part that the network does not have.
    """
    taken = {*found.values()}
    blocks: dict[str, list[str]] = {}
    for here, there in found.items():
        match = re.match(r"layer\d+\.\d+\.", here)
        blocks.setdefault(match[0] if match else "", []).append(there)
    of_blocks = taken - {*blocks.pop("", ())}
    starts = tuple(start for names in blocks.values() if (start := _own_start(names, taken)))
    places = [i for i, name in enumerate(shapes) if name in of_blocks]
    among = {*[*shapes][places[0] : places[-1]]} if is_ordered else set()
    for name in shapes:
        is_inside = name in among or name.startswith(starts)
        if name not in taken and is_inside and name.rpartition(".")[2] != BLUR:
            raise UserError(
                f"{path}: {truncate(name)} {shapes[name]} stands among the blocks, and is no part of one here: the "
                "file is of another network"
            )
    return [name for name in shapes if name not in taken]


def _own_start(names: Sequence[str], taken: Collection[str]) -> str:
    """Returns the modules that the names of a block begin with, and no others that are taken; "" if there are none."""
    levels = zip(*(name.split(".") for name in names), strict=False)
    start = "".join(f"{level[0]}." for level in itertools.takewhile(lambda level: len({*level}) == 1, levels))
    return start if sum(name.startswith(start) for name in taken) == len(names) else ""


def describe_structure(path: Path, state: StateDict, model: ResNet) -> str:
    """Returns the result of matching by structure, for a message; "" if it cannot."""
    try:
        found = by_structure(path, state, model).originals
    except UserError:
        return ""
    first = [f"{there} as {here}" for here, there in found.items() if here.endswith(".weight")][:3]
    return f"; layout='structure' (convert --layout structure) would load {', '.join(first)} …"
