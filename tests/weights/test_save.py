"""Weights back into files: an import of an export is the identity, in every layout."""

import json

import golden_files
import numpy as np
import pytest
from golden import weights
from state_dicts import assert_equal, random_variables, small, state_dict

from resnet_jax import load_preprocess, load_weights, save_weights
from resnet_jax.data.transforms.preprocess import PREPROCESS
from resnet_jax.errors import UserError
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.read_info import read_info
from resnet_jax.weights.safetensors_file import open_safetensors, write_safetensors
from resnet_jax.weights.save import state_dict_arrays


@pytest.mark.parametrize(
    ("name", "layout", "arguments"),
    [
        ("resnet18", "torchvision", {}),
        ("resnet50", "transformers", {}),
        ("resnet34", "tutorial", {"conv_bias": True}),
        ("resnet20", "akamaster", {}),
        ("resnet50d", "timm", {}),
        ("seresnet50", "timm", {}),
        ("resnetv2_50", "timm", {}),
        ("resnetv2_50", "torchvision", {}),
        ("wrn16_8", "torchvision", {"widen_factor": 2}),
        ("resnext50_32x4d", "torchvision", {"num_filters": 16, "num_classes": None}),
    ],
)
def test_import_of_an_export_is_the_identity(tmp_path, name, layout, arguments):
    model = small(name, **arguments)
    path = tmp_path / "exported.safetensors"
    save_weights(path, model, random_variables(model), layout=layout)
    assert_equal(load_weights(path, model), random_variables(model))
    assert [file.name for file in tmp_path.iterdir()] == ["exported.safetensors"]


@pytest.mark.parametrize(
    ("golden", "layout", "name"),
    [
        ("torchvision-resnet18", "torchvision", "resnet18"),
        ("hf-resnet-18", "transformers", "resnet18"),
        ("timm-resnetv2_50", "timm", "resnetv2_50"),
    ],
)
def test_an_export_has_the_frameworks_names_shapes_and_numbers(tmp_path, golden, layout, name):
    from resnet_jax import create_model

    facts, _ = golden_files.load(golden)
    original = {key: weights.tensor(key, tuple(shape)) for key, shape in facts["state_dict"].items()}
    original = {key: value if value.dtype == np.int64 else value.astype(np.float32) for key, value in original.items()}
    write_safetensors(tmp_path / "original.safetensors", original, {})
    model = create_model(name)
    exported = state_dict_arrays(model, load_weights(tmp_path / "original.safetensors", model), layout)
    assert {key: list(array.shape) for key, array in exported.items()} == facts["state_dict"]
    for key, array in exported.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, original[key])


def test_a_headless_export_has_the_names_of_transformers_own_headless_model():
    model = small("resnet18", num_classes=None)
    names = set(state_dict_arrays(model, random_variables(model), "transformers"))
    assert "embedder.embedder.convolution.weight" in names
    assert not any(name.startswith(("resnet.", "classifier.")) for name in names)


def test_what_is_known_travels_in_the_files_metadata(tmp_path):
    path = tmp_path / "weights.safetensors"
    info = WeightsInfo("resnet18", {"num_classes": 2}, ("cat", "dog"), PREPROCESS["IMAGENET1K_V2"], "x.pth")
    save_weights(path, small(), random_variables(small()), info=info)
    assert read_info(path) == info
    assert load_preprocess(path) == PREPROCESS["IMAGENET1K_V2"]
    assert open_safetensors(path)[1]["format"] == "pt"  # which transformers wants to see


def test_published_names_tell_their_preprocessing(tmp_path):
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
        write_safetensors(tmp_path / name, state_dict(small()), {})
    assert load_preprocess(tmp_path / "resnet50-0676ba61.pth") == PREPROCESS["IMAGENET1K_V1"]
    assert load_preprocess(tmp_path / "resnet50-11ad3fa6.pth") == PREPROCESS["IMAGENET1K_V2"]
    assert read_info(tmp_path / "resnet50-11ad3fa6.pth").model == "resnet50"
    names = read_info(tmp_path / "resnet50-11ad3fa6.pth").class_names
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")


def test_weights_that_tell_nothing_are_asked_for_it(tmp_path):
    save_weights(tmp_path / "weights.safetensors", small(), random_variables(small()))
    with pytest.raises(UserError, match="does not tell how its images were prepared"):
        load_preprocess(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2}',
        json.dumps({"format": 1, "preprocess": {"resize": -1}}),
        '{"format": 1, "x": 2}',
        "[" * 9999,
    ],
)
def test_information_that_cannot_be_read_is_one_line(tmp_path, text):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, state_dict(small()), {"resnet_jax": text})
    with pytest.raises(UserError) as error:
        read_info(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"stem_pool": "conv"}, {"squeeze_excite": True}, {"channel_attention": True}])
def test_timms_names_are_refused_for_pre_activation_networks_it_does_not_have(tmp_path, arguments):
    model = small("resnetv2_50", **arguments)
    with pytest.raises(UserError, match="layout='timm' has no name for"):
        save_weights(tmp_path / "weights.safetensors", model, random_variables(model), layout="timm")


def test_a_failed_write_leaves_neither_files_nor_folders(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (tmp_path / "weights.safetensors.partial").write_text("the user's own")
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        save_weights(tmp_path / "new" / "folder" / "weights.safetensors", small(), random_variables(small()))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors.partial"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.h5", r"must end in one of .safetensors, .pth"),
        ("folder.safetensors", "is a folder"),
        ("file/weights.safetensors", "file is a file"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        save_weights(tmp_path / name, small(), random_variables(small()))


def test_torch_files_without_torch_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match=r".pth needs torch .*\.safetensors needs nothing"):
        save_weights(tmp_path / "weights.pth", small(), random_variables(small()))
    assert list(tmp_path.iterdir()) == []


def test_variables_of_another_model_are_refused(tmp_path):
    with pytest.raises(UserError, match="the variables are not this model's"):
        save_weights(tmp_path / "weights.safetensors", small(num_classes=3), random_variables(small()))


def test_unknown_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"layout='timn' must be one of .*did you mean 'timm'"):
        save_weights(tmp_path / "weights.safetensors", small(), random_variables(small()), layout="timn")
