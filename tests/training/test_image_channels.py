"""Images of 1, 4 and 6 channels: from the files to training, evaluation, prediction and exports."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from state_dicts import plausible_variables

from resnet_jax import save_weights
from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.cli.main import main
from resnet_jax.config import load_config
from resnet_jax.data.decodable_image import ArrayImage
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_digits
from resnet_jax.data.transforms.keyed_random import KeyedRandom
from resnet_jax.errors import UserError
from resnet_jax.inference.evaluate import evaluate_run
from resnet_jax.inference.predictor import open_run
from resnet_jax.models.shapes import num_input_channels
from resnet_jax.models.variants import create_model
from resnet_jax.preflight.memory import estimate_memory
from resnet_jax.training.experiment import build_experiment, build_model, load_images, options_of
from resnet_jax.training.init_weights import load_initial
from resnet_jax.training.run import train

TINY = ("model=resnet20", "model_args.stage_sizes=(1,)", "model_args.num_filters=4", "batch_size=8", "num_steps=2")
MODES = {1: "L", 4: "RGBA"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of RGBA pictures, and of .npy files of six channels, by the number of channels they are for."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for kind in ("pictures", "arrays"):
                (root / kind / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = random.integers(0, 256, (20, 24, 6), np.uint8)
                Image.fromarray(pixels[..., :4]).save(root / "pictures" / split / name / f"{i}.png")
                np.save(root / "arrays" / split / name / f"{i}.npy", pixels)
    return {1: root / "pictures", 3: root / "pictures", 4: root / "pictures", 6: root / "arrays"}


def config_of(folders, channels, *words):
    fields = (*TINY, "dataset=folder", f"data_dir={folders[channels]}", "image_size=16", f"channels={channels}")
    return load_config("default", [f"--config.{field}" for field in (*fields, "mean=(0.4,)", "std=(0.3,)", *words)])


@pytest.mark.parametrize("channels", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4)), 6])
def test_images_of_any_channels_are_trained_on_evaluated_predicted_and_exported(folders, channels, tmp_path, capsys):
    run = tmp_path / "run"
    words = ("augment.random_resized_crop=True", "augment.flip=True", "augment.mixup=0.2", "augment.random_erasing=0.5")
    options = options_of(config_of(folders, channels, *words))
    result = train(options, run, "run")
    assert np.isfinite(result.records[-1]["val_loss"])
    trained = open_run(run)
    assert trained.input_shape == (16, 16, channels)
    assert trained.preprocess.mean == (0.4,) * channels
    assert num_input_channels(trained.model, trained.state.variables) == channels
    stored = open_latest(run).position(result.step)["preprocess"]
    assert stored["std"] == [0.3] * channels

    image = folders[channels] / ("val/dog/3.npy" if channels == 6 else "val/dog/3.png")
    validation = load_images(options).validation
    pixels = validation.read(np.array([7])).image
    assert pixels.shape == (1, 16, 16, channels)
    if channels == 6:
        raw = np.load(image)
    else:
        with Image.open(image) as picture:
            raw = np.asarray(picture.convert(MODES[channels])).reshape(20, 24, channels)
    np.testing.assert_array_equal(trained.pixels(raw), pixels[0])

    logits = trained.model.apply(trained.state.variables, (pixels / np.float32(255) - 0.4) / 0.3, train=False)
    expected = np.asarray(jax.nn.softmax(logits))[0]
    capsys.readouterr()
    sheet = ["--gradcam", "--to", str(tmp_path / "sheet.png")]
    assert main(["predict", str(image), "--workdir", str(run), "--json", *sheet]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["images"]
    assert answer["predictions"][0]["probability"] == pytest.approx(expected.max(), abs=1e-4)
    assert evaluate_run(run, report=tmp_path / "report")["count"] == 8

    weights = tmp_path / "weights.safetensors"
    assert main(["convert", "--from", str(run), "--to", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_channels"] == channels
    data = str(folders[channels] / "val")
    assert main(["evaluate", "--weights", str(weights), "--data", data, "--json"]) == 0
    of_run = evaluate_run(run)
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(of_run["loss"], rel=1e-5)

    target = tmp_path / "network.stablehlo"
    assert main(["export", "--weights", str(weights), "--to", str(target), "--preprocessing"]) == 0
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    np.testing.assert_allclose(exported.call(pixels), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_networks_of_any_channels_become_onnx(folders, channels, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    train(options_of(config_of(folders, channels)), tmp_path / "run", "run")
    target = tmp_path / "network.onnx"
    assert main(["export", "--workdir", str(tmp_path / "run"), "--to", str(target), "--preprocessing"]) == 0
    (given,) = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"]).get_inputs()
    assert given.shape[1:] == [16, 16, channels]


def test_images_in_memory_have_the_channels_too(tmp_path):
    grey, rgb, rgba = (load_digits("test", channels).images for channels in (1, 3, 4))
    np.testing.assert_array_equal(grey.repeat(3, axis=-1), rgb)
    np.testing.assert_array_equal(rgba[..., :3], rgb)
    assert (rgba[..., 3] == 255).all()
    with pytest.raises(UserError, match=r"config.channels=6 must be 1, 3 or 4 for the images of digits"):
        load_digits("test", 6)
    words = [f"--config.{word}" for word in (*TINY, "channels=1", "std=(0.5,)", "normalize=pixel", "image_size=16")]
    train(options_of(load_config("default", words)), tmp_path / "run", "run")
    trained = open_run(tmp_path / "run")
    assert trained.normalization.mean.shape == trained.input_shape == (16, 16, 1)
    assert evaluate_run(tmp_path / "run")["count"] == 360
    assert DatasetOptions().decode.channels == 3


def test_mean_and_std_are_one_number_for_all_or_one_for_each(folders):
    for numbers in ("(0.4, 0.5, 0.6)", "(0.4, 0.5)"):
        with pytest.raises(UserError, match=r"config.mean=.* must be 1 numbers.*set --config.mean=\(0.4,\)"):
            load_images(options_of(config_of(folders, 1, f"mean={numbers}")))
    with pytest.raises(UserError, match=r"config.std=\(0.5, 0.5, 0.5\) must be 6 numbers"):
        load_images(options_of(config_of(folders, 6, "std=(0.5, 0.5, 0.5)")))
    one, three = (options_of(config_of(folders, 3, f"mean={m}")).images for m in ("(0.4,)", "(0.4, 0.4, 0.4)"))
    assert one.preprocess() == three.preprocess()


@pytest.mark.parametrize(
    ("channels", "word", "message"),
    [
        (1, "color_jitter=(0.1, 0.2, 0.3, 0.0)", r"no saturation and no hue with config.channels=1"),
        (1, "color_jitter=(0.0, 0.0, 0.0, 0.1)", r"set --config.augment.color_jitter=\(0.0, 0.0, 0.0, 0.0\)"),
        (4, "color_jitter=(0.1, 0.0, 0.0, 0.0)", r"color_jitter=.* must be zeros with config.channels=4"),
        (1, "policy=randaugment", r"policy='randaugment' must be 'none' with config.channels=1"),
        (6, "policy=trivialaugment", r"policy='trivialaugment' must be 'none' with config.channels=6"),
    ],
)
def test_operations_on_colours_that_images_do_not_have_are_refused_before_images_are_read(
    folders, channels, word, message
):
    config = config_of({channels: "nowhere"}, channels, f"augment.{word}")
    with pytest.raises(UserError, match=message):
        load_images(options_of(config))


def test_grey_images_are_made_brighter_and_darker_as_pillow_does(folders):
    config = config_of(folders, 1, "augment.color_jitter=(0.5, 0.5, 0.0, 0.0)")
    source = load_images(options_of(config)).train
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 1), np.uint8)
    rgb = load_images(options_of(config_of(folders, 3, "augment.color_jitter=(0.5, 0.5, 0.0, 0.0)"))).train
    ours = source.transform.operations[0](Image.fromarray(pixels[..., 0]), KeyedRandom(0, 0, 0))
    theirs = rgb.transform.operations[0](Image.fromarray(pixels.repeat(3, axis=2)), KeyedRandom(0, 0, 0))
    np.testing.assert_allclose(np.asarray(ours, int), np.asarray(theirs, int)[..., 0], atol=1)
    assert source.transform(ArrayImage(pixels), KeyedRandom(0, 0, 0)).shape == (16, 16, 1)


def test_arrays_are_refused_where_pictures_are_expected_and_the_other_way_round(folders):
    with pytest.raises(UserError, match=r"it holds uint8 \(20, 24, 6\), and config.channels=3 needs uint8 \(H, W, 3\)"):
        load_images(options_of(config_of({3: folders[6]}, 3))).train.read(np.arange(1))
    with pytest.raises(UserError, match=r"config.channels=6 needs .npy files of uint8 \(H, W, 6\)"):
        load_images(options_of(config_of({6: folders[1]}, 6))).train.read(np.arange(1))


def test_weights_for_rgb_images_begin_a_run_on_others_and_it_is_said(folders, tmp_path, capsys):
    path = tmp_path / "rgb.safetensors"
    options = options_of(config_of(folders, 1, f"finetune.weights={path}"))
    model = build_model(options, 2)
    source = create_model("resnet20", stage_sizes=(1,), num_filters=4, num_classes=5)
    variables = plausible_variables(source)
    save_weights(path, source, variables)
    begun = load_initial(options, model, ("cat", "dog"))
    assert "is for images of 3 channels: for 1 it is summed over them" in capsys.readouterr().err
    kernel = variables["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(begun["params"]["conv1"]["kernel"], kernel.sum(axis=2, keepdims=True), rtol=1e-5)


def test_weights_for_rgb_images_are_never_adapted_in_evaluation_and_prediction(folders, tmp_path, capsys):
    path = tmp_path / "rgb.safetensors"
    source = create_model("resnet20", stage_sizes=(1,), num_filters=4, num_classes=2)
    save_weights(path, source, plausible_variables(source))
    model = ["--weights", str(path), "--model", "resnet20", "--model_args", "stage_sizes=(1,)", "num_filters=4"]
    statistics = ["--num_classes", "2", "--mean", "0.5", "--std", "0.5"]
    line = f"{path} is of a network for images of 3 channels, and here they have 1: use weights for images of 1"
    for words in (["evaluate", "--data", str(folders[1] / "val")], ["predict", str(folders[1] / "val")]):
        assert main([*words, *model, *statistics]) == 2
        assert line in capsys.readouterr().err
    words = ["convert", "--from", str(path), "--to", str(tmp_path / "new"), *model[2:], *statistics]
    assert main(words) == 2
    assert "is of a network for images of 3 channels, and mean=(0.5,) is of 1" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 6])
def test_previews_dry_runs_and_memory_are_of_the_channels(folders, channels, tmp_path, capsys):
    config = config_of(folders, channels)
    fields = (*TINY, "dataset=folder", f"data_dir={folders[channels]}", "image_size=16", f"channels={channels}")
    words = ["--config", "default", *(f"--config.{field}" for field in (*fields, "mean=(0.4,)", "std=(0.3,)"))]
    assert main(["preview", *words, "--to", str(tmp_path / "batch.png")]) == 0
    assert main(["train", *words, "--workdir", str(tmp_path / "run"), "--dry_run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["image_shape"] == [16, 16, channels]
    memory = estimate_memory(build_experiment(options_of(config), jax.devices()[:1]))
    assert memory.images == 8 * 16 * 16 * channels * 5
    assert shown["parameters"] * 4 == memory.parameters


def test_weights_take_along_how_deep_images_are_read(tmp_path, capsys):
    deep = tmp_path / "images"
    for name in ("cat", "dog"):
        (deep / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 2**16, (20, 24), np.uint16)
            Image.fromarray(pixels).save(deep / name / f"{i}.png")
    config = config_of({1: deep}, 1, "high_bit_depth=scale")
    train(options_of(config), tmp_path / "run", "run")
    weights = str(tmp_path / "weights.safetensors")
    assert main(["convert", "--from", str(tmp_path / "run"), "--to", weights]) == 0
    answers = []
    for model in (["--workdir", str(tmp_path / "run")], ["--weights", weights]):
        capsys.readouterr()
        assert main(["predict", str(deep), *model, "--json"]) == 0
        answers.append([one["predictions"] for one in json.loads(capsys.readouterr().out)["images"]])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8
