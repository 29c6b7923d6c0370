"""Weights into models: from every kind of file, or refused in one line that says why."""

import dataclasses
import shutil

import golden_files
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from state_dicts import assert_equal, random_variables, small, state_dict

from resnet_jax import create_model, load_weights
from resnet_jax.checkpoint.weights_directory import write_directory
from resnet_jax.data.sources import load_source
from resnet_jax.errors import UserError
from resnet_jax.weights import import_weights
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.read_info import read_info
from resnet_jax.weights.safetensors_file import write_safetensors


@pytest.fixture
def write(tmp_path):
    def write(tensors):
        write_safetensors(tmp_path / "weights.safetensors", tensors, {})
        return tmp_path / "weights.safetensors"

    return write


@pytest.mark.parametrize(
    ("file", "tolerance"),
    [
        ("digits-resnet20.pth", 1e-4),
        ("digits-resnet20-wrapped-legacy.th", 1e-4),
        ("digits-resnet20.safetensors", 1e-4),
        ("digits-resnet20-fp16.pth", 2e-2),  # half precision's own rounding of the weights
    ],
)
def test_trained_weights_of_every_format_answer_as_in_torch(file, tolerance):
    _, arrays = golden_files.load("digits-resnet20-logits")
    model = create_model("resnet20")
    variables = load_weights(golden_files.GOLDEN / file, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    expected = arrays["logits"][::4]
    logits = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, all_digits()[::4]))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def all_digits():
    """scikit-learn's 1,797 in their own order, as the golden file describes: our split puts every fifth in the test."""
    test, train = load_source("digits", "test"), load_source("digits", "train")
    images = np.empty((len(test) + len(train), 8, 8, 3), np.float32)
    held_out = np.arange(len(images)) % 5 == 0
    for source, rows in ((test, held_out), (train, ~held_out)):
        images[rows] = np.round(source.images / (255 / 16)) / 16  # the grey levels as they were
    return (images.repeat(4, axis=1).repeat(4, axis=2) - 0.5) / 0.5


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_float_types_become_the_models(write, dtype):
    model = small()
    tensors = {name: array.astype(dtype) for name, array in state_dict(model).items()}
    variables = load_weights(write(tensors), model)
    narrowed = np.asarray(random_variables(model)["params"]["fc"]["bias"]).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], narrowed)
    assert variables["params"]["fc"]["bias"].dtype == jnp.float32


def test_weights_into_a_float64_model_stay_float64(write):
    with jax.enable_x64(True):
        model = small(dtype="float64")
        variables = load_weights(write(state_dict(model)), model)
        assert_equal(variables, random_variables(model))
        assert variables["params"]["conv1"]["kernel"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet50d", {}),
        ("seresnet34", {}),
        ("resnetv2_50", {}),
        ("wrn16_8", {"widen_factor": 2}),
        ("resnet20", {}),
        ("resnet18", {"conv_bias": True, "shortcut": "C"}),
        ("resnet34", {"num_classes": None}),
    ],
)
def test_every_variable_finds_its_place(write, name, arguments):
    model = small(name, **arguments)
    variables, report = import_weights(write(state_dict(model)), model)
    assert_equal(variables, random_variables(model))
    assert len(report.loaded) == len(jax.tree.leaves(variables))
    others = (report.missing, report.unexpected, report.misshapen, report.reset, report.reshaped, report.dropped)
    assert not any(others)


def test_other_axes_of_the_same_numbers_are_reshaped_and_reported(write):
    model = small("seresnet18")
    tensors = state_dict(model)
    tensors["fc.weight"] = tensors["fc.weight"][:, :, None, None]  # timm's v2 head
    tensors["layer1.0.se.fc1.weight"] = tensors["layer1.0.se.fc1.weight"][:, :, 0, 0]  # a linear layer
    variables, report = import_weights(write(tensors), model)
    assert_equal(variables, random_variables(model))
    assert report.reshaped == {
        "fc.weight": ((5, 16, 1, 1), (5, 16)),
        "layer1.0.se.fc1.weight": ((8, 8), (8, 8, 1, 1)),
    }


def test_a_transposed_matrix_is_not_taken_for_a_reshaped_one(write):
    tensors = state_dict(small())
    tensors["fc.weight"] = tensors["fc.weight"].T
    with pytest.raises(UserError, match=r"fc.weight \(16, 5\) there and \(5, 16\) here"):
        load_weights(write(tensors), small())


def test_another_number_of_classes_is_asked_about(write):
    path = write(state_dict(small()))
    model = small(num_classes=3)
    with pytest.raises(UserError, match=r"5 classes and the model 3 .*num_classes=5, or .*head='reset'"):
        load_weights(path, model)
    variables, report = import_weights(path, model, head="reset")
    assert report.reset == {"fc.weight": (3, 16), "fc.bias": (3,)}
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
    expected = random_variables(small())
    assert_equal(variables["batch_stats"], expected["batch_stats"])
    assert_equal(variables["params"]["layer1"], expected["params"]["layer1"])
    kernel = variables["params"]["fc"]["kernel"]
    assert kernel.shape == (16, 3)
    assert 0 < np.abs(kernel).max() <= 16**-0.5
    assert jax.tree.structure(variables) == jax.tree.structure(random_variables(model))


def test_reset_starts_a_new_head_also_where_the_old_one_would_fit(write):
    variables = load_weights(write(state_dict(small())), small(), head="reset")
    assert np.abs(variables["params"]["fc"]["bias"]).max() < 0.5  # those of the file are above


def test_weights_without_a_head(write):
    path = write({name: array for name, array in state_dict(small()).items() if not name.startswith("fc")})
    with pytest.raises(UserError, match=r"has no head \(fc.bias is missing\).*head='reset'"):
        load_weights(path, small())
    assert set(import_weights(path, small(), head="reset")[1].reset) == {"fc.weight", "fc.bias"}
    assert "fc" not in load_weights(path, small(num_classes=None))["params"]


def test_a_headless_model_leaves_the_head_in_the_file(write):
    variables, report = import_weights(write(state_dict(small())), small(num_classes=None))
    assert "fc" not in variables["params"]
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]


def test_projections_of_another_shortcut_are_named(write):
    wanted = (
        r"has beyond the model layer2.0.downsample.0.weight .*; it looks like create_model\('resnet20', shortcut='B'\)"
    )
    tensors = state_dict(create_model("resnet20", shortcut="B"))
    with pytest.raises(UserError, match=wanted):
        load_weights(write(tensors), create_model("resnet20"))


def test_missing_unexpected_and_misshapen_tensors_are_all_named(write):
    tensors = state_dict(small())
    del tensors["layer1.1.bn2.running_mean"]
    tensors["layer1.0.extra.weight"] = np.zeros((2, 3), np.float32)
    tensors["conv1.weight"] = np.zeros((8, 4, 5, 5), np.float32)
    with pytest.raises(UserError) as error:
        load_weights(write(tensors), small())
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "lacks layer1.1.bn2.running_mean (8,)",
        "has beyond the model layer1.0.extra.weight (2, 3)",
        "differs in conv1.weight (8, 4, 5, 5) there and (8, 4, 7, 7) here",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("of", "into", "likely"),
    [
        ("resnet18", "resnet50", "it looks like create_model('resnet18')"),
        ("resnet50", "resnet18", "it looks like create_model('resnet50')"),
        ("resnet34", "resnet18", "it looks like create_model('resnet34')"),
        ("resnext50_32x4d", "resnet50", "it looks like create_model('resnext50_32x4d')"),
        ("wide_resnet50_2", "resnet50", "it looks like create_model('wide_resnet50_2')"),
        ("resnet50d", "resnet50", "it looks like create_model('resnet50d')"),
        ("seresnet50", "resnet50", "it looks like create_model('seresnet50')"),
        ("resnetv2_50", "resnet50", "it looks like create_model('resnetv2_50')"),
        ("resnet56", "resnet20", "it looks like create_model('resnet56')"),
        ("wrn16_8", "cifar_resnet18", "it looks like create_model('wrn16_8')"),
        ("preact_resnet56", "resnet56", "it looks like create_model('preact_resnet56')"),
    ],
)
def test_the_likely_model_is_named(of, into, likely):
    from resnet_jax.models import variable_shapes
    from resnet_jax.weights.names import torch_shapes
    from resnet_jax.weights.nearest_network import describe_network

    shapes = {name: shape for name, (_, shape) in torch_shapes(variable_shapes(create_model(of))).items()}
    network, _, others = describe_network(shapes).partition(" (or ")
    assert f"it looks like {network}" == likely
    assert ("resnetaa50:" in others) == (of == "resnet50")  # anti-aliasing leaves no trace in names and shapes


def test_the_wrong_model_is_one_line_with_the_likely_one(write):
    model = create_model("resnet20", num_classes=100, shortcut="B", conv_bias=True)
    with pytest.raises(UserError) as error:
        load_weights(write(state_dict(model)), create_model("resnet20"))
    assert "create_model('resnet20', shortcut='B', conv_bias=True, num_classes=100)" in str(error.value)
    assert "\n" not in str(error.value)


def test_biases_that_only_some_convolutions_have_are_zero_elsewhere(write):
    model = small("resnet50", conv_bias=True)
    tensors = state_dict(model)
    for name in ("conv1.bias", "layer1.0.downsample.0.bias", "layer2.0.downsample.0.bias"):
        del tensors[name]
    variables, report = import_weights(write(tensors), model)
    assert report.zeroed == {
        "conv1.bias": (8,),
        "layer1.0.downsample.0.bias": (32,),
        "layer2.0.downsample.0.bias": (64,),
    }
    np.testing.assert_array_equal(variables["params"]["conv1"]["bias"], np.zeros(8))
    assert jax.tree.structure(variables) == jax.tree.structure(random_variables(model))


def test_a_bias_that_alone_of_its_kind_is_absent_is_missing(write):
    model = small("resnet50", conv_bias=True)
    tensors = state_dict(model)
    del tensors["layer2.0.conv2.bias"]
    with pytest.raises(UserError, match=r"lacks layer2.0.conv2.bias \(16,\)"):
        load_weights(write(tensors), model)


def test_numbers_beyond_the_models_range_are_refused(write):
    tensors = {name: array.astype(np.float64) for name, array in state_dict(small()).items()}
    tensors["conv1.weight"] *= 1e300
    with pytest.raises(UserError, match=r"conv1.weight has float64 numbers beyond the range of float32"):
        load_weights(write(tensors), small())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fc.weight", ()),
        ("fc.weight", (5,)),
        ("fc.weight", (0, 16)),
        ("layer1.0.conv3.weight", ()),
        ("layer1.0.conv2.weight", (3, 16, 3, 3)),
        ("layer1.99999999.conv1.weight", (1,)),
        ("conv1.weight", (8, 0, 7, 7)),
        ("a\n\x1b[31mred" + "x" * 5000, (1,)),
    ],
)
def test_odd_shapes_and_names_are_one_short_line(write, name, shape):
    model = small("resnet50")
    tensors = {**state_dict(model), name: np.ones(shape, np.float32)}
    with pytest.raises(UserError) as error:
        load_weights(write(tensors), model)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000
    assert "num_classes=0" not in str(error.value)
    assert "99999999," not in str(error.value)


def test_other_weights_beside_the_network_do_not_hide_its_prefix(write, caplog):
    tensors = {f"model.{name}": array for name, array in state_dict(small()).items()}
    tensors["criterion.weight"] = np.ones(5, np.float32)
    load_weights(write(tensors), small())
    assert "left criterion.weight: 1 beside the network" in caplog.text


def test_biases_are_not_made_up_where_the_file_has_none(write):
    tensors = state_dict(small("resnet50"))
    with pytest.raises(UserError, match=r"lacks conv1.bias \(8,\)"):
        load_weights(write(tensors), small("resnet50", conv_bias=True))


def test_names_that_mean_the_same_are_refused(write):
    tensors = state_dict(small())
    tensors["linear.weight"] = tensors["fc.weight"]
    with pytest.raises(UserError, match=r"holds fc.weight twice, as 'fc.weight' and as 'linear.weight'"):
        load_weights(write(tensors), small())


def test_integers_are_no_weights(write):
    tensors = state_dict(small())
    tensors["conv1.weight"] = tensors["conv1.weight"].astype(np.int8)
    with pytest.raises(UserError, match=r"conv1.weight is of dtype int8"):
        load_weights(write(tensors), small())


def test_unknown_head_choice():
    with pytest.raises(UserError, match="head='keep' must be one of strict, reset"):
        load_weights("nowhere.pth", small(), head="keep")


def test_a_runs_checkpoints_are_read_from_any_of_its_folders(tmp_path):
    import optax

    from resnet_jax.checkpoint.background_writer import BackgroundWriter
    from resnet_jax.checkpoint.folder import open_latest
    from resnet_jax.training.checkpointer import save_state
    from resnet_jax.training.train_state import create_train_state

    model = small()
    state = create_train_state(model, random_variables(model), optax.sgd(0.1))
    later = jax.tree.map(lambda leaf: leaf + 1, random_variables(model))
    with BackgroundWriter() as saves:
        save_state(open_latest(tmp_path), saves, state.replace(step=jnp.asarray(9)), {})
        save_state(open_latest(tmp_path), saves, dataclasses.replace(state, step=jnp.asarray(10), **later), {})
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "10"):
        assert_equal(load_weights(path, model), later)
    assert_equal(load_weights(tmp_path / "checkpoints" / "9", model), random_variables(model))
    # Weights that are not there any more are told: older ones are no substitute unless they are asked for.
    shutil.rmtree(tmp_path / "checkpoints" / "10" / "variables")
    with pytest.raises(UserError, match=r"checkpoints/10/variables is damaged"):
        load_weights(tmp_path, model)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no checkpoint directory"):
        load_weights(tmp_path, small())


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("manifest.json", "is damaged: manifest.json is not what was saved"),
        ("weights.json", "is damaged: weights.json is not what was saved; convert the weights again"),
        ("variables/_METADATA", "variables is damaged: "),
        ("variables/d/*", "variables is damaged: "),
    ],
)
def test_a_damaged_checkpoint_directory_is_one_line(tmp_path, place, message):
    model = small()
    folder = tmp_path / "weights"
    write_directory(folder, random_variables(model), WeightsInfo(model="resnet18").to_json())
    assert_equal(load_weights(folder, model), random_variables(model))
    (file,) = folder.glob(place)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    read = read_info if place == "weights.json" else lambda path: load_weights(path, model)
    with pytest.raises(UserError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_pretrained_weights_come_from_the_server_and_then_from_the_cache(tmp_path, monkeypatch):
    import hashlib
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from resnet_jax import load_pretrained
    from resnet_jax.weights import pretrained

    write_safetensors(tmp_path / "weights", state_dict(small()), {})
    content = (tmp_path / "weights").read_bytes()
    file_name = f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / file_name).write_bytes(content)
    monkeypatch.setitem(pretrained.PRETRAINED, ("resnet18", "IMAGENET1K_V1"), file_name)
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("RESNET_JAX_PRETRAINED_URL", f"http://127.0.0.1:{server.server_port}")
        first = load_pretrained("resnet18", model=small())
        server.shutdown()
    assert_equal(first, random_variables(small()))
    assert_equal(load_pretrained("resnet18", model=small()), first)
    assert (tmp_path / "home" / "pretrained" / file_name).exists()
