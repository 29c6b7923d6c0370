"""Weights by structure: modules matched by their order in the file and their shapes, whatever their names."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from state_dicts import network
from torch_files import torch_file

from resnet_jax import create_model, load_weights
from resnet_jax.errors import UserError
from resnet_jax.weights.convert import convert
from resnet_jax.weights.safetensors_file import write_safetensors
from resnet_jax.weights.state_dict import Choice

NAMES = Path(__file__).parents[3] / "shared" / "names"
# Real state_dicts of public repositories, and the network that each is.
REAL = {
    "course-plain20": ("plain20", {"conv_bias": True}),
    "course-residual20": ("resnet20", {"conv_bias": True}),
    "layers-2n-56": ("resnet56", {"shortcut": "B"}),
    "stem-bias-56": ("resnet56", {"shortcut": "B", "num_classes": 100, "conv_bias": True}),
    "tutorial-conv-bn": (
        "resnet20", {"stage_sizes": (3, 4, 6), "shortcut": "B", "shortcut_kernel_size": 3},
    ),
}  # fmt: skip


def read_names(name):
    """The tensors of a file of names, by name: random, in the file's order."""
    random = np.random.default_rng(0)
    tensors = json.loads((NAMES / f"{name}.json").read_text())["tensors"]
    return {key: random.standard_normal(shape).astype(np.float32) for key, shape, _ in tensors if "num_" not in key}


@pytest.mark.skipif(not NAMES.is_dir(), reason="needs the names of real state_dicts in ../shared/names")
@pytest.mark.parametrize("name", REAL)
def test_real_state_dict_is_loaded_by_structure(name, tmp_path):
    state = read_names(name)
    model_name, arguments = REAL[name]
    model = create_model(model_name, **arguments)
    variables = load_weights(torch_file(tmp_path / "w.pth", state), model, layout="structure")
    kernels = [array for array in state.values() if array.ndim == 4]
    loaded = [leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 4]
    assert len(loaded) == len(kernels)
    sums = sorted(float(np.abs(kernel).sum()) for kernel in kernels)
    np.testing.assert_allclose(sorted(float(np.abs(leaf).sum()) for leaf in loaded), sums, rtol=1e-5)
    block = variables["params"]["layer1"]["0"]["conv2"]["kernel"]
    second = [array for array in state.values() if array.ndim == 4][2]
    np.testing.assert_array_equal(block, second.transpose(2, 3, 1, 0))


@pytest.mark.skipif(not NAMES.is_dir(), reason="needs the names of real state_dicts in ../shared/names")
def test_real_network_that_is_none_of_ours_is_refused(tmp_path):
    path = torch_file(tmp_path / "w.pth", read_names("first-block-20"))
    with pytest.raises(UserError, match="has 25 convolutions and the model 19: it is of another network"):
        load_weights(path, create_model("resnet20"), layout="structure")


def scrambled(state, *, order=None, names=None):
    """The state_dict with names that say nothing: m0.weight, or `names` of (module, number)."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in state)
    new = {module: (names or (lambda module, i: f"m{i}"))(module, i) for i, module in enumerate(modules)}
    return {f"{new[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array for name, array in state.items()}


def in_order(state, *, projections_first=False):
    """The state_dict as torch would have it: conv1, bn1, conv2, bn2, downsample in each block."""

    def key(name):
        module = name.rpartition(".")[0]
        *parents, last = module.split(".")
        stage = {"conv1": -1, "bn1": -1, "norm": 98, "fc": 99}.get(module, int(parents[0][5:]) if parents else -1)
        block = int(parents[1]) if len(parents) > 1 else 0
        inner = (
            (-1 if projections_first else 9, int(last))
            if "downsample" in module
            else (int(last[-1]) if last[-1].isdigit() else 0, last[0] == "b")
        )
        return stage, block, inner

    return dict(sorted(state.items(), key=lambda item: key(item[0])))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("resnet50", {}),
        ("resnet50", {"groups": 4, "width_per_group": 16}),
        ("resnet20", {"num_filters": 8, "stage_sizes": (2, 1, 2)}),
    ],
)
def test_names_that_say_nothing_are_no_hindrance(name, arguments, tmp_path):
    model, variables, state = network(name, **arguments)
    path = torch_file(tmp_path / "w.pth", {"state_dict": scrambled(in_order(state))})
    loaded = load_weights(path, model, layout="structure")
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_error_on_unknown_names_says_what_structure_would_do(tmp_path):
    model, variables, state = network()
    path = torch_file(tmp_path / "w.pth", scrambled(in_order(state)))
    with pytest.raises(
        UserError, match=r"layout='structure' \(convert --layout structure\) would load m0\.weight as conv1"
    ) as e:
        load_weights(path, model)
    assert "\n" not in str(e.value)
    result = convert(
        path,
        tmp_path / "w.safetensors",
        model_name="resnet18",
        model_args={"stage_sizes": (1, 1, 1, 1), "num_filters": 8, "num_classes": 5},
        choice=Choice(layout="structure"),
    )
    assert result["layout"] == "structure"
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "w.safetensors", model), variables)


def test_a_part_that_the_network_lacks_is_no_match(tmp_path):
    model, _, state = network()
    gates = {"m9.gate.weight": np.ones((2, 8), np.float32), "m9.gamma": np.ones(8, np.float32)}
    for name, gate in gates.items():
        content = {}
        for there, array in scrambled(in_order(state)).items():
            content |= {name: gate, there: array} if there == "m10.weight" else {there: array}
        path = torch_file(tmp_path / "w.pth", content)
        with pytest.raises(UserError, match=rf"{name} \(.*\) stands among the blocks, and is no part of one here"):
            load_weights(path, model, layout="structure")
    group = {name.replace("layer", "group"): array for name, array in in_order(state).items()}
    path = tmp_path / "w.safetensors"  # which keeps no order
    write_safetensors(path, {**group, "group2.0.gate.weight": np.ones((2, 8), np.float32)}, {})
    with pytest.raises(UserError, match=r"group2\.0\.gate\.weight \(2, 8\) stands among the blocks"):
        load_weights(path, model, layout="structure")


def test_what_stands_beside_the_blocks_is_left(tmp_path, caplog):
    model, variables, state = network()
    mean, matrix = np.ones(3, np.float32), np.ones((4, 4), np.float32)
    more = {"normalizer.mean": mean, "arcface.weight": matrix}
    scrambled_too = {**more, **scrambled(in_order(state)), "z.projector.weight": matrix}
    blurred = {"m10.filt": np.ones((8, 1, 3, 3), np.float32)}
    for path, num_left in (
        (torch_file(tmp_path / "beside.pth", scrambled_too), 3),
        (torch_file(tmp_path / "blurred.pth", {**scrambled(in_order(state)), **blurred}), 1),
    ):
        jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, layout="structure"), variables)
        assert f": {num_left} beside the network" in caplog.text
    path = tmp_path / "w.safetensors"
    write_safetensors(path, scrambled_too, {})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, layout="structure"), variables)


def test_tensors_that_could_stand_for_one_another_are_named(tmp_path):
    model, _, state = network(shortcut_kernel_size=3)
    path = torch_file(tmp_path / "w.pth", scrambled(in_order(state, projections_first=True)))
    with pytest.raises(UserError, match=r"m\d+ and m\d+ could stand for one another in layer2\.0: rename them"):
        load_weights(path, model, layout="structure")


def test_projection_of_the_branchs_shape_is_known_by_blocks_without_one(tmp_path):
    model, variables, state = network(shortcut_kernel_size=3, stage_sizes=(2, 2, 2, 2))
    names = {module: module.replace("downsample", "other") for module in (n.rpartition(".")[0] for n in state)}
    state = in_order(state, projections_first=True)
    path = torch_file(tmp_path / "w.pth", scrambled(state, names=lambda module, i: f"x.{names[module]}"))
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, layout="structure"), variables)


def test_file_without_order_is_matched_by_numbers_alone(tmp_path):
    model, variables, state = network()
    path = tmp_path / "w.safetensors"
    write_safetensors(path, scrambled(in_order(state)), {})
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, model, layout="structure"), variables)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    write_safetensors(path, scrambled(in_order(state), names=lambda module, i: "".join(sorted(letters))[i]), {})
    with pytest.raises(UserError, match=r"as the file keeps no order of its tensors: save it as \.pth"):
        load_weights(path, model, layout="structure")


def test_other_networks_are_refused(tmp_path):
    _, _, state = network()
    path = torch_file(tmp_path / "w.pth", scrambled(in_order(state)))
    small = {"num_filters": 8, "num_classes": 5}
    for arguments, line in (
        ({"stage_sizes": (1, 1, 1, 2)}, "has 12 convolutions and the model 14"),
        ({"stage_sizes": (1, 1, 1, 1), "num_filters": 16}, "stands where conv1"),
        ({"stage_sizes": (1, 1, 1, 1), "squeeze_excite": True}, "not layer1.0.se"),
    ):
        with pytest.raises(UserError, match=line):
            load_weights(path, create_model("resnet18", **{**small, **arguments}), layout="structure")
    with pytest.raises(UserError, match="layout='timm' must be one of structure"):
        load_weights(path, create_model("resnet18"), layout="timm")
