"""Folders of timm and transformers: networks, classes, images and logits as the real ones wrote and gave them."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import weights
from PIL import Image

from resnet_jax import create_model, load_preprocess, load_weights, save_weights
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.models.variants import VARIANTS
from resnet_jax.weights import read_info
from resnet_jax.weights.class_names import imagenet_names, imagenet_wordnet_ids, is_imagenet
from resnet_jax.weights.convert import convert
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.model_folder import weights_files
from resnet_jax.weights.safetensors_file import write_safetensors
from resnet_jax.weights.save_folder import save_folder
from resnet_jax.weights.timm_config import TIMM_NAMES, read_timm_config
from resnet_jax.weights.transformers_config import read_processor, read_transformers_config, write_processor

GOLDEN = Path(__file__).parent.parent / "golden"
FACTS = json.loads((GOLDEN / "model-folders.json").read_text())


def write_folder(path: Path, name: str) -> Path:
    """The folder as timm or transformers wrote it, with the weights of its golden logits."""
    path.mkdir()
    one = FACTS["folders"][name]
    for file, content in one["files"].items():
        (path / file).write_text(json.dumps(content))
    tensors = {name: np.asarray(weights.tensor(name, tuple(shape))) for name, shape in one["shapes"].items()}
    tensors = {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in tensors.items()}
    write_safetensors(path / "model.safetensors", tensors, {"format": "pt"})
    return path


@pytest.mark.parametrize("name", FACTS["folders"])
@pytest.mark.numerics
def test_a_folder_is_the_network_that_wrote_it(tmp_path, name):
    folder = write_folder(tmp_path / "model", name)
    info, expected = read_info(folder), np.array(FACTS["folders"][name]["logits"])
    with jax.enable_x64(True):
        model = create_model(info.model, **info.model_args, dtype="float64")
        variables = load_weights(folder, model)
        channels = variables["params"]["conv1"].get("0", variables["params"]["conv1"])["kernel"].shape[2]
        images = weights.images(2, 64)[:, :channels].transpose(0, 2, 3, 1)
        logits = jax.jit(lambda x: model.apply(variables, x, train=False))(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_what_a_folder_says_of_classes_and_images(tmp_path):
    info = read_info(write_folder(tmp_path / "a", "timm-test_resnet"))
    assert info.class_names == imagenet_names()
    assert info.preprocess == Preprocess(168, 160, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert info.source == "a"
    turned = read_info(write_folder(tmp_path / "b", "timm-resnet10t"))
    assert (turned.model_args, turned.class_names) == ({"num_classes": 7}, ())
    assert (turned.preprocess.resize, turned.preprocess.crop) == (235, 224)  # the test size and its share: 224 / 0.95
    headless = read_info(write_folder(tmp_path / "c", "timm-resnet18d"))
    assert headless.model_args["num_classes"] is None
    assert headless.preprocess.num_channels == 1
    letters = read_info(write_folder(tmp_path / "d", "transformers-v1"))
    assert letters.class_names == ("a", "b", "c", "d", "e")
    assert letters.model_args["stride_in"] == "1x1"
    assert load_preprocess(tmp_path / "d") == Preprocess(248, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    several = read_info(write_folder(tmp_path / "e", "transformers-several_labels"))
    assert several.multi_label
    assert (several.class_names, several.preprocess) == ((), None)  # images of one channel, a mean of three


@pytest.mark.parametrize("number", range(len(FACTS["pixels"])))
def test_images_are_prepared_as_by_timm_pixel_for_pixel(number):
    one = FACTS["pixels"][number]
    preprocess = read_timm_config("x", {"architecture": "resnet50", "pretrained_cfg": one["pretrained_cfg"]}).preprocess
    for name, expected in one["sha256"].items():
        picture = Image.open(GOLDEN / name.partition(",")[0]).convert("RGB")
        if "turned" in name:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        pixels = preprocess.pixels(picture.crop((0, 0, picture.width - 1, picture.height - 2)))
        assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == expected, name


def test_labels_are_named_as_people_read_them():
    config = {"architecture": "resnet18", "num_classes": 2, "label_names": ["n1", "n2"]}
    assert read_timm_config("x", config).class_names == ("n1", "n2")
    described = {**config, "label_descriptions": {"n1": "cat", "n2": "dog"}}
    assert read_timm_config("x", described).class_names == ("cat", "dog")
    ids = {**config, "num_classes": 1000, "label_names": list(imagenet_wordnet_ids())}
    assert read_timm_config("x", ids).class_names == imagenet_names()
    words = tuple(f"{name}, another word" for name in imagenet_names())
    assert is_imagenet(words)
    assert not is_imagenet(words[::-1])
    labels = {"model_type": "resnet", "id2label": {str(label): name for label, name in enumerate(words)}}
    assert read_transformers_config("x", labels, None).class_names == imagenet_names()
    assert read_timm_config("x", {"architecture": "resnet18", "num_classes": 9, "label_names": ["a"]}).class_names == ()


def test_values_of_a_config_come_before_those_of_the_named_network():
    def model(name, **arguments):
        return read_timm_config("x", {"architecture": name, "model_args": arguments}).create_model()

    assert model("resnetv2_50d", avg_down=False).shortcut == "B"
    assert model("resnetrs50", replace_stem_pool=False).stem_pool == "max"
    assert model("resnet18d", stem_type="", avg_down=False).stem == "imagenet"
    assert model("resnet50_gn", norm_layer="batchnorm2d").norm_layer == "batch"
    assert model("resnet18", act_layer="swish").activation == "silu"


def test_labels_by_number_are_put_in_their_order():
    config = {"architecture": "resnet18", "num_classes": 3, "label_names": {"2": "c", "0": "a", "1": "b"}}
    assert read_timm_config("x", config).class_names == ("a", "b", "c")
    assert read_timm_config("x", {**config, "label_names": {"0": "a", "2": "c", "3": "d"}}).class_names == ()


def test_older_configs_of_timm_hold_all_at_one_level():
    old = {"architecture": "resnet18", "num_classes": 3, "labels": ["a", "b", "c"], "input_size": [3, 100, 100]}
    info = read_timm_config("x", old)
    assert (info.class_names, info.preprocess.crop, info.preprocess.resize) == (("a", "b", "c"), 100, 114)


PROCESSORS = [
    ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875}, (256, 224, "crop")),
    ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, (None, 384, "squash")),
    ({"image_processor_type": "ConvNextImageProcessor", "do_resize": False}, (None, None, "crop")),
    ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 8}, (9, 8, "crop")),
    ({"image_processor_type": "ViTImageProcessor", "size": {"height": 90, "width": 60}}, (None, (90, 60), "squash")),
    (
        {
            "image_processor_type": "ViTImageProcessor", "size": 90, "do_center_crop": True,
            "crop_size": {"height": 80, "width": 70},
        },
        (90, (80, 70), "squash"),
    ),
    ({"image_processor_type": "BitImageProcessor", "do_resize": False, "do_center_crop": False}, (None, None, "crop")),
]  # fmt: skip


@pytest.mark.parametrize(("processor", "expected"), PROCESSORS)
def test_processors_of_transformers(processor, expected):
    preprocess = read_processor(processor)
    assert (preprocess.resize, preprocess.crop, preprocess.fit) == expected
    again = write_processor(preprocess)
    assert read_processor(again) == preprocess


def test_what_no_processor_here_does_is_not_guessed():
    assert read_processor({"image_processor_type": "BitImageProcessor", "rescale_factor": 1 / 127.5}) is None
    assert read_processor({"image_processor_type": "LevitImageProcessor"}) is None
    bounded = {"shortest_edge": 48, "longest_edge": 50}
    assert read_processor({"image_processor_type": "BitImageProcessor", "size": bounded}) is None
    raw = read_processor({"image_processor_type": "BitImageProcessor", "do_normalize": False})
    assert (raw.mean, raw.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_file_is_told_by_the_config_beside_it(tmp_path):
    folder = write_folder(tmp_path / "model", "timm-resnet10t")
    assert read_info(folder / "model.safetensors") == read_info(folder)


REFUSED = {
    "another network": ({"architecture": "vit_base_patch16_224"}, r"is of 'vit_base_patch16_224', no residual network"),
    "one of ours alone": ({"architecture": "resnet20"}, r"no residual network"),
    "an argument": ({"architecture": "resnet18", "model_args": {"drop_block": 3}}, r"drop_block=3, which is not trans"),
    "a pooling": ({"architecture": "resnet18", "model_args": {"global_pool": "max"}}, r"global_pool='max'"),
    "another kind": ({"model_type": "convnext"}, r"of the kind 'convnext' of transformers"),
    "early stride": ({"model_type": "resnet", "downsample_in_first_stage": True}, r"downsample_in_first_stage"),
    "an activation": ({"model_type": "resnet", "hidden_act": "silu"}, r"hidden_act='silu' beside ReLU"),
    "too many blocks": (
        {"architecture": "resnet18", "model_args": {"layers": [10**9]}},
        r"at most 4096 blocks together",
    ),
    "odd widths": ({"model_type": "resnet", "hidden_sizes": [30, 60, 120, 240]}, r"multiples of 4"),
    "no numbers": ({"model_type": "resnet", "depths": 3}, r"damaged, or no config"),
    "no sizes": ({"architecture": "resnet18", "pretrained_cfg": {"input_size": [224]}}, r"damaged, or no config"),
    "a crop mode": (
        {"architecture": "resnet18", "pretrained_cfg": {"crop_mode": "odd"}},
        r"crop_mode='odd' must",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_configs_that_are_not_understood_are_refused_with_their_path(tmp_path, kind):
    config, message = REFUSED[kind]
    write_safetensors(tmp_path / "model.safetensors", {"a.b": np.zeros(1, np.float32)}, {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as raised:
        read_info(tmp_path)
    assert str(tmp_path / "config.json") in str(raised.value)
    assert "\n" not in str(raised.value)


def split(folder: Path, *, index: dict | None = None) -> Path:
    """The folder with its weights in two parts."""
    from safetensors.numpy import load_file

    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{1 + number}-of-00002.safetensors": list(whole)[number::2] for number in (0, 1)}
    for file, names in parts.items():
        write_safetensors(folder / file, {name: whole[name] for name in names}, {})
    weight_map = {name: file for file, names in parts.items() for name in names}
    text = json.dumps({"metadata": {}, "weight_map": weight_map} if index is None else index)
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def test_weights_in_parts_are_read_by_their_index(tmp_path):
    folder = write_folder(tmp_path / "whole", "transformers-basic")
    info = read_info(folder)
    expected = load_weights(folder, info.create_model())
    folder = split(folder)
    for path in (folder, folder / "model.safetensors.index.json"):
        again = load_weights(path, info.create_model())
        assert jax.tree.all(jax.tree.map(np.array_equal, again, expected))
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors, which is not beside it"):
        load_weights(folder, info.create_model())


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../x"}}, {"weight_map": {"a": 3}}, {"weight_map": {}}, {}])
def test_an_index_names_files_beside_it_alone(tmp_path, index):
    folder = split(write_folder(tmp_path / "whole", "transformers-basic"), index=index)
    with pytest.raises(UserError, match=r"index\.json"):
        weights_files(folder)


def test_the_listed_networks_that_timm_has_are_timms():
    known = json.loads((GOLDEN / "timm-architectures.json").read_text())["networks"]
    assert frozenset(known) == TIMM_NAMES


SMALL = {"stage_sizes": (1, 1, 1, 1), "num_classes": 6}
WRITTEN = [
    ("resnet18", {"num_classes": 6}, "timm"),
    ("resnet18", SMALL, "timm"),
    ("resnet50", {**SMALL, "groups": 2, "width_per_group": 8, "output_stride": 16}, "timm"),
    ("test_resnet", {"num_classes": None}, "timm"),
    ("resnetv2_18d", SMALL, "timm"),
    ("resnet18", SMALL, "transformers"),
    ("resnet50", {**SMALL, "stride_in": "1x1"}, "transformers"),
    ("resnet18", {**SMALL, "num_classes": None, "stem_filters": 16, "stage_filters": (8, 24, 32, 40)}, "transformers"),
]


@pytest.mark.parametrize(("name", "arguments", "layout"), WRITTEN)
def test_a_folder_that_is_written_is_read_as_the_same_network(tmp_path, name, arguments, layout):
    model = create_model(name, **arguments)
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
    names = tuple("abcdef") if arguments["num_classes"] else ()
    preprocess = Preprocess(73, 64, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    save_folder(tmp_path / "out", model, variables, layout, WeightsInfo(name, arguments, names, preprocess))
    info = read_info(tmp_path / "out")
    assert info.create_model() == model
    assert (info.class_names, info.preprocess) == (names, preprocess)
    again = load_weights(tmp_path / "out", model)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, dict(variables)))


UNWRITTEN = [
    ("resnet20", {}, "timm", r"timm has no network 'resnet20'"),
    (
        "resnet18",
        {"stride_in": "1x1", "block_cls": "bottleneck"},
        "timm",
        r"timm has no such network .*stride_in='1x1'",
    ),
    ("resnet18", {"shortcut": "C"}, "timm", r"timm has no such network .*shortcut='C'"),
    ("resnet18", {"base_classes": 4}, "timm", r"timm has no such network .*base_classes=4"),
    ("resnet18", {"activation": "silu"}, "transformers", r"transformers has no such network .*activation='silu'"),
    ("resnet50d", {}, "transformers", r"transformers has no such network"),
    ("resnext50_32x4d", {}, "transformers", r"transformers has no such network .*groups=32"),
    ("resnetaa50", {}, "transformers", r"transformers has no such network .*anti_alias"),
]


@pytest.mark.parametrize(("name", "arguments", "layout", "message"), UNWRITTEN)
def test_a_network_that_the_other_has_not_is_refused(tmp_path, name, arguments, layout, message):
    model = create_model(name, **{**arguments, "stage_sizes": (1, 1, 1, 1)[: len(create_model(name).stage_sizes)]})
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    with pytest.raises(UserError, match=message):
        save_folder(tmp_path / "out", model, variables, layout, WeightsInfo(name, arguments))
    assert not (tmp_path / "out").exists()


def test_convert_writes_a_folder_and_replaces_only_such_a_one(tmp_path):
    model = create_model("resnet18", **SMALL)
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
    save_weights(tmp_path / "x.safetensors", model, variables)
    options = {"model_name": "resnet18", "model_args": SMALL, "preprocess": "IMAGENET1K_V2"}
    for layout in ("timm", "transformers", "timm"):
        convert(tmp_path / "x.safetensors", tmp_path / "out", layout=layout, **options)
        assert (tmp_path / "out" / "preprocessor_config.json").exists() == (layout == "transformers")
    report = convert(tmp_path / "out", tmp_path / "ours")
    assert (report["model"], report["preprocess"]["resize"]) == ("resnet18", 232)
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds 'notes\.txt', no converted weights"):
        convert(tmp_path / "x.safetensors", tmp_path / "out", layout="timm", **options)
    with pytest.raises(UserError, match=r"layout='tutorial' is of a file"):
        convert(tmp_path / "x.safetensors", tmp_path / "other", layout="tutorial", **options)


def test_what_timm_cannot_say_is_warned_of(tmp_path, caplog):
    model = create_model("resnet18", **SMALL)
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
    whole = Preprocess(None, None, "bilinear", (0.5,) * 3, (0.2,) * 3)
    with caplog.at_level(logging.WARNING, logger="resnet_jax"):
        info = WeightsInfo("resnet18", SMALL, tuple("abcdef"), whole, multi_label=True)
        save_folder(tmp_path / "unknown", model, variables, "timm", info)
        assert "it will make them 224x224" in caplog.text
        assert "an image may have several labels, which timm cannot say" in caplog.text
        caplog.clear()
        save_folder(tmp_path / "known", model, variables, "timm", replace(info, multi_label=False, image_size=(32, 32)))
        assert caplog.text == ""
    assert read_info(tmp_path / "known").preprocess == replace(whole, resize=32, crop=32)


def test_a_config_that_has_nothing_to_do_with_a_file_is_left_aside_where_the_network_is_named(tmp_path, caplog):
    model = create_model("resnet18", **SMALL)
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
    save_weights(tmp_path / "x.safetensors", model, variables)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="of the kind 'clip'"):
        convert(tmp_path / "x.safetensors", tmp_path / "out", model_args=SMALL)
    with caplog.at_level(logging.WARNING, logger="resnet_jax"):
        convert(tmp_path / "x.safetensors", tmp_path / "out", model_name="resnet18", model_args=SMALL)
    assert "is taken for resnet18 without it" in caplog.text
    assert read_info(tmp_path / "out").model == "resnet18"


def test_crop_shares_that_are_written_give_the_same_size_again():
    from resnet_jax.weights.timm_config import _crop_share

    for crop in (1, 32, 176, 223, 224, 288, 447):
        for before in range(crop, 2 * crop + 40):
            assert int(np.floor(crop / _crop_share(crop, before))) == before


def test_every_listed_network_of_timm_says_itself():
    from resnet_jax.weights.timm_config import write_timm_config

    for name in TIMM_NAMES & {*VARIANTS}:
        config = write_timm_config(create_model(name), WeightsInfo(name, {}), 3)
        assert read_timm_config("x", config).create_model() == create_model(name)
