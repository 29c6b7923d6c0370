"""The names of every layout, both ways, against the frameworks' own state_dicts."""

import golden_files
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.errors import UserError
from resnet_jax.models import variable_shapes
from resnet_jax.weights.names import layout_names, recognize_layout, torch_arrays, torch_name, torch_shapes

GOLDEN = {
    "torchvision-resnet50": ("resnet50", "torchvision", "torchvision"),
    "timm-resnet50d": ("resnet50d", "torchvision", "timm"),
    "timm-seresnet50": ("seresnet50", "torchvision", "timm"),
    "timm-resnetv2_50": ("resnetv2_50", "timm", "timm"),
    "hf-resnet-18": ("resnet18", "transformers", "transformers"),
    "hf-resnet-50": ("resnet50", "transformers", "transformers"),
}


def weight_names(state_dict):
    return {name for name in state_dict if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("golden", GOLDEN)
def test_a_frameworks_names_are_recognised_and_written_back(golden):
    facts, _ = golden_files.load(golden)
    name, recognised, layout = GOLDEN[golden]
    theirs, ours = weight_names(facts["state_dict"]), set(torch_shapes(variable_shapes(create_model(name))))
    actual, renamed = recognize_layout(theirs)
    assert (actual, set(renamed.values())) == (recognised, ours)
    assert set(layout_names(layout, create_model(name), ours).values()) == theirs


@pytest.mark.parametrize(
    ("layout", "renamed"),
    [
        ("torchvision", {"conv1.weight": "conv1.weight", "fc.bias": "fc.bias"}),
        ("torchvision", {"module.layer1.0.conv1.weight": "layer1.0.conv1.weight", "module.bn1.bias": "bn1.bias"}),
        ("torchvision", {"_orig_mod.module.fc.bias": "fc.bias", "_orig_mod.module.bn1.weight": "bn1.weight"}),
        ("akamaster", {"module.linear.weight": "fc.weight", "module.conv1.weight": "conv1.weight"}),
        ("tutorial", {"layer2.0.shortcut.0.weight": "layer2.0.downsample.0.weight", "fc.bias": "fc.bias"}),
        ("tutorial", {"layer2.0.identity_downsample.1.bias": "layer2.0.downsample.1.bias", "fc.bias": "fc.bias"}),
        (
            "transformers",
            {
                "resnet.encoder.stages.3.layers.12.layer.2.convolution.weight": "layer4.12.conv3.weight",
                "resnet.embedder.embedder.normalization.bias": "bn1.bias",
                "classifier.1.bias": "fc.bias",
            },
        ),
        (
            "transformers",
            {
                "encoder.stages.0.layers.0.layer.0.normalization.bias": "layer1.0.bn1.bias",
                "embedder.embedder.convolution.weight": "conv1.weight",
            },
        ),
        (
            "tutorial",
            {
                "block2.layer.0.convShortcut.weight": "layer2.0.downsample.0.weight",
                "block3.layer.1.bn2.bias": "layer3.1.bn2.bias",
                "bn1.running_mean": "norm.running_mean",
                "conv1.weight": "conv1.weight",
            },
        ),
        ("timm", {"stages.2.blocks.22.norm3.running_var": "layer3.22.bn3.running_var", "head.fc.bias": "fc.bias"}),
    ],
)
def test_names_by_layout(layout, renamed):
    assert recognize_layout(renamed) == (layout, renamed)


@pytest.mark.parametrize("first", [0, 1])
def test_tutorials_that_write_convolution_and_norm_as_one_are_recognised(first):
    names = {
        "conv1.0.weight": "conv1.weight",
        "conv1.1.running_mean": "bn1.running_mean",
        f"layer{first}.0.conv1.0.bias": "layer1.0.conv1.bias",
        f"layer{first + 3}.2.conv2.1.weight": "layer4.2.bn2.weight",
        f"layer{first + 1}.0.downsample.0.weight": "layer2.0.downsample.0.weight",
        "fc.weight": "fc.weight",
    }
    assert recognize_layout(names) == ("tutorial", names)


def test_the_deep_stem_is_not_taken_for_a_tutorials():
    names = ["conv1.0.weight", "conv1.1.weight", "conv1.6.weight", "layer1.0.conv1.weight", "bn1.weight"]
    assert recognize_layout(names) == ("torchvision", {name: name for name in names})


def test_a_name_of_no_layout_stays_as_it_is():
    assert recognize_layout(["conv1.weight", "layer1.0.surprise.weight"])[1]["layer1.0.surprise.weight"] == (
        "layer1.0.surprise.weight"
    )


def test_shared_prefixes_are_dropped_and_counters_do_not_hide_them():
    _, renamed = recognize_layout(["model.conv1.weight", "model.fc.weight", "step"])
    assert renamed == {"model.conv1.weight": "conv1.weight", "model.fc.weight": "fc.weight", "step": "step"}


@pytest.mark.parametrize("name", ["resnetv2_50", "resnet50d", "seresnet18"])
def test_transformers_names_are_refused_for_networks_it_does_not_have(name):
    model = create_model(name)
    with pytest.raises(UserError, match="layout='transformers' has no name for"):
        layout_names("transformers", model, torch_shapes(variable_shapes(model)))


def test_arrays_in_torchs_order_are_views():
    kernel, dense = jnp.arange(3 * 3 * 2 * 5.0).reshape(3, 3, 2, 5), jnp.arange(6.0).reshape(2, 3)
    variables = {"params": {"conv1": {"kernel": kernel}, "fc": {"kernel": dense, "bias": jnp.zeros(3)}}}
    arrays = torch_arrays(variables)
    assert {name: array.shape for name, array in arrays.items()} == {
        "conv1.weight": (5, 2, 3, 3),
        "fc.weight": (3, 2),
        "fc.bias": (3,),
    }
    assert arrays["conv1.weight"][4, 1, 2, 0] == kernel[2, 0, 1, 4]
    assert np.shares_memory(arrays["conv1.weight"], np.asarray(kernel))


def test_leaves_have_torchs_names():
    assert torch_name(("batch_stats", "layer1", "0", "bn1", "var")) == "layer1.0.bn1.running_var"
    assert torch_name(("params", "layer1", "0", "bn1", "scale")) == "layer1.0.bn1.weight"
