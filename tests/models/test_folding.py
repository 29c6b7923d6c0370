"""Batch norm folded into the convolutions, against the model it came from."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.errors import UserError
from resnet_jax.models import fold_batch_norm


def trained_variables(model, dtype):
    """Weights, statistics, scales and biases that matter, all positive but the kernels."""
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3), dtype), train=False), jax.random.key(0)
    )
    random = np.random.RandomState(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return jnp.asarray(random.randn(*leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1])), dtype)
        return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20", {"stage_sizes": (1, 1, 1)}),
        ("resnet20", {"stage_sizes": (1, 1, 1), "conv_bias": True, "norm_epsilon": 1e-3}),
        ("resnet18", {"num_classes": 10, "stage_sizes": (1, 1)}),
        ("seresnet18", {"num_classes": 10, "stage_sizes": (1, 1), "weight_standardization": True}),
        ("preact_resnet20", {"stage_sizes": (1, 1, 1), "weight_standardization": True}),
        ("resnext50_32x4d", {"num_classes": 10, "stage_sizes": (1, 1)}),
        ("resnet50", {"num_classes": None, "shortcut": "C", "stage_sizes": (1, 1)}),
        ("resnet50d", {"num_classes": 10, "stage_sizes": (1, 1)}),
        ("seresnet18", {"num_classes": 10, "stage_sizes": (1, 1)}),
        ("resnetv2_50", {"num_classes": 10, "stage_sizes": (2, 1)}),
        ("resnetv2_50", {"num_classes": 10, "stage_sizes": (1, 2), "conv_bias": True, "stem": "deep"}),
    ],
)
def test_folded_model_computes_the_same_without_statistics(name, arguments):
    with jax.enable_x64(True):
        model = create_model(name, dtype="float64", **arguments)
        variables = trained_variables(model, jnp.float64)
        folded, folded_variables = fold_batch_norm(model, variables)
        images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3), jnp.float64)

        def outputs(model, variables):
            return jax.jit(lambda v: model.apply(v, images, train=False))(variables)

        expected = outputs(model, variables)
        assert jnp.abs(expected).max() > 1e-3
        np.testing.assert_allclose(outputs(folded, folded_variables), expected, rtol=1e-10, atol=0)
        assert set(folded_variables) == {"params"}
        initial = jax.eval_shape(lambda: folded.init(jax.random.key(0), images, train=False))
        assert jax.tree.map(jnp.shape, folded_variables) == jax.tree.map(jnp.shape, initial)


def test_folded_model_is_for_inference_alone():
    model = create_model("resnet20")
    variables = trained_variables(model, jnp.float32)
    folded, folded_variables = fold_batch_norm(model, variables)
    with pytest.raises(UserError, match="train the model"):
        folded.apply(folded_variables, jnp.zeros((1, 32, 32, 3)), train=True)
    with pytest.raises(UserError, match="folded already"):
        fold_batch_norm(folded, folded_variables)


def test_folding_is_the_same_program_in_every_process():
    # Else no process would find what another one has compiled.
    code = (
        "import jax, resnet_jax; from resnet_jax.models import fold_batch_norm, variable_shapes; "
        "model = resnet_jax.create_model('resnet20'); shapes = variable_shapes(model); "
        "print(jax.make_jaxpr(lambda variables: fold_batch_norm(model, variables)[1])(shapes))"
    )
    programs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert len(programs[0]) > 1000
    assert programs[0] == programs[1]
