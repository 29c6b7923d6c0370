"""Stages dilated instead of strided: the same weights, finer maps, and torchvision's numbers."""

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import weights

from resnet_jax import create_model
from resnet_jax.models import variable_shapes


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_resnet50_is_torchvisions(output_stride):
    facts, _ = golden_files.load("torchvision-resnet50")
    with np.load(golden_files.GOLDEN / "torchvision-resnet50-dilated.npz") as arrays:
        expected = {name.removeprefix(f"{output_stride}_"): array for name, array in arrays.items()
                    if name.startswith(f"{output_stride}_")}  # fmt: skip
    with jax.enable_x64(True):
        model = create_model("resnet50", output_stride=output_stride, dtype="float64")
        variables = golden_files.variables(facts["state_dict"], "float64")
        images = jnp.asarray(weights.images(2, 64).transpose(0, 2, 3, 1))
        stages = jax.jit(lambda v, x: model.apply(v, x, train=False, features=True))(variables, images)
        head = variables["params"]["fc"]
        logits = stages["pooled"] @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-9)
        for i in range(1, 5):
            mean = stages[f"stage{i}"].mean(-1)
            assert mean.shape == expected[f"layer{i}"].shape
            np.testing.assert_allclose(mean, expected[f"layer{i}"], rtol=0, atol=1e-9)
    assert stages["stage4"].shape[1:3] == (64 // output_stride, 64 // output_stride)


@pytest.mark.parametrize(
    ("name", "output_stride", "sides"),
    [("resnet18", 8, [8, 4, 4, 4]), ("resnet18", 4, [8, 8, 8, 8]), ("preact_resnet20", 2, [32, 16, 16]),
     ("resnet20", 1, [32, 32, 32]), ("resnext50_32x4d", 16, [8, 4, 2, 2])],
)  # fmt: skip
def test_every_kind_of_block_keeps_its_weights_and_gives_finer_maps(name, output_stride, sides):
    plain, dilated = create_model(name), create_model(name, output_stride=output_stride)
    assert variable_shapes(plain) == variable_shapes(dilated)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    stages = jax.eval_shape(
        lambda v, x: dilated.apply(v, x, train=False, features=True), variable_shapes(dilated), images
    )
    assert [stages[f"stage{i + 1}"].shape[1] for i in range(len(sides))] == sides


@pytest.mark.numerics
def test_dilated_stage_sees_at_every_other_place_what_the_strided_one_sees():
    # Of one block a stage, and zero where the image ends: the same sums, at all places instead of every other.
    arguments = {"stage_sizes": (1, 1), "num_filters": 8, "shortcut": "B", "num_classes": 3}
    strided, dilated = create_model("resnet20", **arguments), create_model("resnet20", output_stride=1, **arguments)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = strided.init(jax.random.key(1), images, train=False)
    coarse, fine = (
        model.apply(variables, images, train=False, features=True)["stage2"] for model in (strided, dilated)
    )
    assert fine.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("resnet50", {"output_stride": 12}, "output_stride=12 must be one of 4, 8, 16, 32"),
     ("resnet20", {"output_stride": 8}, "output_stride=8 must be one of 1, 2, 4"),
     ("resnet50d", {"output_stride": 8}, "needs another shortcut than 'D'")],
)  # fmt: skip
def test_strides_that_there_are_not_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)
