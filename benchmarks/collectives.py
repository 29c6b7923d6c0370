"""The collective operations of a compiled program, read from its text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-reduce", "all-gather", "all-to-all", "collective-broadcast", "collective-permute", "ragged-all-to-all",
    "reduce-scatter",
)  # fmt: skip
# An asynchronous one is a pair, `-start` and `-done`; the first has the operands.
_OPCODES = {opcode: kind for kind in KINDS for opcode in (kind, f"{kind}-start")}

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")


class Collective(NamedTuple):
    """One collective: a member of KINDS, the bytes that a device puts in, and in how many arrays they are."""

    kind: str
    num_bytes: int
    num_arrays: int


def collectives(program: str) -> list[Collective]:
    """The collectives of an HLO text (`compiled.as_text()`), in its order; each counts once, also one in a loop.

    Bytes are those of the operands, all elements of a tuple included: what one device contributes. An asynchronous one
    counts once, at its start.
    """
    return list(_collectives(program))


def total_by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {"count": how many, "bytes": of all of them}} for the kinds that occur."""
    totals: dict[str, dict[str, int]] = {}
    for kind, num_bytes, _ in found:
        total = totals.setdefault(kind, {"count": 0, "bytes": 0})
        total["count"] += 1
        total["bytes"] += num_bytes
    return totals


def _collectives(program: str) -> Iterator[Collective]:
    shapes: dict[str, str] = {}  # of the instructions so far; operands come before what uses them
    for line in program.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            if line.endswith("{"):  # another computation, with names of its own
                shapes = {}
            continue
        name, shape, opcode, rest = instruction.groups()
        shapes[name] = shape
        if opcode in _OPCODES:
            operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
            arrays = [array for operand in operands for array in _ARRAY.findall(shapes[operand])]
            yield Collective(_OPCODES[opcode], sum(_num_bytes(*array) for array in arrays), len(arrays))


def _num_bytes(dtype: str, bits: str, dimensions: str) -> int:
    """Of an array such as f32[2,3]: dtype "f32", bits "32", dimensions "2,3"; a pred takes a byte."""
    size = 1
    for dimension in dimensions.replace("<=", "").split(","):
        size *= int(dimension or 1)
    return -(-size * (8 if dtype == "pred" else int(bits)) // 8)
