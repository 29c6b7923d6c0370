"""Big Transfer's archives of NumPy: timm's logits, and what is no weight in an archive."""

import golden_files
import jax
import numpy as np
import pytest
from golden import weights
from state_dicts import small, state_dict

from resnet_jax import create_model, load_weights
from resnet_jax.errors import UserError
from resnet_jax.models import variable_shapes
from resnet_jax.weights import import_weights
from resnet_jax.weights.describe import describe_weights
from resnet_jax.weights.formats.npz_file import bit_name
from resnet_jax.weights.names import torch_shapes

ARGUMENTS = {"stage_sizes": (2, 1), "stem_filters": 32, "stage_filters": (32, 64), "num_classes": 7}


@pytest.fixture
def archive(tmp_path):
    facts, _ = golden_files.load("bit")
    np.savez(
        tmp_path / "BiT.npz", **{name: weights.tensor(name, tuple(shape)) for name, shape in facts["names"].items()}
    )
    return tmp_path / "BiT.npz"


def test_an_archive_answers_as_in_timm(archive):
    facts, arrays = golden_files.load("bit")
    with jax.enable_x64(True):
        model = create_model("resnetv2_50x1_bit", **ARGUMENTS, dtype="float64")
        variables, report = import_weights(archive, model)
        logits = model.apply(variables, golden_files.images(facts, "float64"), train=False)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-12)
    assert (report.format, report.layout, report.unexpected) == ("npz", "bit", {})


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "resnetv2_152x2_bit"])
def test_every_tensor_of_bit_has_a_name_there(name):
    """Made of ours by the rule, the other way round."""
    leaves = {"weight": "gamma", "bias": "beta"}

    def name_there(here):
        *module, leaf = here.split(".")
        match module:
            case ["conv1"]:
                return "resnet/root_block/standardized_conv2d/kernel"
            case ["norm"]:
                return f"resnet/group_norm/{leaves[leaf]}"
            case ["fc"]:
                return f"resnet/head/conv2d/{'kernel' if leaf == 'weight' else 'bias'}"
        unit = f"resnet/block{module[0][-1]}/unit{int(module[1]) + 1:02d}"
        if module[2] == "downsample":
            return f"{unit}/a/proj/standardized_conv2d/kernel"
        part = f"{unit}/{'abc'[int(module[2][-1]) - 1]}"
        return (
            f"{part}/standardized_conv2d/kernel"
            if module[2].startswith("conv")
            else f"{part}/group_norm/{leaves[leaf]}"
        )

    names = [*torch_shapes(variable_shapes(create_model(name)))]
    assert [bit_name(name_there(name)) for name in names] == names


def test_a_network_without_standardized_kernels_is_refused(archive):
    model = create_model("resnetv2_50", **ARGUMENTS, norm_layer="group")
    with pytest.raises(UserError, match=r"weight_standardization=True.* stem_pool='zero_padded_max'.*--model_args"):
        load_weights(archive, model)
    _, model, info = describe_weights(archive, "resnetv2_50", ARGUMENTS)
    assert model.weight_standardization
    assert info.model_args["stem_pool"] == "zero_padded_max"


def test_without_a_name_the_network_is_advised(archive):
    with pytest.raises(UserError, match=r"--model resnetv2_50x1_bit --model_args .*stage_sizes"):
        describe_weights(archive, None, {})


def test_a_network_of_half_the_archive_names_what_is_missing_there(archive):
    with pytest.raises(UserError, match="has beyond the model resnet/block1/unit02/"):
        load_weights(archive, create_model("resnetv2_50x1_bit", **{**ARGUMENTS, "stage_sizes": (1, 1)}))


def test_an_archive_of_torchs_names_is_a_state_dict(tmp_path):
    np.savez_compressed(tmp_path / "weights.npz", **state_dict(small()))
    _, report = import_weights(tmp_path / "weights.npz", small())
    assert (report.format, report.layout) == ("npz", "torchvision")


def test_fortrans_order_and_other_bytes_are_the_same_numbers(tmp_path):
    arrays = state_dict(small())
    changed = {name: np.asfortranarray(array.astype(">f8")) for name, array in arrays.items()}
    np.savez(tmp_path / "one.npz", **arrays)
    np.savez(tmp_path / "other.npz", **changed)
    one, other = (load_weights(tmp_path / name, small()) for name in ("one.npz", "other.npz"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_objects_in_an_archive_are_not_read(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    arrays = {**state_dict(small()), "fc.bias": np.array([Payload()], object)}
    np.savez(tmp_path / "weights.npz", **arrays)
    with pytest.raises(UserError, match=r"fc\.bias is an array of dtype object"):
        load_weights(tmp_path / "weights.npz", small())
    assert not (tmp_path / "marker").exists()
