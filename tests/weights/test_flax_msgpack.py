"""Flax's msgpack files: of transformers, of the ImageNet example and of our own variables."""

import tarfile

import golden_files
import jax
import msgpack
import numpy as np
import pytest
from flax import serialization
from golden import weights
from state_dicts import assert_equal, random_variables, small

from resnet_jax import create_model, load_weights
from resnet_jax.errors import UserError
from resnet_jax.weights import import_weights
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.formats.flax_names import name_variables
from resnet_jax.weights.formats.msgpack_file import looks_like_msgpack, open_msgpack
from resnet_jax.weights.lazy_tensor import ArrayTensor

KINDS = {"basic": "resnet18", "bottleneck": "resnet50"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flax")
    with tarfile.open(golden_files.GOLDEN / "flax.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def images(size):
    return weights.images(2, size).transpose(0, 2, 3, 1).astype(np.float32)


@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "arguments", "layout"),
    [
        ("transformers", {"stage_sizes": (2, 1)}, "transformers"),
        ("example", {"stage_sizes": (2, 2), "stride_padding": "same"}, "flax"),
    ],
)
def test_a_file_answers_as_in_flax(folder, source, arguments, layout, kind, size):
    path = folder / f"{source}-{kind}.msgpack"
    with np.load(folder / "logits.npz") as logits, jax.enable_x64(True):
        model = create_model(KINDS[kind], **arguments, num_filters=8, num_classes=5, dtype="float64")
        variables, report = import_weights(path, model)
        answer = model.apply(variables, images(size).astype(np.float64), train=False)
        np.testing.assert_allclose(answer, logits[f"{source}-{kind}-{size}"], rtol=0, atol=1e-12)
    assert (report.format, report.layout, report.unexpected) == ("msgpack", layout, {})


def test_the_examples_padding_is_said(folder):
    path = folder / "example-basic.msgpack"
    arguments = {"stage_sizes": (2, 2), "num_filters": 8, "num_classes": 5}
    with pytest.raises(UserError, match=r"flax, whose networks have stride_padding='same'.*--model_args"):
        load_weights(path, create_model("resnet18", **arguments))
    _, model, _ = describe_weights(path, "resnet18", arguments)
    assert model.stride_padding == "same"
    with pytest.raises(UserError, match=r"it looks like --model resnet18"):
        describe_weights(path, None, {})


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda variables: variables,
        lambda variables: {"model": variables, "epoch": 3},
        lambda variables: {"step": 3, "opt_state": {"0": variables["params"]}, **variables},
        lambda variables: {"params": variables, "opt_state": {}},
        lambda variables: {"target": {"params": variables["params"], "batch_stats": variables["batch_stats"]}},
    ],
)
def test_our_own_variables_come_back(tmp_path, wrapped):
    model = small("resnet50")
    variables = random_variables(model)
    (tmp_path / "checkpoint_7").write_bytes(serialization.to_bytes(wrapped(variables)))
    assert_equal(load_weights(tmp_path / "checkpoint_7", model), variables)


def test_half_precision_and_scalars_are_read(tmp_path):
    model = small()
    variables = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), random_variables(model))
    (tmp_path / "w").write_bytes(serialization.msgpack_serialize({**variables, "step": np.float32(3)}))
    assert_equal(load_weights(tmp_path / "w", model), jax.tree.map(lambda leaf: leaf.astype("float32"), variables))


def test_an_array_in_chunks_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    model = small()
    variables = random_variables(model)
    data = serialization.to_bytes(variables)
    assert b"__msgpack_chunked_array__" in data
    (tmp_path / "w").write_bytes(data)
    assert_equal(load_weights(tmp_path / "w", model), variables)


@pytest.mark.parametrize("item", ["", "default"])
def test_a_checkpoint_folder_of_orbax_is_read(tmp_path, item):
    """flax.training.checkpoints writes such a folder now, a CheckpointManager one deeper."""
    import orbax.checkpoint as ocp

    model = small("resnet50")
    variables = random_variables(model)
    state = {"step": 3, "opt_state": [{"trace": variables["params"]["fc"]}], **variables}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step" / item, state)
    loaded, report = import_weights(tmp_path / "step", model)
    assert_equal(loaded, variables)
    assert report.format == "orbax"
    for file in (tmp_path / "step" / item).rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(bytes(10))
    with pytest.raises(UserError, match="damaged") as error:
        load_weights(tmp_path / "step", model)
    assert "\n" not in str(error.value)


def test_the_examples_blocks_are_counted_through_its_stages():
    tensor = ArrayTensor(np.zeros(1))
    blocks = {f"ResNetBlock_{i}": {"Conv_0": {"kernel": tensor}} for i in range(12)}
    for first in (2, 11):
        blocks[f"ResNetBlock_{first}"]["conv_proj"] = {"kernel": tensor}
        blocks[f"ResNetBlock_{first}"]["norm_proj"] = {"scale": tensor}
    named = name_variables({"params": blocks})
    assert named.originals["layer1.1.conv1.weight"] == "params/ResNetBlock_1/Conv_0/kernel"
    assert named.originals["layer2.8.conv1.weight"] == "params/ResNetBlock_10/Conv_0/kernel"
    assert named.originals["layer3.0.downsample.1.weight"] == "params/ResNetBlock_11/norm_proj/scale"


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"params": {}}, "without arrays"),
        ({"a": 1}, "without arrays"),
        ({"w": msgpack.ExtType(1, msgpack.packb(((2, 3), "float32", bytes(23))))}, "damaged"),
        ({"w": msgpack.ExtType(1, msgpack.packb(((-1, 6), "float32", bytes(24))))}, "damaged"),
        ({"w": msgpack.ExtType(1, msgpack.packb(((6,), "object", bytes(24))))}, "without arrays"),
        ({"w": msgpack.ExtType(1, b"\xc1")}, "damaged"),
    ],
)
def test_what_holds_no_arrays_is_refused(tmp_path, tree, line):
    (tmp_path / "w").write_bytes(msgpack.packb(tree))
    with pytest.raises(UserError, match=line) as error:
        load_weights(tmp_path / "w", small())
    assert "\n" not in str(error.value)


def test_lists_within_lists_do_not_fill_the_memory(tmp_path):
    (tmp_path / "w").write_bytes(b"\x81\xa1a" + b"\xdd\x00\xff\xff\xff" * 500 + bytes(2**24))
    with pytest.raises(UserError, match="damaged"):
        open_msgpack(tmp_path / "w")


def test_dicts_without_end_are_refused(tmp_path):
    one = b"\xde\x27\x10" + b"".join(b"\xa5" + b"%05d" % i + b"\xc0" for i in range(10_000))
    (tmp_path / "w").write_bytes(b"\xde\x00\x65" + b"".join(b"\xa3" + b"%03d" % i + one for i in range(101)))
    with pytest.raises(UserError, match="its dicts have more than 1000000 entries"):
        open_msgpack(tmp_path / "w")


def test_a_dict_of_names_is_told_from_pickles():
    assert all(looks_like_msgpack(msgpack.packb({f"key{i}": 1 for i in range(n)})) for n in (1, 15, 16, 70_000))
    assert not looks_like_msgpack(b"\x80\x02}q\x00")
    assert not looks_like_msgpack(b"\x82\x01\x02")
