"""Damaged weights of other frameworks: each opens, or is refused in one line; a fifth of NUM_EXAMPLES of a kind."""

import io
import pickle
import zipfile

import h5py
import jax
import numpy as np
import pytest
from damaged_files import EDITS, NUM_EXAMPLES, edited, result_or_refusal, tensors_in
from flax import serialization
from hypothesis import given, settings
from state_dicts import assert_equal, random_variables, small, state_dict

from resnet_jax import load_weights
from resnet_jax.models import variable_shapes
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.formats.keras_names import VARIABLES, torch_name
from resnet_jax.weights.names import jax_axes

TINY = small("resnet50", stage_sizes=(1,), num_filters=1, num_classes=2)
OF_KERAS = small("resnet50", stage_sizes=(1,), num_filters=1, num_classes=2, stride_in="1x1", norm_epsilon=1.001e-5)
LAYERS = (
    "conv1_conv", "conv1_bn", *(f"conv2_block1_{k}_{kind}" for kind in ("conv", "bn") for k in (1, 2, 0, 3)),
    "predictions",
)  # fmt: skip
MAX_ELEMENTS = 10_000


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def layer_variables(layer):
    """(class, variables in Keras' order, in our order of axes) of a layer of OF_KERAS."""
    kind = "dense" if layer == "predictions" else "conv2d" if layer.endswith("conv") else "batch_normalization"
    arrays = state_dict(OF_KERAS)
    found = [arrays.get(torch_name(layer, variable, v2=False)) for variable in VARIABLES[kind]]
    return kind, [array.transpose(jax_axes(array.ndim)) for array in found if array is not None]


def hdf5(*, legacy):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        counts = {}
        for layer in LAYERS:
            kind, arrays = layer_variables(layer)
            if legacy:
                names = [f"{layer}/{variable}:0" for variable, _ in zip(VARIABLES[kind], arrays, strict=False)]
                file.create_group(layer).attrs["weight_names"] = names
                file[layer].update(dict(zip(names, arrays, strict=True)))
                continue
            number = counts[kind] = counts.get(kind, -1) + 1
            where = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            where.attrs["name"] = layer
            where.update({str(i): array for i, array in enumerate(arrays)})
        if legacy:
            file.attrs["layer_names"] = LAYERS
    return buffer.getvalue()


def kinds():
    """{kind: (model, content, what makes a file of it)}."""
    arrays = state_dict(TINY)
    others = {f"{name}.npy": npy(array) for name, array in arrays.items() if name != "conv1.weight"}
    blobs = pickle.dumps({"model": arrays, "__author__": "x", "lr": np.float32(0.1)}, 2)
    config = b'{"config": {"layers": []}}'
    return {
        "npz": (TINY, zipped({f"{name}.npy": npy(array) for name, array in arrays.items()}), bytes),
        "npy": (TINY, npy(arrays["conv1.weight"]), lambda array: zipped({"conv1.weight.npy": array, **others})),
        "msgpack": (TINY, serialization.to_bytes(random_variables(TINY)), bytes),
        "pickle": (TINY, blobs, bytes),
        "pickle-5": (TINY, pickle.dumps(arrays, 5), bytes),
        "hdf5": (OF_KERAS, hdf5(legacy=False), bytes),
        "hdf5-legacy": (OF_KERAS, hdf5(legacy=True), bytes),
        "keras": (
            OF_KERAS,
            hdf5(legacy=False),
            lambda weights: zipped({"config.json": config, "model.weights.h5": weights}),
        ),
        "keras-archive": (
            OF_KERAS,
            zipped({"config.json": config, "model.weights.h5": hdf5(legacy=False)}),
            bytes,
        ),
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_that_are_damaged_are_sound_before(tmp_path, kind):
    model, content, make_file = KINDS[kind]
    (tmp_path / "w").write_bytes(make_file(content))
    assert_equal(load_weights(tmp_path / "w", model), random_variables(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=max(NUM_EXAMPLES // 5, 1), derandomize=True, deadline=None, database=None)
@given(edits=EDITS)
def test_a_damaged_file_of_another_framework_is_read_or_refused_in_one_line(tmp_path_factory, kind, edits):
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}"
    model, content, make_file = KINDS[kind]
    path.write_bytes(make_file(edited(content, edits, [other for _, other, _ in KINDS.values()])))
    opened = result_or_refusal(lambda: open_weights_file(path), path)
    for stored in tensors_in(opened.root if opened else None):
        if np.prod(stored.shape, dtype=float) <= MAX_ELEMENTS:
            numbers = result_or_refusal(stored.read, path)
            assert numbers is None or numbers.shape == stored.shape
    variables = result_or_refusal(lambda: load_weights(path, model), path)
    if variables is not None:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), variable_shapes(model)
        )
