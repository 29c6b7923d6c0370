"""Checkpoints as people and projects save them: the network in them is found, and what is left is said."""

import logging

import jax
import numpy as np
import pytest
from state_dicts import SMALL, network, plausible_variables, small
from torch_files import Built, Name, Raw, torch_file, whole_module, zip_file

from resnet_jax import create_model, load_weights, save_weights
from resnet_jax.errors import UserError
from resnet_jax.models import zero_padding_shortcut
from resnet_jax.weights.convert import convert
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.names import torch_arrays
from resnet_jax.weights.safetensors_file import write_safetensors


def renamed(state, rules):
    """The state_dict with these beginnings of names replaced, in the rules' order."""
    found = {}
    for name, array in state.items():
        for old, new in rules:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        found[name] = array
    return found


def prefixed(state, prefix):
    return {prefix + name: array for name, array in state.items()}


def linear(name, outputs, inputs, *, bias=True):
    arrays = {f"{name}.weight": np.ones((outputs, inputs), np.float32)}
    return {**arrays, f"{name}.bias": np.ones(outputs, np.float32)} if bias else arrays


def without_head(state):
    return {name: array for name, array in state.items() if not name.startswith("fc.")}


def head_as(state, name):
    return renamed(state, [("fc.", f"{name}.")])


C = 64  # channels of the last stage
# What the file holds, made of a state_dict; what is left of it; None for the head: it has none.
STYLES = {
    "DataParallel": (lambda s: prefixed(s, "module."), 0, True),
    "mmpretrain": (
        lambda s: {**prefixed(without_head(s), "backbone."), "head.fc.weight": s["fc.weight"],
                   "head.fc.bias": s["fc.bias"]}, 0, True,
    ),
    "Lightning": (lambda s: {**prefixed(s, "model."), "criterion.weight": np.ones(5, np.float32)}, 1, True),
    "Barlow Twins": (
        lambda s: {**prefixed(without_head(s), "module.backbone."), **linear("module.projector.0", 32, C, bias=False),
                   **linear("module.projector.3", 32, 32, bias=False)}, 2, False,
    ),
    "SimSiam": (
        lambda s: {**prefixed(without_head(s), "module.encoder."), **linear("module.encoder.fc.0", C, C, bias=False),
                   **linear("module.encoder.fc.3", C, C, bias=False), **linear("module.predictor.0", 8, C)}, 4, False,
    ),
    "SwAV": (
        lambda s: {**prefixed(without_head(s), "module."), **linear("module.projection_head.0", C, C),
                   **linear("module.projection_head.3", 8, C), **linear("module.prototypes", 30, 8, bias=False)},
        5, False,
    ),
    "SupContrast": (
        lambda s: {**prefixed(without_head(s), "encoder."), **linear("head.0", C, C), **linear("head.2", 8, C)},
        4, False,
    ),
    "normalized inside": (
        lambda s: {**prefixed(s, "1."), "0.mean": np.ones(3, np.float32), "0.std": np.ones(3, np.float32)}, 2, True,
    ),
    "a head behind dropout": (lambda s: head_as(s, "fc.1"), 0, True),
    "last_linear": (lambda s: head_as(s, "last_linear"), 0, True),
    "classifier.1": (lambda s: head_as(s, "classifier.1"), 0, True),
    "fc_out": (lambda s: head_as(s, "fc_out"), 0, True),
    "a queue beside": (lambda s: {**s, "queue": np.ones((8, 32), np.float32)}, 1, True),
    "children of a Sequential": (
        lambda s: renamed(s, [("conv1.", "0."), ("bn1.", "1."), *((f"layer{i}.", f"{i + 3}.") for i in range(1, 5)),
                              ("fc.", "9.")]), 0, True,
    ),
    "fastai": (
        lambda s: {**prefixed(renamed(without_head(s), [("conv1.", "0."), ("bn1.", "1."),
                                                        *((f"layer{i}.", f"{i + 3}.") for i in range(1, 5))]), "0."),
                   **linear("1.4", 16, 2 * C, bias=False), **linear("1.8", 5, 16, bias=False)}, 2, False,
    ),
    "detectron2": (
        lambda s: {
            name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            .replace("bn1", "conv1.norm").replace("bn2", "conv2.norm"): array
            for name, array in prefixed(
                renamed(without_head(s), [("conv1.", "stem.conv1."), ("bn1.", "stem.bn1."),
                                          *((f"layer{i}.", f"res{i + 1}.") for i in range(1, 5))]),
                "backbone.bottom_up.",
            ).items()
        }, 0, False,
    ),
    "maskrcnn-benchmark": (
        lambda s: prefixed(renamed(without_head(s), [("conv1.", "stem.conv1."), ("bn1.", "stem.bn1.")]), "body."),
        0, False,
    ),
    "pytorch-cifar100": (
        lambda s: {
            name.replace("conv1.w", "residual_function.0.w").replace(".bn1", ".residual_function.1")
            .replace("conv2.w", "residual_function.3.w").replace(".bn2", ".residual_function.4")
            .replace("downsample", "shortcut"): array
            for name, array in renamed(s, [("conv1.", "conv1.0."), ("bn1.", "conv1.1."),
                                           *((f"layer{i}.", f"conv{i + 1}_x.") for i in range(1, 5))]).items()
        }, 0, True,
    ),
    "NVIDIA": (lambda s: renamed(s, [(f"layer{i}.", f"layers.{i - 1}.") for i in range(1, 5)]), 0, True),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_network_is_found_in_the_style_of(style, tmp_path, caplog):
    model, variables, state = network()
    make, num_left, has_head = STYLES[style]
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, make(state), {})
    with caplog.at_level(logging.INFO, logger="resnet_jax"):
        if not has_head:
            with pytest.raises(UserError, match="has no head"):
                load_weights(path, model)
            caplog.clear()
        loaded = load_weights(path, model, head="strict" if has_head else "reset")
    expected, actual = ({**tree, "params": dict(tree["params"])} for tree in (variables, loaded))
    if not has_head:
        expected["params"].pop("fc"), actual["params"].pop("fc")
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    if num_left is not None:
        assert (f": {num_left} beside the network" in caplog.text) == bool(num_left), caplog.text


def test_which_of_several_networks_is_asked_and_chosen_by_prefix(tmp_path):
    model, variables, query = network()
    _, _, key = network(seed=1)
    path = tmp_path / "moco.safetensors"
    write_safetensors(path, {**prefixed(query, "module.encoder_q."), **prefixed(key, "module.encoder_k."),
                             "module.queue": np.ones((8, 16), np.float32)}, {})  # fmt: skip
    with pytest.raises(UserError, match=r"holds 2 networks, under module\.encoder_k, module\.encoder_q: choose by"):
        load_weights(path, model)
    for prefix in ("encoder_q", "module.encoder_q", "module.encoder_q."):
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, prefix=prefix), variables)
    with pytest.raises(UserError, match=r"no network under prefix='teacher': there are module\.encoder_k"):
        load_weights(path, model, prefix="teacher")


def test_one_network_under_two_names_is_one(tmp_path):
    model, variables, state = network()
    twice = {**prefixed(state, "module.model."), **prefixed(state, "module.attacker.model.")}
    path = torch_file(tmp_path / "robust.pt", {"model": twice})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)


def test_moving_average_is_taken_if_asked_for_and_what_is_taken_is_said(tmp_path, caplog):
    model, variables, state = network()
    _, averaged, ema = network(seed=1)
    path = torch_file(tmp_path / "train.pth", {"state_dict": state, "state_dict_ema": ema})
    with caplog.at_level(logging.INFO, logger="resnet_jax"):
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)
        assert (
            "the weights themselves are taken, state_dict; use='ema' (convert --use ema) takes state_dict_ema"
            in caplog.text
        )
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, use="ema"), averaged)
        assert "the moving average of the weights is taken, state_dict_ema" in caplog.text
    alone = torch_file(tmp_path / "alone.pth", {"state_dict": state})
    with pytest.raises(UserError, match="holds no moving average"):
        load_weights(alone, model, use="ema")
    only = torch_file(tmp_path / "only.pth", {"state_dict_ema": ema})
    jax.tree.map(np.testing.assert_array_equal, load_weights(only, model), averaged)
    with pytest.raises(UserError, match="holds the moving average of the weights alone"):
        load_weights(only, model, use="weights")
    with pytest.raises(UserError, match="use='average' must be one of weights, ema"):
        load_weights(path, model, use="average")


def test_module_that_was_pickled_whole_gives_its_tensors_without_its_code(tmp_path, caplog):
    model, variables, state = network()
    scratch = {"scratch": np.ones(3, np.float32)}
    for tree in (whole_module(state, hidden=scratch), {"model": whole_module(prefixed(state, "module.")), "epoch": 3}):
        path = torch_file(tmp_path / "whole.pth", tree)
        with caplog.at_level(logging.INFO, logger="resnet_jax"):
            jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)
        assert "holds an object of class someones.project.models.Net, whole: its tensors are taken" in caplog.text


def test_modules_that_hold_one_another_end(tmp_path):
    inner = Built(Name("a.B"), {"_modules": {}})
    for _ in range(100):
        inner = Built(Name("a.B"), {"_modules": {"x": inner}})
    with pytest.raises(UserError, match="its modules hold one another"):
        load_weights(torch_file(tmp_path / "deep.pth", inner), network()[0])
    # Each module holds the one before it twice, which is pickled once: 2 ** 40 in all.
    memo = b"".join(
        b"ca\nB\n)\x81}X\x08\x00\x00\x00_modules}(X\x01\x00\x00\x00xh" + bytes([i]) + b"X\x01\x00\x00\x00yh"
        + bytes([i]) + b"usbq" + bytes([i + 1]) + b"0" for i in range(40)
    )  # fmt: skip
    first = b"ca\nB\n)\x81}b" + b"q\x00" + b"0"
    (tmp_path / "wide.pth").write_bytes(zip_file(Raw(first + memo + b"h\x28"), {}))
    with pytest.raises(UserError, match="its module has more than 100,000 modules"):
        load_weights(tmp_path / "wide.pth", network()[0])


def test_network_for_blue_first_becomes_one_for_red_first(tmp_path):
    model, variables, state = network()
    path = tmp_path / "caffe.safetensors"
    write_safetensors(path, {**state, "conv1.weight": np.ascontiguousarray(state["conv1.weight"][:, ::-1])}, {})
    for layout in (None, "structure"):
        loaded = load_weights(path, model, bgr=True, layout=layout)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    grey = torch_file(tmp_path / "grey.pth", {**state, "conv1.weight": state["conv1.weight"][:, :1].copy()})
    with pytest.raises(UserError, match="no first convolution of three channels to reverse"):
        load_weights(grey, model, bgr=True)


def test_what_may_be_a_part_of_the_network_is_not_left_in_silence(tmp_path):
    model, _, state = network()
    for more in (
        {"conv2.weight": np.ones((8, 8, 3, 3), np.float32)},
        {"bn2.weight": np.ones(64, np.float32), "bn2.running_mean": np.ones(64, np.float32)},
        {"layer4.0.extra.weight": np.ones((64, 64), np.float32)},
    ):
        write_safetensors(tmp_path / "weights.safetensors", {**state, **more}, {})
        with pytest.raises(UserError, match=f"has beyond the model {next(iter(more)).rpartition('.')[0]}"):
            load_weights(tmp_path / "weights.safetensors", model)


def test_student_and_teacher_of_one_file_are_told_apart(tmp_path):
    model, variables, state = network()
    _, theirs, other = network(seed=1)
    content = {
        "student": prefixed(state, "module.backbone."), "teacher": prefixed(other, "backbone."), "epoch": 3,
        "optimizer": {"state": {}, "param_groups": []}, "args": Built(Name("argparse.Namespace"), {"lr": 0.1}),
    }  # fmt: skip
    path = torch_file(tmp_path / "dino.pth", content)
    with pytest.raises(UserError, match=r"holds 2 networks, under teacher\.backbone, student\.module\.backbone"):
        load_weights(path, model)
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, prefix="teacher"), theirs)
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, prefix="student"), variables)
    path = torch_file(tmp_path / "tutorial.pth", {"model_state": state, "args": content["args"]})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)


def test_state_dicts_are_found_however_deep_they_lie(tmp_path):
    model, variables, state = network()
    optimizer = {"state": {0: {"exp_avg": np.ones((3, 3), np.float32)}}}
    for content in (
        {"state": {"model": state, "optimizers": optimizer}, "rng": [1, 2]},
        {"classy": {"base_model": {"model": {"trunk": prefixed(state, "_feature_blocks.")}}}, "optimizer": optimizer},
        {"model": {"backbone": without_head(state), "head": {n: a for n, a in state.items() if n.startswith("fc.")}}},
    ):
        path = torch_file(tmp_path / "deep.pth", content)
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)


def test_state_dicts_of_other_names_and_averages_are_found_as_before(tmp_path):
    model, variables, state = network()
    moments = {"state": {"layer1.0.conv1.weight": {"exp_avg": np.ones(3, np.float32)}}}
    for content in (
        {"epoch": 3, "optimal_model": state},
        {0: state},
        {"resnet": state, "ema_helper": {"shadow": state}},
        {"backbone": state, "opt": moments, "adam": moments},
        {"all": {"backbone": state, "adam": moments}},
    ):
        path = torch_file(tmp_path / "w.pth", content)
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)


def test_a_pooled_cifar_stem_is_recorded_and_said(tmp_path, caplog):
    arguments = {"stage_sizes": (1, 1, 1, 1), "num_filters": 8, "num_classes": 5}
    model = create_model("cifar_resnet18", **arguments)
    pooled = model.clone(stem="cifar_pooled")
    variables = plausible_variables(pooled)
    save_weights(tmp_path / "bare.safetensors", pooled, variables)
    assert "does not show that its network has stem='cifar_pooled'" in caplog.text
    caplog.clear()
    info = WeightsInfo("cifar_resnet18", {**arguments, "stem": "cifar_pooled"})
    save_weights(tmp_path / "w.safetensors", pooled, variables, info=info)
    load_weights(tmp_path / "w.safetensors", pooled)
    assert not caplog.text
    load_weights(tmp_path / "w.safetensors", model)
    assert "is of a cifar_resnet18 with stem='cifar_pooled': the same tensors in another" in caplog.text
    caplog.clear()
    bare, again = tmp_path / "bare.safetensors", tmp_path / "again.safetensors"
    convert(bare, again, model_name="cifar_resnet18", model_args=arguments)
    assert "stem='cifar_pooled' is for networks that have one" in caplog.text


def test_an_average_among_the_weights_is_named(tmp_path):
    model, _, state = network()
    _, averaged, average = network(seed=1)
    path = torch_file(
        tmp_path / "a.ckpt", {"state_dict": {**prefixed(state, "model."), **prefixed(average, "ema_model.")}}
    )
    with pytest.raises(UserError, match=r"leave out use='ema' .*: it is a part of the weights, prefix='ema_model'"):
        load_weights(path, model, use="ema")
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, prefix="ema_model"), averaged)


def test_projections_behind_a_pooling_in_some_blocks_alone_are_counted_as_in_all(tmp_path):
    model, variables, state = network("resnet50d", stage_sizes=(2, 1, 1, 1))
    rules = [("layer1.0.downsample.1.", "layer1.0.downsample.0."), ("layer1.0.downsample.2.", "layer1.0.downsample.1.")]
    theirs = renamed(state, rules)
    assert theirs.keys() != state.keys()
    path = torch_file(tmp_path / "resnetv1d50.pth", {"state_dict": prefixed(theirs, "backbone.")})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)


def test_a_head_without_a_bias_is_said(tmp_path):
    model, _, state = network()
    del state["fc.bias"]
    with pytest.raises(UserError, match=r"has a head without a bias, and the model's has one: start a new head with"):
        load_weights(torch_file(tmp_path / "w.pth", state), model)


def test_what_weights_do_not_tell_of_caffes_kind_and_of_pooled_cifar_stems_is_said(tmp_path, caplog):
    model, _, state = network("resnet50")
    for name, is_said in (("resnet50_caffe-788b5fa3.pth", True), ("resnet50.pth", False)):
        caplog.clear()
        load_weights(torch_file(tmp_path / name, state), model)
        assert ("these have stride_in='1x1'" in caplog.text) == is_said
    caplog.clear()
    load_weights(tmp_path / "resnet50_caffe-788b5fa3.pth", model, bgr=True)
    assert not caplog.text
    model, variables, state = network("cifar_resnet18")
    load_weights(torch_file(tmp_path / "resnet18.pt", state), model)
    assert "stem='cifar_pooled' is for networks that have one" in caplog.text
    caplog.clear()
    pooled = model.clone(stem="cifar_pooled")
    loaded = load_weights(tmp_path / "resnet18.pt", pooled)
    assert not caplog.text
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    stages = [one.apply(variables, images, train=False, features=True)["stage1"].shape for one in (model, pooled)]
    assert [shape[1] for shape in stages] == [32, 16]


@pytest.mark.parametrize("name", ["swa_state_dict", "ema_state", "params_ema"])
def test_averages_by_their_other_names(tmp_path, name):
    model, variables, state = network()
    _, averaged, average = network(seed=1)
    path = torch_file(tmp_path / "swa.pth", {"state_dict": state, name: average, "swa_n": 5})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, use="ema"), averaged)


def test_cifar_networks_that_pad_channels_behind_need_a_network_that_does(tmp_path, caplog):
    arguments = {"stage_sizes": (1, 1), "num_filters": 8, "num_classes": 5}
    model = create_model("resnet20", shortcut="A_end", **arguments)
    variables = plausible_variables(model)
    state = {name: np.array(array, order="C") for name, array in torch_arrays(variables).items()}
    rules = [("conv1.", "conv_1_3x3."), ("bn1.", "bn_1."), ("fc.", "classifier.")]
    rules += [
        (f"layer{s}.0.{here}.", f"stage_{s}.0.{there}.")
        for s in (1, 2) for here, there in (("conv1", "conv_a"), ("bn1", "bn_a"), ("conv2", "conv_b"), ("bn2", "bn_b"))
    ]  # fmt: skip
    path = torch_file(tmp_path / "resnet.pth.tar", {"state_dict": prefixed(renamed(state, rules), "module.")})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)
    with pytest.raises(UserError, match=r"whose networks have shortcut='A_end': create the model with that"):
        load_weights(path, create_model("resnet20", **arguments))
    own = tmp_path / "own.safetensors"
    save_weights(own, model, variables, info=WeightsInfo("resnet20", {**arguments, "shortcut": "A_end"}))
    load_weights(own, create_model("resnet20", **arguments))
    assert "is of a resnet20 with shortcut='A_end': the same tensors in another network answer otherwise" in caplog.text


def test_channels_padded_behind_are_as_torch_has_them():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    expected = np.concatenate([x[:, ::2, ::2], np.zeros((2, 3, 2, 3), np.float32)], axis=-1)  # cat((x, x.mul(0)), 1)
    np.testing.assert_array_equal(zero_padding_shortcut(x, 6, 2, at_end=True), expected)


def test_detectron2s_order_of_colours_is_said(tmp_path, caplog):
    model, variables, state = network()
    rules = [("conv1.", "stem.conv1."), ("bn1.", "stem.conv1.norm."), ("fc.", "linear.")]
    for s in range(1, 5):
        block, theirs = f"layer{s}.0.", f"res{s + 1}.0."
        rules += [(f"{block}bn{k}.", f"{theirs}conv{k}.norm.") for k in (1, 2)]
        rules += [(f"{block}downsample.0.", f"{theirs}shortcut."), (f"{block}downsample.1.", f"{theirs}shortcut.norm.")]
        rules += [(block, theirs)]
    path = torch_file(tmp_path / "model.pth", renamed(state, rules))
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model), variables)
    assert "take blue first unless their config says RGB: bgr=True" in caplog.text
    caplog.clear()
    load_weights(path, model, bgr=True)
    assert "blue first" not in caplog.text


def test_weights_that_are_recorded_to_be_of_another_network_are_said(tmp_path, caplog):
    model = small(activation="silu")
    variables = plausible_variables(model)
    path = tmp_path / "silu.safetensors"
    save_weights(path, model, variables)
    assert "does not show that its network has activation='silu'" in caplog.text
    caplog.clear()
    save_weights(path, model, variables, info=WeightsInfo("resnet18", {**SMALL, "activation": "silu"}))
    load_weights(path, model)
    assert not caplog.text
    load_weights(path, small())
    assert f"{path} is of a resnet18 with activation='silu': the same tensors in another" in caplog.text
