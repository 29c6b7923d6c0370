"""Matches a state_dict with a network by modules, their order in the file and their shapes, whatever their names."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_jax.errors import UserError, truncate

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Module:
    """A module's name, the shape of its weight, and where it stands in the file."""

    name: str
    shape: Shape
    place: int = 0


@dataclass(frozen=True)
class Block:
    """The parts of a block of the network: convolutions and norms in order, and its projection's, if any."""

    name: str
    convolutions: list[Module]
    norms: list[Module]
    projection: Module | None
    projection_norm: Module | None


def match_structure(
    where: str, shapes: Mapping[str, Shape], expected: Mapping[str, Shape], *, is_ordered: bool = True
) -> dict[str, str]:
    """Returns the names in the file of the network's tensors, by torchvision's.

    Args:
      where: for messages.
      shapes: of the file's tensors, in its order; by `by_number` where that says nothing.
      expected: of the network's, by torchvision's names.
      is_ordered: the file keeps the order in which the modules were made. Otherwise, as in safetensors files, names
        must differ in numbers alone where shapes are equal.

    Raises:
      UserError: if they do not fit, or two tensors could stand for one another.
    """
    there, here = _modules(shapes), _modules(expected)
    unknown = next((name for name, shape in expected.items() if ".se." in name or len(shape) == 3), None)
    if unknown is not None:
        raise UserError(f"{where}: only convolutions, norms and a head are matched by structure, and not {unknown}")
    stem, blocks, rest = _target(here)
    convolutions, norms = _of_kind(there, 4), _of_kind(there, 1)
    _check_count(where, "convolutions", convolutions, _of_kind(here, 4))
    _check_count(where, "norms", norms, _of_kind(here, 1))
    found: dict[str, str] = {}
    for kind, sequence in ((4, _stem_first(convolutions, stem)), (1, norms)):
        for target in (module for module in stem if len(module.shape) == kind):
            _put(where, found, target, sequence.pop(0))
    chunks = [_take(convolutions_of(block), convolutions) for block in blocks]
    norm_chunks = [_take(norms_of(block), norms) for block in blocks]
    plain = {_relative(chunk) for block, chunk in zip(blocks, chunks, strict=True) if block.projection is None}
    places = [_places(block, chunk) for block, chunk in zip(blocks, chunks, strict=True)]
    usual = {found[0] for found in places if len(found) == 1}
    for block, chunk, norm_chunk in zip(blocks, chunks, norm_chunks, strict=True):
        place = _projection_place(where, block, chunk, plain, usual)
        if place is not None and block.projection is not None:
            projection = chunk.pop(place)
            _put(where, found, block.projection, projection)
            if block.projection_norm is not None:
                own = _projection_norm_place(where, block, norm_chunk, projection, chunk)
                _put(where, found, block.projection_norm, norm_chunk.pop(own))
        if not is_ordered:
            _check_numbered(where, chunk)
        for target, module in zip((*block.convolutions, *block.norms), (*chunk, *norm_chunk), strict=True):
            _put(where, found, target, module)
    for target, module in zip((module for module in rest if len(module.shape) == 1), norms, strict=True):
        _put(where, found, target, module)
    _put_head(where, found, [module for module in rest if len(module.shape) == 2], _of_kind(there, 2))
    return _tensors(found, shapes, expected)


def by_number(name: str) -> list[tuple[int, str]]:
    """Returns the parts of a name, numbers as such, to sort by."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _check_numbered(where: str, chunk: Sequence[Module]) -> None:
    """Raises UserError if the names of modules of one shape differ in more than a number."""
    for first, second in itertools.combinations(chunk, 2):
        if first.shape == second.shape and re.sub(r"\d+", "", first.name) != re.sub(r"\d+", "", second.name):
            raise UserError(
                f"{where}: {truncate(first.name)} and {truncate(second.name)} could stand for one another, as the file "
                "keeps no order of its tensors: save it as .pth"
            )


def convolutions_of(block: Block) -> int:
    """Returns how many convolutions a block has, its projection's included."""
    return len(block.convolutions) + (block.projection is not None)


def norms_of(block: Block) -> int:
    """Returns how many norms a block has, its projection's included."""
    return len(block.norms) + (block.projection_norm is not None)


def _modules(shapes: Mapping[str, Shape]) -> list[Module]:
    """Returns the modules that have a weight, in the order of their first tensors."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        found.setdefault(module, ())
        if leaf == "weight":
            found[module] = shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) and module.endswith("fc") else shape
    weighted = [(name, shape) for name, shape in found.items() if shape]
    return [Module(name, shape, place) for place, (name, shape) in enumerate(weighted)]


def _of_kind(modules: Sequence[Module], rank: int) -> list[Module]:
    return [module for module in modules if len(module.shape) == rank]


def _target(modules: Sequence[Module]) -> tuple[list[Module], list[Block], list[Module]]:
    """Returns the network's modules in the order of computation: the stem's, the blocks, and what follows."""
    stem = [module for module in modules if re.match(r"(conv1|bn1|maxpool)\b", module.name)]
    rest = [module for module in modules if re.match(r"(norm|fc|top)\b", module.name)]
    names: dict[tuple[int, int], list[Module]] = {}
    for module in modules:
        if match := re.match(r"layer(\d+)\.(\d+)\.", module.name):
            names.setdefault((int(match[1]), int(match[2])), []).append(module)
    blocks = []
    for (stage, number), inside in sorted(names.items()):
        projection = [module for module in inside if ".downsample." in module.name]
        main = sorted((module for module in inside if module not in projection), key=lambda module: module.name)
        blocks.append(
            Block(
                f"layer{stage}.{number}",
                _of_kind(main, 4),
                _of_kind(main, 1),
                next(iter(_of_kind(projection, 4)), None),
                next(iter(_of_kind(projection, 1)), None),
            )
        )
    return sorted(stem, key=lambda module: (module.name.startswith("maxpool"), module.name)), blocks, rest


def _check_count(where: str, what: str, there: Sequence[Module], here: Sequence[Module]) -> None:
    if len(there) != len(here):
        raise UserError(f"{where} has {len(there)} {what} and the model {len(here)}: it is of another network")


def _stem_first(convolutions: list[Module], stem: Sequence[Module]) -> list[Module]:
    """Puts the one convolution that takes images, wherever it stands in the file, before the others."""
    first = next(module for module in stem if len(module.shape) == 4)
    takes_images = [module for module in convolutions if module.shape == first.shape]
    if len(takes_images) == 1:
        convolutions.remove(takes_images[0])
        convolutions.insert(0, takes_images[0])
    return convolutions


def _take(count: int, sequence: list[Module]) -> list[Module]:
    taken = sequence[:count]
    del sequence[:count]
    return taken


def _put(where: str, found: dict[str, str], target: Module, module: Module) -> None:
    if module.shape != target.shape:
        raise UserError(
            f"{where}: {truncate(module.name)} {module.shape} stands where {target.name} {target.shape} is expected by "
            "the order in the file"
        )
    found[target.name] = module.name


def _places(block: Block, chunk: list[Module]) -> list[int]:
    """Returns which of a block's convolutions may be the projection, by shapes."""
    if block.projection is None:
        return []
    expected = [module.shape for module in block.convolutions]
    return [
        i
        for i, module in enumerate(chunk)
        if module.shape == block.projection.shape and [m.shape for j, m in enumerate(chunk) if j != i] == expected
    ]


def _projection_place(
    where: str, block: Block, chunk: list[Module], plain: set[tuple[str, ...]], usual: set[int]
) -> int | None:
    """Returns which of the block's convolutions is the projection: by its shape, or as others of the network show it.

    Args:
      plain: names within blocks that have no projection.
      usual: where it stands in blocks in which shapes decide.
    """
    if block.projection is None:
        return None
    places = _places(block, chunk)
    if len(places) > 1:
        places = [i for i in places if _relative(chunk, chunk[:i] + chunk[i + 1 :]) in plain] or places
    if len(places) > 1:
        places = [i for i in places if usual == {i}] or places
    if len(places) == 1:
        return places[0]
    if not places:
        shapes = ", ".join(f"{truncate(module.name)} {module.shape}" for module in chunk)
        raise UserError(f"{where}: {shapes} do not fit {block.name} with its projection {block.projection.shape}")
    first, second = (truncate(chunk[i].name) for i in places[:2])
    raise UserError(f"{where}: {first} and {second} could stand for one another in {block.name}: rename them")


def _projection_norm_place(
    where: str, block: Block, norms: list[Module], projection: Module, convolutions: list[Module]
) -> int:
    """Returns which of the block's norms is the projection's: by its shape, by its neighbour's name, by its place."""
    assert block.projection_norm is not None
    expected = [module.shape for module in block.norms]
    places = [
        i
        for i, norm in enumerate(norms)
        if norm.shape == block.projection_norm.shape and [n.shape for j, n in enumerate(norms) if j != i] == expected
    ]
    parent = projection.name.rpartition(".")[0]
    beside = [i for i in places if norms[i].name.rpartition(".")[0] == parent]
    if len(beside) == 1 and all(module.name.rpartition(".")[0] != parent for module in convolutions):
        return beside[0]
    follow = [i for i in places if norms[i].place == projection.place + 1]
    if len(places) == 1 or len(follow) == 1:
        return (places if len(places) == 1 else follow)[0]
    names = " and ".join(truncate(norms[i].name) for i in places[:2]) or "no norm"
    raise UserError(f"{where}: {names} could stand for {block.projection_norm.name}: rename them")


def _relative(chunk: Sequence[Module], part: Sequence[Module] | None = None) -> tuple[str, ...]:
    """Returns the names of `part`, or of all, without the beginning that the chunk's names share."""
    parents = [module.name.split(".") for module in chunk]
    common = sum(1 for _ in itertools.takewhile(lambda parts: len({*parts}) == 1, zip(*parents, strict=False)))
    return tuple(".".join(module.name.split(".")[common:]) for module in (chunk if part is None else part))


def _put_head(where: str, found: dict[str, str], targets: Sequence[Module], linears: Sequence[Module]) -> None:
    for target in targets:
        fitting = [module for module in linears if module.shape == target.shape]
        if len(fitting) > 1:
            names = " and ".join(truncate(module.name) for module in fitting[:2])
            raise UserError(f"{where}: {names} could both be the head: rename them")
        if fitting:
            found[target.name] = fitting[0].name


def _tensors(found: Mapping[str, str], shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> dict[str, str]:
    """Returns the tensors of the matched modules: what a module of the file has, by the network's name for it."""
    by_module: dict[str, list[str]] = {}
    for name in shapes:
        module, _, leaf = name.rpartition(".")
        by_module.setdefault(module, []).append(leaf)
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{here}.{leaf}": f"{there}.{leaf}"
        for here, there in found.items()
        for leaf in by_module[there]
        if leaf in leaves
    }
