"""Predicting, judging and exporting see images of the size that training with images in memory saw."""

import json

import numpy as np
import pytest
from PIL import Image
from processes import TINY

from resnet_jax.cli.main import main
from resnet_jax.config import load_config
from resnet_jax.data.sources import load_digits
from resnet_jax.inference.evaluate import evaluate_run, evaluate_weights
from resnet_jax.inference.predictor import open_run, open_weights
from resnet_jax.training.experiment import options_of
from resnet_jax.training.run import train
from resnet_jax.weights.convert import convert
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.read_info import read_info


@pytest.fixture(scope="module", params=[0, 16], ids=["own size", "enlarged"])
def run(request, tmp_path_factory):
    """A run on digits, of 8x8 pixels, and the side that its network saw."""
    config = load_config("digits", [word for word in TINY if word.startswith("--config.")])
    changes = {"num_steps": 4, "batch_size": 1288, "schedule": "constant", "image_size": request.param}
    for name, value in changes.items():
        config[name] = value
    config.warmup_epochs = 0.0
    workdir = tmp_path_factory.mktemp("run") / "run"
    train(options_of(config), workdir, "run")
    return workdir, request.param or 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The test digits as PNG files of 8x8 pixels."""
    digits, root = load_digits("test"), tmp_path_factory.mktemp("digits")
    for i, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        path = root / str(label) / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def judged(result):
    return result["loss"], result["accuracy"], result["count"]


def test_a_run_and_its_converted_weights_judge_set_and_files_alike(run, folder, tmp_path):
    workdir, side = run
    expected = judged(evaluate_run(workdir))
    assert expected[2] == 360
    convert(workdir, tmp_path / "w.safetensors")
    convert(workdir, tmp_path / "folder")
    assert read_info(tmp_path / "w.safetensors").image_size == (side, side)
    results = [
        evaluate_run(workdir, str(folder)),
        evaluate_weights(tmp_path / "w.safetensors", "digits"),
        evaluate_weights(tmp_path / "folder", str(folder)),
    ]
    for result in results:
        assert judged(result) == pytest.approx(expected, rel=1e-5)


def test_predicting_and_exporting_take_that_size(run, tmp_path, capsys):
    workdir, side = run
    convert(workdir, tmp_path / "w.safetensors")
    digit = load_digits("test").images[0]
    for trained in (open_run(workdir), open_weights(tmp_path / "w.safetensors")):
        assert trained.input_shape == (side, side, 3)
        factor = side // 8
        np.testing.assert_array_equal(trained.pixels(digit), digit.repeat(factor, axis=0).repeat(factor, axis=1))
    target = tmp_path / "net.stablehlo"
    assert main(["export", "--workdir", str(workdir), "--to", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"].startswith(f"images (batch, {side}, {side}, 3)")


def test_timms_folder_has_that_size(run, tmp_path):
    workdir, side = run
    info = WeightsInfo("resnet18", {"num_classes": 10}, image_size=(side, side))
    assert WeightsInfo.from_json("it", info.to_json()) == info
    assert "image_size" not in json.loads(WeightsInfo("resnet18").to_json())
    manifest = json.loads(next((workdir / "checkpoints").glob("*/manifest.json")).read_text().splitlines()[0])
    assert manifest["position"]["image_size"] == [side, side]
