"""Damaged weight files: each one opens, or is refused in one line; RESNET_JAX_FUZZ_EXAMPLES sets how many are tried."""

import pickle
import struct

import jax
import numpy as np
import pytest
from damaged_files import EDITS, NUM_EXAMPLES, edited, result_or_refusal, tensors_in
from hypothesis import given, settings
from hypothesis import strategies as st
from state_dicts import assert_equal, random_variables, small, state_dict
from torch_files import Call, Name, Raw, legacy_file, opcodes, tensor, whole_module, zip_file

from resnet_jax import load_weights
from resnet_jax.models import variable_shapes
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.safetensors_file import write_safetensors

MAX_ELEMENTS = 10_000
TINY = small("resnet20", stage_sizes=(1,), num_filters=1, num_classes=2)
NUMBERS = np.arange(24, dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def sound_files(folder):
    """(content, what makes a file of it) for small files of each kind, and for what a checksum or a length guards."""
    weight = tensor("0", "float32", (2, 3, 4), num_elements=24)
    state = {
        "conv.weight": weight,
        "conv.bias": tensor("0", "float32", (3,), strides=(2,), offset=4, num_elements=24),
        "half": tensor("1", "float16", (4,)),
        "parameter": Call(Name("torch._utils._rebuild_parameter"), (weight, True, {})),
    }
    root = {"epoch": 3, "lr": [0.5, None, True], "state_dict": state, "args": Call(Name("argparse.Namespace"), ())}
    write_safetensors(folder / "sound", {"w": NUMBERS, "v": NUMBERS.reshape(4, 6).T}, {"format": "pt"})
    safetensors = (folder / "sound").read_bytes()
    (header_bytes,) = struct.unpack("<Q", safetensors[:8])
    header, content = safetensors[8 : 8 + header_bytes], safetensors[8 + header_bytes :]
    storages = {"0": NUMBERS.tobytes(), "1": bytes(8)}
    return [
        (zip_file(root, storages), bytes),
        (legacy_file(root, {"0": (24, storages["0"]), "1": (4, storages["1"])}), bytes),
        (safetensors, bytes),
        (pickle.dumps({"w": [NUMBERS.tolist(), {1, 2}, ("a", b"b", 2**80)]}), bytes),
        (opcodes(root), lambda pickled: zip_file(Raw(pickled), storages)),
        (header, lambda header: struct.pack("<Q", len(header)) + header + content),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in the text of a pickle of protocol 0
@settings(max_examples=NUM_EXAMPLES, derandomize=True, deadline=None, database=None)
@given(kind=st.integers(0, 5), edits=EDITS)
def test_a_damaged_file_opens_or_is_refused_in_one_line(folder, sound_files, kind, edits):
    path = folder / "damaged"
    content, make_file = sound_files[kind]
    path.write_bytes(make_file(edited(content, edits, [other for other, _ in sound_files])))
    opened = result_or_refusal(lambda: open_weights_file(path), path)
    for stored in tensors_in(opened.root if opened else None):
        if np.prod(stored.shape, dtype=float) <= MAX_ELEMENTS:
            numbers = result_or_refusal(stored.read, path)
            assert numbers is None or numbers.shape == stored.shape


@pytest.fixture(scope="module")
def sound_weights(folder):
    """(content, what makes a file of it) for a tiny network's weights, of each kind of file that can hold them."""
    arrays = state_dict(TINY)
    storages = {str(i): array for i, array in enumerate(arrays.values())}
    tensors = {name: tensor(str(i), "float32", array.shape) for i, (name, array) in enumerate(arrays.items())}
    root = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}
    module = {"model": whole_module({f"module.{name}": value for name, value in tensors.items()}), "epoch": 3}
    beside = {f"encoder_q.{name}": value for name, value in tensors.items()}
    beside |= {f"encoder_k.{name}": value for name, value in tensors.items()} | {"queue": tensor("0", "float32", (1,))}
    write_safetensors(folder / "weights", arrays, {})
    in_zip = {key: array.tobytes() for key, array in storages.items()}
    return [
        (zip_file(root, in_zip), bytes),
        (legacy_file(root, {key: (array.size, array.tobytes()) for key, array in storages.items()}), bytes),
        ((folder / "weights").read_bytes(), bytes),
        *(
            (opcodes(tree), lambda pickled: zip_file(Raw(pickled), in_zip))
            for tree in (root, module, {"state_dict": beside, "model_ema": root["state_dict"]})
        ),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=NUM_EXAMPLES, derandomize=True, deadline=None, database=None)
@given(kind=st.integers(0, 5), edits=EDITS)
def test_a_damaged_file_gives_the_models_weights_or_is_refused_in_one_line(folder, sound_weights, kind, edits):
    path = folder / "damaged-weights"
    content, make_file = sound_weights[kind]
    path.write_bytes(make_file(edited(content, edits, [other for other, _ in sound_weights])))
    variables = result_or_refusal(lambda: load_weights(path, TINY), path)
    if not edits:
        assert_equal(variables, random_variables(TINY))
    if variables is not None:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), variable_shapes(TINY)
        )


def test_the_files_that_are_damaged_are_sound_before(folder, sound_files):
    found = []
    for content, make_file in (*sound_files[:3], *sound_files[4:]):
        (folder / "sound").write_bytes(make_file(content))
        found.append(len(list(tensors_in(open_weights_file(folder / "sound").root))))
    assert found == [4, 4, 2, 4, 2]
