"""Weights of Keras' ResNets: every kind of file that Keras 3 writes, of two of its versions, with Keras' own logits."""

import builtins
import json
import logging
import shutil
import tarfile
import zipfile

import golden_files
import h5py
import jax
import numpy as np
import pytest
from golden import weights
from PIL import Image
from state_dicts import small

from resnet_jax import create_model, load_preprocess, load_weights
from resnet_jax.errors import UserError
from resnet_jax.weights import import_weights
from resnet_jax.weights.convert import convert
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.formats.keras_names import names_by_order
from resnet_jax.weights.read_info import read_info
from resnet_jax.weights.state_dict import Choice

VERSIONS = ("3.0.5", "3.15.1")
FILES = ("{}.keras", "{}.weights.h5", "{}.h5", "{}-legacy.h5")
WIDTHS = {"num_filters": 4, "stem_filters": 64, "num_classes": 7}
OF_KERAS = {"norm_epsilon": 1.001e-5, "conv_bias": True}
NETWORKS = {
    "v1": ("resnet50", {"stage_sizes": (2, 2), "stride_in": "1x1"}),
    "v2": ("resnetv2_50", {"stage_sizes": (3, 2), "strided_block": "last", "stem_pool": "zero_padded_max"}),
}
PUBLISHED = "{}_weights_tf_dim_ordering_tf_kernels.h5"


def network(kind, **arguments):
    name, own = NETWORKS[kind]
    return create_model(name, **{**own, **WIDTHS, **OF_KERAS, **arguments})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for version in VERSIONS:
        found[version] = tmp_path_factory.mktemp("keras")
        with tarfile.open(golden_files.GOLDEN / f"keras-{version}.tar.xz") as archive:
            archive.extractall(found[version], filter="data")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_file_answers_as_in_keras(folders, version, kind):
    folder = folders[version]
    images = weights.images(2, 64).transpose(0, 2, 3, 1).astype(np.float32).astype(np.float64)
    with np.load(folder / "logits.npz") as logits, jax.enable_x64(True):
        model = network(kind, dtype="float64")
        first = load_weights(folder / f"{kind}.keras", model)
        answer = model.apply(first, images, train=False)
        np.testing.assert_allclose(answer, logits[kind], rtol=0, atol=1e-12)
        for file in FILES[1:]:
            again, report = import_weights(folder / file.format(kind), model)
            jax.tree.map(np.testing.assert_array_equal, again, first)
            assert (report.layout, report.unexpected) == ("keras", {})


def test_layers_without_names_are_counted(folders):
    """Keras 3.0 stores them so: its weights alone have no names, its archive has them in the config."""
    with h5py.File(folders["3.0.5"] / "v1.weights.h5") as file:
        assert "name" not in file["layers/conv2d/vars"].attrs
    with h5py.File(folders["3.15.1"] / "v1.weights.h5") as file:
        assert file["layers/conv2d/vars"].attrs["name"] == "conv1_conv"


def test_the_order_of_a_whole_network():
    kernels = [(7, 7, 3, 64)]
    for stage, (blocks, filters, inputs) in enumerate(((3, 64, 64), (4, 128, 256), (6, 256, 512), (3, 512, 1024))):
        for block in range(blocks):
            there = inputs if block == 0 else 4 * filters
            kernels += [(1, 1, there, filters), (3, 3, filters, filters)]
            kernels += [(1, 1, there, 4 * filters)] if block == 0 else []
            kernels += [(1, 1, filters, 4 * filters)]
        assert stage < 4
    names, norms = names_by_order(kernels, 53)
    assert (len(names), names[3], names[-1]) == (53, "conv2_block1_0_conv", "conv5_block3_3_conv")
    assert norms[:5] == ["conv1_bn", *(f"conv2_block1_{k}_bn" for k in (1, 2, 0, 3))]
    _, norms = names_by_order(kernels, 49)
    assert (norms[0], norms[-1]) == ("conv2_block1_preact_bn", "post_bn")
    with pytest.raises(ValueError, match=r"not those of a ResNet of keras\.applications"):
        names_by_order(kernels, 50)


@pytest.mark.parametrize(("kind", "differing"), [("v1", {"stride_in": "3x3"}), ("v2", {"strided_block": "first"})])
def test_another_network_of_the_same_shapes_is_refused(folders, kind, differing):
    path = folders["3.15.1"] / f"{kind}.keras"
    (field,) = differing
    with pytest.raises(UserError, match=rf"names of keras, whose networks have {field}=.*create the model with that"):
        load_weights(path, network(kind, **differing))
    with pytest.raises(UserError, match=r"norm_epsilon=1\.001e-05"):
        load_weights(path, network(kind, norm_epsilon=1e-5))


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_command_knows_what_keras_networks_have(folders, tmp_path, kind):
    path = folders["3.15.1"] / f"{kind}.weights.h5"
    name, own = NETWORKS[kind]
    with pytest.raises(UserError, match=r"name it with --model; it looks like --model resnet"):
        describe_weights(path, None, {})
    convert(path, tmp_path / "out", model_name=name, model_args={"stage_sizes": own["stage_sizes"], **WIDTHS})
    model = read_info(tmp_path / "out").create_model()
    assert model == network(kind)
    jax.tree.map(
        np.testing.assert_array_equal, load_weights(tmp_path / "out", model), load_weights(path, network(kind))
    )


def test_a_head_of_ones_own_on_a_nested_network_is_found(folders, tmp_path):
    with h5py.File(folders["3.15.1"] / "v1.weights.h5") as file, h5py.File(tmp_path / "own.weights.h5", "w") as own:
        file.copy("layers", own.create_group("layers/functional"))
        del own["layers/functional/layers/dense"]
        own["layers/dense/vars/0"] = np.zeros((32, 3), np.float32)
        own["layers/dense/vars/1"] = np.arange(3, dtype=np.float32)
        own["layers/dense/vars"].attrs["name"] = "my_head"
        own["optimizer/vars/0"] = np.zeros(5, np.float32)
    variables = load_weights(tmp_path / "own.weights.h5", network("v1", num_classes=3))
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], [0, 1, 2])


def test_published_names_say_the_network_and_its_images(folders, tmp_path, caplog):
    v1, v2 = (tmp_path / PUBLISHED.format(name) for name in ("resnet50", "resnet101v2"))
    shutil.copy(folders["3.15.1"] / "v1-legacy.h5", v1)
    shutil.copy(folders["3.15.1"] / "v2-legacy.h5", v2)
    info = read_info(v2)
    assert (info.model, info.model_args, len(info.class_names)) == ("resnetv2_101", {"num_classes": 1000}, 1000)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    pixels = np.asarray(image, np.float64)
    np.testing.assert_allclose(load_preprocess(v2)(image), pixels / 127.5 - 1, atol=1e-6)
    with caplog.at_level(logging.WARNING):
        load_weights(v1, network("v1"))
    assert "bgr=True" in caplog.text
    assert read_info(v1).preprocess is None
    arguments = {"stage_sizes": (2, 2), **WIDTHS}
    report = convert(v1, tmp_path / "out", model_args=arguments, choice=Choice(bgr=True))
    assert report["model"] == "resnet50"
    # Keras' "caffe" mode, with the colours back in our order.
    expected = pixels - np.array([123.68, 116.779, 103.939])
    np.testing.assert_allclose(load_preprocess(tmp_path / "out")(image), expected, atol=1e-4)


def test_without_h5py_a_line_says_what_to_install(folders, monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **options):
        if name == "h5py":
            raise ImportError(name)
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UserError, match=r"pip install 'resnet-family-jax\[keras\]'"):
        load_weights(folders["3.15.1"] / "v1.h5", network("v1"))


def test_what_is_no_resnet_of_keras_is_refused(folders, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 4), np.float32)
        file["layers/conv2d/vars"].attrs["name"] = "my_conv"
    with pytest.raises(UserError, match=r"not named as those of a ResNet of keras\.applications"):
        load_weights(tmp_path / "other.h5", small())
    packed = tmp_path / "packed.keras"
    with zipfile.ZipFile(folders["3.15.1"] / "v1.keras") as archive, zipfile.ZipFile(packed, "w", 8) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(UserError, match="compressed entries"):
        load_weights(packed, network("v1"))


def test_links_out_of_the_file_are_not_followed(folders, tmp_path):
    source = folders["3.15.1"] / "v1.weights.h5"
    shutil.copy(source, tmp_path / "links.weights.h5")
    with h5py.File(tmp_path / "links.weights.h5", "a") as file:
        del file["layers/dense"]
        file["layers/dense"] = h5py.ExternalLink(str(source), "layers/dense")
    with pytest.raises(UserError, match="has no head"):
        load_weights(tmp_path / "links.weights.h5", network("v1"))


def test_names_without_end_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("a/x", data=np.zeros(1, np.float32))
        file["a"].attrs["weight_names"] = [b"x"] * 1000
        file.attrs["layer_names"] = [b"a"] * 1000
    with pytest.raises(UserError, match="names more than 100000 layers and variables"):
        load_weights(tmp_path / "w.h5", small())


def test_a_config_that_is_none_is_refused_or_ignored(folders, tmp_path):
    for config in (
        "[]",
        '{"config": {"layers": {"a": 1}}}',
        json.dumps({"config": {"layers": [1, {"class_name": 3}]}}),
    ):
        with zipfile.ZipFile(folders["3.0.5"] / "v1.keras") as archive, zipfile.ZipFile(tmp_path / "w", "w") as other:
            other.writestr("config.json", config)
            other.writestr("model.weights.h5", archive.read("model.weights.h5"))
        load_weights(tmp_path / "w", network("v1"))  # by their order
