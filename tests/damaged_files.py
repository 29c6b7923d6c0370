"""Files of weights that are damaged at random, for tests that each is read or refused in one line."""

import os
import struct

from hypothesis import strategies as st

from resnet_jax.errors import UserError
from resnet_jax.weights.state_dict import STORED

NUM_EXAMPLES = int(os.environ.get("RESNET_JAX_FUZZ_EXAMPLES", "500"))


def tensors_in(root):
    """Every tensor in `root`, which may share its parts and contain itself."""
    seen = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, STORED):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)


# Numbers that make lengths, offsets and opcodes of consequence.
PIECES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([struct.pack("<I", number) for number in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)]),
    st.sampled_from([bytes([opcode]) for opcode in range(256)]),
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "delete", "insert", "cut", "splice"]), st.floats(0, 1), PIECES), max_size=4
)


def edited(data, edits, others):
    for kind, where, piece in edits:
        at = int(where * max(len(data) - 1, 0))
        if kind == "flip":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "delete":
            data = data[:at] + data[at + 2 * len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "cut":
            data = data[:at]
        else:
            other = others[piece[0] % len(others)]
            start = int(where * len(other))
            data = data[:at] + other[start : start + 8 * piece[-1]] + data[at:]
    return data


def result_or_refusal(action, path):
    """Return what `action` gives; None if it refuses the file properly."""
    try:
        return action()
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert str(path) in line
    return None
