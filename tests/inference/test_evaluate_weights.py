"""evaluate --weights: imported weights on folders and data sets, prepared as they tell."""

import json
from dataclasses import replace
from pathlib import Path

import golden_files
import jax
import numpy as np
import pytest
from image_trees import images as trees
from image_trees import make_tree
from PIL import Image
from state_dicts import SMALL, random_variables, small, state_dict

from resnet_jax import create_model, load_weights
from resnet_jax.cli.main import main
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, PREPROCESS, Preprocess
from resnet_jax.errors import UserError
from resnet_jax.inference.evaluate import evaluate_weights
from resnet_jax.inference.evaluation_images import open_images
from resnet_jax.weights.class_names import CIFAR10_NAMES, imagenet_names
from resnet_jax.weights.convert import convert
from resnet_jax.weights.safetensors_file import write_safetensors

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
CIFAR_ARCHIVE = SHARED_DATA / "cifar10-jpeg.tar.xz"


@pytest.fixture
def source(tmp_path):
    write_safetensors(tmp_path / "source.safetensors", state_dict(small()), {})
    return tmp_path / "source.safetensors"


@pytest.fixture
def cifar_weights(tmp_path):
    """A checkpoint directory of ten classes that tells CIFAR-10's names and preprocessing."""
    arguments = {**SMALL, "num_classes": 10}
    write_safetensors(tmp_path / "source.safetensors", state_dict(small(**arguments)), {})
    convert(
        tmp_path / "source.safetensors", tmp_path / "out", model_name="resnet18", model_args=arguments,
        preprocess="CIFAR",
    )  # fmt: skip
    return tmp_path / "out"


@pytest.fixture
def images(tmp_path):
    """Nine images of 40x32 pixels in five classes, and their folder."""
    random = np.random.RandomState(0)
    pixels = []
    for i in range(9):
        folder = tmp_path / "images" / f"class{i % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels.append((i % 5, random.randint(0, 256, (32, 40, 3), np.uint8)))
        Image.fromarray(pixels[-1][1]).save(folder / f"{i}.png")
    return tmp_path / "images", sorted(pixels, key=lambda pair: pair[0])


def expected(images, preprocess, *, flip=False):
    """Loss and accuracy by the plain way."""
    model = small()
    inputs = np.stack([preprocess(Image.fromarray(pixels)) for _, pixels in images])
    labels = np.array([label for label, _ in images])
    views = [inputs, inputs[:, :, ::-1]] if flip else [inputs]
    logits = np.mean([model.apply(random_variables(model), view, train=False) for view in views], axis=0)
    log_probabilities = jax.nn.log_softmax(logits)
    return {
        "loss": pytest.approx(float(-log_probabilities[np.arange(9), labels].mean()), rel=1e-4),
        "accuracy": pytest.approx(float((logits.argmax(-1) == labels).mean())),
        "count": 9,
    }


def test_mean_and_std_on_the_command_line_prepare_the_images(source, images, capsys):
    folder, pixels = images
    arguments = [f"{name}={value}" for name, value in SMALL.items()]
    words = ["evaluate", "--model", "resnet18", "--weights", source, "--data", folder, "--batch_size", 4]
    words += ["--mean", "0.5,0.4,0.3", "--std", "0.2", "0.3", "0.4", "--json", "--model_args", *arguments]
    assert main([str(word) for word in words]) == 0
    result = json.loads(capsys.readouterr().out)
    preprocess = Preprocess(None, None, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert {key: result[key] for key in ("loss", "accuracy", "count")} == expected(pixels, preprocess)
    assert main([str(word) for word in [*words, "--flip"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {key: result[key] for key in ("loss", "accuracy", "count")} == expected(pixels, preprocess, flip=True)
    assert main([str(word) for word in [*words, "--flip", "--ten_crop"]]) == 2
    assert "--ten_crop averages mirrors already: leave --flip out" in capsys.readouterr().err


def test_preprocessing_that_travels_with_the_weights_is_used(source, images, tmp_path):
    folder, pixels = images
    preprocess = Preprocess(24, 16, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL, preprocess=preprocess)
    result = evaluate_weights(tmp_path / "out", str(folder))
    assert {key: result[key] for key in ("loss", "accuracy", "count")} == expected(pixels, preprocess)
    assert result["model"] == "resnet18"


def test_a_folder_of_some_classes_is_labelled_by_their_names(cifar_weights, tmp_path):
    model = small(num_classes=10)
    for name in ("truck", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "images" / name / "black.png")
    black = (np.zeros(3) - PREPROCESS["CIFAR"].mean) / PREPROCESS["CIFAR"].std
    inputs = np.broadcast_to(black.astype(np.float32), (1, 32, 32, 3))
    logits = np.asarray(model.apply(load_weights(cifar_weights, model), inputs, train=False))[0]
    losses = -jax.nn.log_softmax(logits)
    result = evaluate_weights(cifar_weights, str(tmp_path / "images"))
    labels = [CIFAR10_NAMES.index("cat"), CIFAR10_NAMES.index("truck")]
    assert result["loss"] == pytest.approx(float(losses[np.array(labels)].mean()), rel=1e-4)


READING = DatasetOptions(preprocess=PREPROCESS["CIFAR"])


def test_a_split_of_a_set_is_named_behind_its_path(tmp_path, caplog):
    table = "image,label,split\n1.png,a,train\n2.png,b,train\n3.png,b,test\n"
    root = make_tree(tmp_path, {**trees("i/1.png", "i/2.png", "i/3.png"), "labels.csv": table})
    with pytest.raises(UserError, match=rf"did you mean {root}:test\?"):
        open_images(str(root / "labels.csv"), ("a", "b"), 2, READING)
    caplog.set_level("INFO")
    source = open_images(f"{root / 'labels.csv'}:test", ("a", "b"), 2, READING)
    assert source.labels.tolist() == [1]
    assert "splits by its column split" in caplog.text
    with pytest.raises(UserError, match=r"the split of --data .*='validation' must be one of train, test"):
        open_images(f"{root}:validation", ("a", "b"), 2, READING)
    (root / "labels.csv").write_text("image,label,split\n1.png,a,test\n2.png,b,test\n")
    assert len(open_images(str(root), ("a", "b"), 2, READING)) == 2


def test_columns_are_found_as_for_the_runs_own_table(tmp_path):
    root = make_tree(tmp_path, {**trees("1.png", "2.png"), "other.csv": "image,grade,label\n1.png,a,9\n2.png,b,8\n"})
    reading = replace(READING, table=TableOptions(file="own.csv", label_column="grade"))
    assert open_images(str(root), ("b", "a"), 2, reading).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (("r/r/n01443537/1.png", "r/r/n01440764/1.png"), [0, 1]),
        (("r/tench/1.png", "r/goldfish/1.png"), [1, 0]),
        (("val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG"), [65, 970]),
        (("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"), [65, 970]),
    ],
    ids=["wrapped", "names", "in a folder", "flat"],
)
def test_images_of_imagenets_classes_are_evaluated_as_they_lie(tmp_path, paths, labels):
    root = make_tree(tmp_path, trees(*paths))
    source = open_images(str(root), imagenet_names(), 1000, READING)
    assert source.labels.tolist() == labels


def test_numbers_in_the_order_of_texts_are_said_where_nothing_names_the_classes(tmp_path, caplog):
    root = make_tree(tmp_path, trees(*(f"{i}/1.png" for i in range(11))))
    open_images(str(root), (), 11, READING)
    assert "are numbers, in the order of texts: 10 is label 2" in caplog.text


def test_preprocess_by_name_brings_what_convert_would_have_attached(cifar_weights, tmp_path):
    (tmp_path / "images" / "truck").mkdir(parents=True)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "images" / "truck" / "grey.png")
    told = evaluate_weights(cifar_weights, str(tmp_path / "images"))
    arguments = {**SMALL, "num_classes": 10}
    result = evaluate_weights(
        tmp_path / "source.safetensors", str(tmp_path / "images"), model_name="resnet18", model_args=arguments,
        preprocess="CIFAR",
    )  # fmt: skip
    assert [row["class"] for row in result["classes"]] == list(CIFAR10_NAMES)
    assert {**result, "weights": ""} == {**told, "weights": ""}


def test_a_data_set_by_name_is_resized_and_cropped_too(tmp_path):
    arguments = {**SMALL, "num_classes": 10}
    write_safetensors(tmp_path / "source.safetensors", state_dict(small(**arguments)), {})
    preprocess = Preprocess(20, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    convert(
        tmp_path / "source.safetensors", tmp_path / "out", model_name="resnet18", model_args=arguments,
        preprocess=preprocess,
    )  # fmt: skip
    result = evaluate_weights(tmp_path / "out", "tfds:digits:test", batch_size=360)
    from resnet_jax.data.sources import load_source

    digits = load_source("digits", "test")
    inputs = np.stack([preprocess(Image.fromarray(image)) for image in digits.images])
    model = small(**arguments)
    logits = np.asarray(model.apply(load_weights(tmp_path / "out", model), inputs, train=False))
    assert result["count"] == 360
    assert result["accuracy"] == pytest.approx((logits.argmax(-1) == digits.labels).mean())


def test_a_folder_called_as_a_data_set_is_meant(source, images, tmp_path, monkeypatch):
    folder, pixels = images
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "digits").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "here")
    preprocess = Preprocess(None, None, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    prepared = Adjustment(mean=preprocess.mean, std=preprocess.std)
    result = evaluate_weights(source, "digits", model_name="resnet18", model_args=SMALL, adjustment=prepared)
    assert {key: result[key] for key in ("loss", "accuracy", "count")} == expected(pixels, preprocess)


PREPARED = ["--model", "resnet20", "--mean", "0", "0", "0", "--std", "1", "1", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --workdir, a run's folder, or --weights"),
        (["--workdir", "runs/x", "--weights", "y"], "give either --workdir, a run's folder, or --weights"),
        (["--workdir", "runs/x", "--mean", "0,0,0"], "--mean belongs to --weights"),
        (["--workdir", "runs/x", "--preprocess", "CIFAR"], "--preprocess belongs to --weights"),
        (["--workdir", "runs/x", "--batch_size", "7"], "--batch_size belongs to --weights"),
        (["--weights", "{source}"], "--weights needs --data"),
        (["--weights", "{source}", "--data", "{images}", "--checkpoint", "best"], "--checkpoint belongs to --workdir"),
        (["--weights", "{source}", "--data", "{images}"], "name it with --model"),
        (["--weights", "{source}", "--data", "{images}", *PREPARED[:2]], "give --mean and --std"),
        (["--weights", "{source}", "--data", "{images}", *PREPARED[:5]], "give --mean and --std"),
        (["--weights", "{source}", "--data", "{images}", *PREPARED, "--batch_size", "0"], "batch_size=0 must be"),
        (["--weights", "{source}", "--data", "none", *PREPARED], "'none' must be a folder, a tar or tfds:NAME"),
        (["--weights", "{source}", "--data", "tfds:x", *PREPARED], "dataset='x' must be one of digits, folder and"),
        (["--weights", "{source}", "--data", "{images}", *PREPARED], "has 5 classes, the model 10"),
    ],
)
def test_bad_usage_is_one_line(source, images, capsys, words, message):
    words = [word.format(source=source, images=images[0]) for word in words]
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_data_set_of_other_classes_is_refused(cifar_weights):
    with pytest.raises(ValueError, match=r"has the classes 0, 1, 2 ..., the model airplane, automobile"):
        evaluate_weights(cifar_weights, "digits")


def test_weights_that_are_not_finite_end_with_code_1(tmp_path, images, capsys):
    tensors = state_dict(small())
    tensors["fc.bias"][0] = np.nan
    write_safetensors(tmp_path / "nan.safetensors", tensors, {})
    arguments = [f"{name}={value}" for name, value in SMALL.items()]
    words = ["evaluate", "--model", "resnet18", "--weights", str(tmp_path / "nan.safetensors"), "--json"]
    words += ["--data", str(images[0]), *PREPARED[2:], "--model_args", *arguments]
    assert main(words) == 1
    output = capsys.readouterr()
    assert output.out == ""
    warning, error = output.err.splitlines()
    assert warning.endswith("these stay as they are; predict makes 224x224")
    assert error == "error: the loss is nan: the weights are not finite, or not those of this model"


@pytest.mark.skipif(not CIFAR_ARCHIVE.exists(), reason="the CIFAR-10 images and published weights are not here")
@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_published_cifar_weights_answer_as_in_torch(name):
    import io
    import tarfile

    _, arrays = golden_files.load(f"akamaster-{name}")
    with tarfile.open(CIFAR_ARCHIVE) as archive:
        files = {
            member.name: archive.extractfile(member).read()
            for member in archive
            if "test/" in member.name and member.isfile()
        }
    chosen = [files[key] for key in sorted(files)[::20]]
    preprocess = Preprocess(None, None, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    inputs = np.stack([preprocess(Image.open(io.BytesIO(content))) for content in chosen])
    model = create_model(name.split("-")[0])
    variables = load_weights(SHARED_DATA / f"akamaster-{name}.th", model)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, inputs)
    np.testing.assert_allclose(logits, arrays["logits_every_20th"], rtol=0, atol=1e-3)
