"""Weights for RGB images in networks for others: timm's own numbers, said aloud, and only where it is asked for."""

import golden_files
import numpy as np
import pytest
from golden import weights
from state_dicts import plausible_variables, small

from resnet_jax import create_model, load_weights, save_weights
from resnet_jax.errors import UserError
from resnet_jax.models.shapes import num_input_channels, stem_kernel, variable_shapes
from resnet_jax.weights.adapt_stem import adapt_kernel
from resnet_jax.weights.names import torch_shapes
from resnet_jax.weights.safetensors_file import write_safetensors

FACTS, LOGITS = golden_files.load("timm-stems")


@pytest.fixture(scope="module")
def rgb_files(tmp_path_factory):
    """Models and files of their golden weights, for images of three channels."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    for name in FACTS["models"]:
        model = create_model(name, num_classes=FACTS["num_classes"])
        arrays = {
            key: np.asarray(weights.tensor(key, shape, FACTS["seed"]), np.float32)
            for key, (_, shape) in torch_shapes(variable_shapes(model)).items()
        }
        write_safetensors(folder / f"{name}.safetensors", arrays, {"format": "pt"})
        made[name] = model, folder / f"{name}.safetensors"
    return made


@pytest.mark.parametrize("num_channels", FACTS["in_chans"])
@pytest.mark.parametrize("name", FACTS["models"])
def test_logits_of_an_adapted_stem_are_timms(rgb_files, name, num_channels, capsys):
    model, path = rgb_files[name]
    variables = load_weights(path, model, num_channels=num_channels)
    assert num_input_channels(model, variables) == num_channels
    assert f"is for images of 3 channels: for {num_channels} it is" in capsys.readouterr().err
    shape = (FACTS["batch"], num_channels, FACTS["image_size"], FACTS["image_size"])
    images = np.random.RandomState(1000 + FACTS["seed"]).standard_normal(shape).transpose(0, 2, 3, 1)
    logits = model.apply(variables, images.astype(np.float32), train=False)
    np.testing.assert_allclose(logits, LOGITS[f"{name}/{num_channels}"], rtol=1e-4, atol=1e-4)


def test_kernel_is_summed_or_repeated_and_scaled():
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)  # red (0, 1), green (2, 3), blue (4, 5)
    np.testing.assert_array_equal(adapt_kernel(kernel, 1), [[[[6, 9]]]])
    expected = np.array([[0, 1], [2, 3], [4, 5], [0, 1]]) * np.float32(3 / 4)
    np.testing.assert_allclose(adapt_kernel(kernel, 4)[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(adapt_kernel(kernel, 2)[0, 0], np.array([[0, 1], [2, 3]]) * 1.5, rtol=1e-6)
    assert adapt_kernel(kernel, 4).dtype == np.float32


def test_nothing_is_adapted_unless_asked_for_nor_from_another_number_than_three(rgb_files, tmp_path, capsys):
    model, path = rgb_files["resnet18"]
    assert num_input_channels(model, load_weights(path, model)) == 3
    assert num_input_channels(model, load_weights(path, model, num_channels=3)) == 3
    assert capsys.readouterr().err == ""
    little = small()
    grey = {**plausible_variables(little)}
    *parents, name = stem_kernel(little)
    grey["params"] = {**grey["params"], "conv1": {"kernel": grey["params"]["conv1"]["kernel"][:, :, :1]}}
    assert (parents, name) == (["conv1"], "kernel")
    save_weights(tmp_path / "grey.safetensors", little, grey)
    with pytest.raises(UserError, match="is of a network for images of 1 channel, and here they have 4"):
        load_weights(tmp_path / "grey.safetensors", little, num_channels=4)
