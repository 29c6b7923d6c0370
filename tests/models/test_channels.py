"""Networks for images of other than three channels: saved, loaded, converted, folded and exported as any other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from state_dicts import assert_equal, small

from resnet_jax import load_weights, save_weights
from resnet_jax.cli.main import main
from resnet_jax.config import load_config
from resnet_jax.models import fold_batch_norm, num_input_channels
from resnet_jax.training.experiment import options_of
from resnet_jax.training.init_weights import load_initial

NAMES = ("resnet18", "resnet50d", "cifar_resnet18", "resnetv2_50")
CHANNELS = (1, 6)


@pytest.fixture(scope="module")
def initialized():
    """(name, channels) -> a small model and variables, of the names and shapes that `model.init` gives them."""
    made = {}

    def init(name, num_channels):
        if (name, num_channels) not in made:
            model = small(name)
            images = jnp.zeros((1, 8, 8, num_channels))
            shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
            numbers = np.random.default_rng(num_channels)
            draw = lambda leaf: jnp.asarray(numbers.uniform(0.1, 0.2, leaf.shape), leaf.dtype)  # noqa: E731
            made[name, num_channels] = model, jax.tree.map(draw, shapes)
        return made[name, num_channels]

    return init


@pytest.mark.parametrize("num_channels", CHANNELS)
@pytest.mark.parametrize("name", NAMES)
def test_what_model_init_gives_is_saved_and_loaded(initialized, tmp_path, name, num_channels):
    model, variables = initialized(name, num_channels)
    assert num_input_channels(model, variables) == num_channels
    save_weights(tmp_path / "weights.safetensors", model, variables)
    assert_equal(load_weights(tmp_path / "weights.safetensors", model), variables)


@pytest.mark.parametrize("num_channels", CHANNELS)
def test_a_new_head_and_a_folded_network_keep_the_channels(initialized, tmp_path, num_channels):
    model, variables = initialized("resnet18", num_channels)
    save_weights(tmp_path / "weights.safetensors", model, variables)
    other = model.clone(num_classes=7)
    with pytest.raises(ValueError, match=r"has 5 classes and the model 7 \(fc.weight is \(5, 16\) there and \(7, 16\)"):
        load_weights(tmp_path / "weights.safetensors", other)
    reset = load_weights(tmp_path / "weights.safetensors", other, head="reset")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, num_channels))
    assert other.apply(reset, images, train=False).shape == (2, 7)
    folded, constants = fold_batch_norm(model, variables)
    np.testing.assert_allclose(
        folded.apply(constants, images, train=False), model.apply(variables, images, train=False), rtol=1e-4, atol=1e-5
    )
    save_weights(tmp_path / "folded.safetensors", folded, constants)
    assert_equal(load_weights(tmp_path / "folded.safetensors", folded), constants)


def test_a_stem_of_another_kind_does_not_fit(initialized, tmp_path):
    model, variables = initialized("resnet18", 1)
    save_weights(tmp_path / "weights.safetensors", model, variables)
    with pytest.raises(ValueError, match=r"differs in conv1.weight \(8, 1, 7, 7\) there and \(8, 1, 3, 3\) here"):
        load_weights(tmp_path / "weights.safetensors", small("cifar_resnet18"))
    params = {**variables["params"], "conv1": {"kernel": jnp.zeros((7, 7, 1, 9))}}
    with pytest.raises(ValueError, match="the variables are not this model's"):
        save_weights(tmp_path / "other.safetensors", model, {**variables, "params": params})


def test_weights_for_other_images_are_converted_and_exported(initialized, tmp_path, capsys):
    model, variables = initialized("resnet18", 6)
    save_weights(tmp_path / "weights.safetensors", model, variables)
    options = ["--model", "resnet18", "--model_args", "stage_sizes=(2,1)", "num_filters=8", "num_classes=5"]
    words = ["convert", "--from", str(tmp_path / "weights.safetensors"), "--to", str(tmp_path / "folder"), *options]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_channels"] == 6
    assert_equal(load_weights(tmp_path / "folder", model), variables)
    target = tmp_path / "network.stablehlo"
    assert main(["export", "--weights", str(tmp_path / "folder"), "--to", str(target), "--image_size", "16"]) == 0
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 6))
    np.testing.assert_allclose(exported.call(images), model.apply(variables, images, train=False), rtol=1e-4, atol=1e-5)


def test_weights_for_other_images_are_refused_where_images_are_rgb(initialized, tmp_path, capsys):
    model, variables = initialized("resnet18", 1)
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, variables)
    options = ["--model", "resnet18", "--model_args", "stage_sizes=(2,1)", "num_filters=8", "num_classes=5"]
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    assert (
        main(["predict", str(tmp_path / "image.png"), "--weights", str(path), *options, "--preprocess", "CIFAR"]) == 2
    )
    line = f"{path} is of a network for images of 1 channel, and here they have 3: use weights for images of 3"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"
    words = ["model=resnet18", "model_args.stage_sizes=(2,1)", "model_args.num_filters=8", f"finetune.weights={path}"]
    config = load_config("default", [f"--config.{word}" for word in words])
    with pytest.raises(ValueError, match="is of a network for images of 1 channel, and here they have 3"):
        load_initial(options_of(config), small("resnet18", num_classes=10), ())
