"""Images that are no squares: read, fitted, trained on, predicted and exported alike."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli.main import main
from resnet_jax.config import config_from_dict, load_config, to_json
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_source
from resnet_jax.errors import UserError
from resnet_jax.inference.evaluate import evaluate_run
from resnet_jax.inference.predictor import open_run
from resnet_jax.training.experiment import build_experiment, load_images, options_of
from resnet_jax.training.resume import check_run
from resnet_jax.training.run import train

TINY = ("model=resnet20", "model_args.stage_sizes=(1,)", "model_args.num_filters=4", "batch_size=8", "num_steps=2")
FITS = ("crop", "squash", "pad")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of four images a class in train/ and val/, twice as wide as high."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = random.integers(0, 256, (20, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def config_of(root, *words):
    fields = (*TINY, "dataset=folder", f"data_dir={root}", "image_size=(16, 24)", *words)
    return load_config("default", [f"--config.{field}" for field in fields])


@pytest.mark.parametrize("text", ["(16, 24)", "[16, 24]", "16, 24"])
def test_image_size_may_be_two_numbers_on_the_command_line_in_files_and_in_stored_configs(text, tmp_path):
    config = load_config("default", [f"--config.image_size={text}"])
    assert config.image_size == (16, 24)
    assert load_config("default", ["--config.image_size=16"]).image_size == 16
    assert config_from_dict(json.loads(to_json(config))).image_size == (16, 24)
    path = tmp_path / "mine.py"
    path.write_text(
        "from resnet_jax.config import load_config\n\ndef get_config():\n"
        "    config = load_config('digits')\n    config.image_size = (16, 24)\n    return config\n"
    )
    assert load_config(str(path)).image_size == (16, 24)
    assert load_config(str(path), ["--config.image_size=8"]).image_size == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(16, 24, 3)", r"must be a number of pixels from 0 to 8192, or \(height, width\)"),
        ("(0, 24)", r"config\.image_size=\(0, 24\) must be a number of pixels"),
        ("-1", r"config\.image_size=-1 must be"),
        ("9000", r"config\.image_size=9000 must be"),
        ("wide", r"config\.image_size='wide' must be a whole number, or two like \(64, 96\)"),
        ("16.5", r"config\.image_size='16\.5' must be a whole number"),
    ],
)
def test_other_sizes_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        load_config("default", [f"--config.image_size={text}"])


def test_images_in_memory_are_enlarged_to_multiples_of_their_sides():
    small, large = load_source("digits", "test"), load_source("digits", "test", DatasetOptions(image_size=(16, 24)))
    np.testing.assert_array_equal(large.images, small.images.repeat(2, axis=1).repeat(3, axis=2))
    with pytest.raises(UserError, match=r"image_size=\(16, 20\) must be a multiple of 8"):
        load_source("digits", "test", DatasetOptions(image_size=(16, 20)))


@pytest.mark.parametrize("fit", FITS)
def test_images_are_fitted_alike_in_training_and_evaluation(photos, fit):
    splits = load_images(options_of(config_of(photos, f"fit={fit}")))
    with Image.open(photos / "train/cat/0.png") as image:
        if fit == "crop":  # 18 rows cover 27 columns
            expected = np.asarray(image.resize((36, 18), Image.Resampling.BILINEAR))[1:17, 6:30]
        elif fit == "squash":
            expected = np.asarray(image.resize((24, 16), Image.Resampling.BILINEAR))
        else:
            expected = np.zeros((16, 24, 3), np.uint8)
            expected[2:14] = image.resize((24, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(splits.train.read(np.arange(1)).image[0], expected)
    batches = build_experiment(options_of(config_of(photos, f"fit={fit}")), jax.devices()[:1]).batches
    in_training = {image.tobytes() for step in range(1) for image in batches[step]["image"]}
    assert expected.tobytes() in in_training


def test_random_crops_have_the_shape_and_are_taken_of_the_fitted_image(photos):
    words = ("augment.random_resized_crop=True", "augment.crop_scale=(1.0, 1.0)", "augment.crop_ratio=(1.5, 1.5)")
    for fit in ("squash", "pad"):  # the whole of what evaluation sees
        config = config_of(photos, f"fit={fit}", *words)
        experiment = build_experiment(options_of(config), jax.devices()[:1])
        source = experiment.batches.source
        whole = {image.tobytes() for image in source.read(np.arange(8)).image}
        assert {image.tobytes() for step in range(1) for image in experiment.batches[step]["image"]} == whole


@pytest.mark.parametrize("fit", [*(pytest.param(fit, marks=pytest.mark.slow) for fit in ("crop", "squash")), "pad"])
def test_a_run_predicts_as_it_evaluates(photos, tmp_path, fit, capsys):
    config = config_of(photos, f"fit={fit}")
    train(options_of(config), tmp_path / "run", "run")
    trained = open_run(tmp_path / "run")
    assert trained.input_shape == (16, 24, 3)
    assert trained.preprocess == options_of(config).images.preprocess()
    validation = load_images(options_of(config)).validation
    assert validation is not None
    for i, image in enumerate(validation.read(np.arange(8)).image):
        with Image.open(photos / f"val/{('cat', 'dog')[i // 4]}/{i % 4}.png") as picture:
            np.testing.assert_array_equal(trained.pixels(picture), image)
    assert evaluate_run(tmp_path / "run")["count"] == 8
    capsys.readouterr()
    run, target = str(tmp_path / "run"), tmp_path / "network.stablehlo"
    assert main(["predict", str(photos / "val"), "--workdir", run, "--to", str(tmp_path / "sheet.png"), "--json"]) == 0
    assert main(["export", "--workdir", run, "--to", str(target), "--preprocessing"]) == 0
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    assert exported.in_avals[0].shape[1:] == (16, 24, 3)
    assert main(["convert", "--from", run, "--to", str(tmp_path / "weights.safetensors"), "--json"]) == 0
    weights = ["--weights", str(tmp_path / "weights.safetensors"), "--data", str(photos / "val"), "--json"]
    capsys.readouterr()
    assert main(["evaluate", *weights]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 8


def test_previews_and_dry_runs_show_the_shape(photos, tmp_path, capsys):
    words = ["--config", "default", *(f"--config.{field}" for field in TINY), "--config.dataset=folder"]
    words += [f"--config.data_dir={photos}", "--config.image_size=(16, 24)", "--config.fit=pad"]
    assert main(["preview", *words, "--to", str(tmp_path / "batch.png")]) == 0
    assert "24x16" in capsys.readouterr().out
    assert main(["train", *words, "--workdir", str(tmp_path / "run"), "--dry_run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image_shape"] == [16, 24, 3]


def test_resize_has_no_effect_where_images_are_squashed_and_may_not_be_less_than_the_crop(photos):
    with pytest.raises(UserError, match=r"config\.resize=20 has no effect in this run: it needs config\.fit='crop'"):
        config_of(photos, "fit=squash", "resize=20")
    with pytest.raises(UserError, match=r"config\.resize=20 must be at least the crop, \(16, 24\)"):
        load_images(options_of(config_of(photos, "resize=20")))


def test_runs_begun_before_there_were_these_fields_continue(tmp_path):
    config = load_config("digits")
    stored = json.loads(to_json(config))
    for field in ("fit", "channels", "high_bit_depth", "max_pixels"):
        del stored[field]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    check_run(tmp_path, options_of(config))
    assert config_from_dict(stored) == config
    grey = load_config("digits", ["--config.channels=1", "--config.mean=(0.5,)", "--config.std=(0.5,)"])
    with pytest.raises(UserError, match=r"config\.channels is 3 there and 1 here"):
        check_run(tmp_path, options_of(grey))
