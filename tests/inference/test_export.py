"""Networks in one file for other runtimes: the same logits, for any number of images."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import TINY
from state_dicts import plausible_variables

import resnet_jax
from resnet_jax.cli.main import main
from resnet_jax.data.transforms.preprocess import PREPROCESS
from resnet_jax.errors import RunError
from resnet_jax.inference.export import export
from resnet_jax.inference.onnx_graph import to_onnx
from resnet_jax.inference.predictor import open_weights
from resnet_jax.weights.info import WeightsInfo

onnxruntime = pytest.importorskip("onnxruntime")

ONE_BLOCK = {"stage_sizes": (1, 1, 1)}  # what is constant in a program takes long to compile
NARROW = {"num_filters": 16, "stage_sizes": (1, 1, 1, 1)}
NETWORKS = {
    "resnet18": NARROW, "resnext50_32x4d": NARROW, "resnet50d": NARROW, "seresnet50": NARROW, "resnetv2_50": NARROW,
    "resnet50": {**NARROW, "stride_in": "1x1", "output_stride": 8, "conv_bias": True},
    "resnet20": ONE_BLOCK, "plain20": ONE_BLOCK, "wrn16_8": {**ONE_BLOCK, "num_filters": 4},
}  # fmt: skip


def saved(tmp_path, name, arguments, **told):
    """(model, its variables, the file of them)."""
    model = resnet_jax.create_model(name, num_classes=10, **arguments)
    variables, path = plausible_variables(model), tmp_path / "w.safetensors"
    info = WeightsInfo(name, {**arguments, "num_classes": 10}, **told)
    resnet_jax.save_weights(path, model, variables, info=info)
    return model, variables, path


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_both_files_answer_as_the_network_for_one_image_and_for_seven(name, tmp_path):
    model, variables, path = saved(tmp_path, name, NETWORKS[name])
    trained = open_weights(path, judges=False)
    for ending in ("onnx", "stablehlo"):
        result = export(trained, tmp_path / f"net.{ending}", image_size=32)
        assert result["difference"] <= (1e-4 if ending == "onnx" else 1e-6)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    stablehlo = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    seven = np.random.RandomState(0).standard_normal((7, 32, 32, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(partial(model.apply, train=False))(variables, seven))
    near = {"rtol": 0, "atol": 1e-4 * max(1.0, float(np.abs(expected).max()))}
    for batch in (1, 7):
        images = seven[:batch]
        np.testing.assert_allclose(session.run(None, {"images": images})[0], expected[:batch], **near)
        np.testing.assert_allclose(stablehlo.call(images), expected[:batch], **near)


def test_preprocessing_takes_pixels_and_class_names_travel(tmp_path):
    names = tuple("abcdefghij")
    model, variables, path = saved(tmp_path, "resnet20", {}, class_names=names, preprocess=PREPROCESS["CIFAR"])
    export(open_weights(path), tmp_path / "net.onnx", preprocessing=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    pixels = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3), np.uint8)
    mean, std = np.float32(PREPROCESS["CIFAR"].mean), np.float32(PREPROCESS["CIFAR"].std)
    expected = model.apply(variables, (pixels / np.float32(255) - mean) / std, train=False)
    np.testing.assert_allclose(session.run(None, {"images": pixels})[0], expected, rtol=0, atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(names)
    assert list(session.get_inputs()[0].shape) == ["batch", 32, 32, 3]


def test_run_is_exported_by_the_command(tmp_path, capsys):
    assert main([*TINY, "--config.num_steps=1", "--config.warmup_epochs=0", "--workdir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    target = tmp_path / "new" / "net.stablehlo"
    assert main(["export", "--workdir", str(tmp_path / "run"), "--to", str(target), "--preprocessing", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["input"] == "images (batch, 8, 8, 3) uint8"
    assert result["bytes"] == target.stat().st_size
    assert result["difference"] <= 1e-6


# The modules of the distributions that the package requires, and those that these require, are there; others are not.
@pytest.mark.parametrize("name", ["resnet18", "seresnet50"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_opencv_answers_as_the_network_whichever_axis_the_channels_are(name, channels_first, tmp_path):
    model, variables, path = saved(tmp_path, name, NARROW)
    target = tmp_path / "net.onnx"
    words = ["--channels_first"] if channels_first else []
    assert main(["export", "--weights", str(path), "--to", str(target), "--image_size", "32", *words]) == 0
    images = np.random.RandomState(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    network = cv2.dnn.readNetFromONNX(str(target))
    network.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_first else images)
    expected = np.asarray(jax.jit(partial(model.apply, train=False))(variables, images))
    np.testing.assert_allclose(network.forward(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_channels_come_first_in_both_files_of_pixels(tmp_path):
    _, _, path = saved(tmp_path, "resnet20", ONE_BLOCK, preprocess=PREPROCESS["CIFAR"])
    trained = open_weights(path, judges=False)
    pixels = np.random.RandomState(0).randint(0, 256, (2, 3, 32, 32), np.uint8)
    logits = []
    for ending in ("onnx", "stablehlo"):
        target = tmp_path / f"net.{ending}"
        result = export(trained, target, preprocessing=True, channels_first=True)
        assert result["input"] == "images (batch, 3, 32, 32) uint8"
        if ending == "onnx":
            logits.append(onnxruntime.InferenceSession(target).run(None, {"images": pixels})[0])
        else:
            logits.append(jax.export.deserialize(bytearray(target.read_bytes())).call(pixels))
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


OWN_REQUIREMENTS_ALONE = """
import importlib.metadata, re, sys, tomllib

def name_of(requirement):
    return re.match(r"[\\w.-]+", requirement)[0].lower().replace("_", "-")

def required(name, extras=()):
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # of another system
        return
    if name not in kept:
        kept.add(name)
        for line in distribution.requires or ():
            if "extra ==" not in line:
                required(name_of(line))

kept = {"resnet-family-jax"}
with open(sys.argv[1], "rb") as file:  # pyproject.toml: a checkout may not be installed
    for line in tomllib.load(file)["project"]["dependencies"]:
        required(name_of(line))
owners = importlib.metadata.packages_distributions()

class Absent:
    def find_spec(self, name, path=None, target=None):
        those = {owner.lower().replace("_", "-") for owner in owners.get(name.split(".")[0], ())}
        if those and not those & kept:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_stablehlo_is_written_and_read_with_the_packages_own_requirements_alone(tmp_path):
    saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})
    code = OWN_REQUIREMENTS_ALONE + (
        "import jax, numpy as np\n"
        "from resnet_jax.cli.main import main\n"
        "assert main(['export', '--weights', 'w.safetensors', '--to', 'net.stablehlo']) == 0\n"
        "network = jax.export.deserialize(bytearray(open('net.stablehlo', 'rb').read()))\n"
        "print(network.call(np.zeros((3, 32, 32, 3), np.float32)).shape)\n"
        "print(sorted({'torch', 'tensorflow', 'onnx'} & {*sys.modules}))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2] / "pyproject.toml")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["(3, 10)", "[]"]


def test_an_export_leaves_no_weights_in_the_cache_of_programs(tmp_path):
    _, variables, path = saved(tmp_path, "resnet20", {"num_filters": 64, "stage_sizes": (1, 1)})
    code = (
        "from resnet_jax.cli.main import main\n"
        f"main(['export', '--weights', {str(path)!r}, '--to', {str(tmp_path / 'net.stablehlo')!r}])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"RESNET_JAX_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    kept = sum(file.stat().st_size for file in (tmp_path / "home/compiled").rglob("*-cache"))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert 0 < kept < weights / 2


def test_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    _, _, path = saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})
    trained = open_weights(path, judges=False)
    translate = to_onnx

    def wrong(function, *arguments, **options):
        return translate(lambda images: 1.001 * function(images), *arguments, **options)

    monkeypatch.setattr("resnet_jax.inference.export.to_onnx", wrong)
    with pytest.raises(RunError, match="its logits differ from JAX's"):
        export(trained, tmp_path / "net.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["w.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "net.pb"], "must end in one of .stablehlo, .onnx"),
        (["--to", "folder.onnx"], "is a folder"),
        (["--to", "net.onnx", "--preprocessing"], "does not tell how its images were prepared"),
        (["--to", "net.onnx", "--image_size", "0"], "image_size=0 must be at least 1"),
        (["--to", "net.onnx", "--crop", "64"], "does not tell how its images were prepared: give --mean and --std"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})
    assert main(["export", "--weights", "w.safetensors", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "net.onnx").exists()


def test_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch, capsys):
    saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "--weights", str(tmp_path / "w.safetensors"), "--to", str(tmp_path / "net.onnx")]) == 2
    assert "pip install 'resnet-family-jax[export]'" in capsys.readouterr().err


def test_operation_without_translation_is_named():
    with pytest.raises(ValueError, match="the operation 'sort' has no translation to ONNX here"):
        to_onnx(lambda images: jnp.sort(images, axis=-1)[:, 0, 0], (4, 4, 3), np.float32)


def test_a_network_that_no_onnx_file_holds_is_refused(tmp_path, monkeypatch, capsys):
    saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})
    monkeypatch.setattr("resnet_jax.inference.onnx_graph.MOST_BYTES", 10_000)
    words = [
        "export",
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--to",
        str(tmp_path / "net.onnx"),
        "--image_size",
        "32",
    ]
    assert main(words) == 2
    assert (
        "an ONNX file holds at most 2 GiB, and the network has more: export it as .stablehlo" in capsys.readouterr().err
    )


def test_an_onnx_file_says_nothing_of_images_where_nothing_is_known(tmp_path):
    path = saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)})[2]
    export(open_weights(path, judges=False), tmp_path / "net.onnx", image_size=32)
    metadata = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    assert {*metadata} == {"class_names"}


def test_an_onnx_file_of_another_size_says_how_images_become_that(tmp_path):
    told = {"preprocess": PREPROCESS["IMAGENET1K_V1"], "exif_rotation": True}
    path = saved(tmp_path, "resnet20", {"stage_sizes": (1, 1)}, **told)[2]
    export(open_weights(path), tmp_path / "net.onnx", image_size=(56, 112))
    metadata = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    preprocess = json.loads(metadata["preprocess"])
    assert (preprocess["resize"], preprocess["crop"]) == ([64, 128], [56, 112])
    assert metadata["exif_rotation"] == "true"


def test_a_mean_image_is_exported_at_its_own_size_alone(tmp_path, capsys):
    words = [*TINY, "--config.num_steps=1", "--config.warmup_epochs=0", "--config.normalize=pixel"]
    assert main([*words, "--workdir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    export_words = ["export", "--workdir", str(tmp_path / "run"), "--to", str(tmp_path / "net.stablehlo")]
    assert main([*export_words, "--preprocessing", "--image_size", "32"]) == 2
    assert "image_size=32 must be that of the mean image, 8x8" in capsys.readouterr().err
    assert main([*export_words, "--preprocessing", "--image_size", "8"]) == 0
    assert main([*export_words, "--image_size", "32"]) == 0
