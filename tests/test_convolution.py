"""The CPU's formulations of the convolution against XLA's own."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from resnet_jax import create_model
from resnet_jax.models.convolution import convolve


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "channels", "features", "groups"),
    [
        (8, 3, 1, 4, 6, 1),
        (7, 3, 2, 4, 6, 1),
        (6, 3, 1, 64, 8, 1),  # the weight gradient by matrix products
        (5, 3, 2, 64, 8, 1),
        (8, 1, 1, 4, 6, 1),
        (7, 1, 2, 4, 6, 1),
        (9, 7, 2, 3, 4, 1),
        (8, 3, 1, 8, 8, 4),
        (8, 1, 1, 8, 8, 4),
    ],
)
def test_values_and_gradients_equal_xlas(size, kernel_size, stride, channels, features, groups):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (2, size, size, channels), jnp.float64)
        kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, channels // groups, features), jnp.float64)

        def results(impl):
            y, vjp = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, groups, impl), x, kernel)
            return y, *vjp(jax.random.normal(keys[2], y.shape, y.dtype))

        for actual, expected in zip(jax.jit(results, static_argnums=0)("cpu"), results("xla"), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_nan_weights_give_nan_gradients_and_no_hang():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.full((3, 3, 2, 2), jnp.nan)
    gradient = jax.jit(jax.grad(lambda kernel: convolve(x, kernel, impl="cpu").sum()))(kernel)
    assert gradient.shape == kernel.shape
    gradient = jax.jit(jax.grad(lambda x: convolve(x, kernel, impl="cpu").sum()))(x)
    assert np.isnan(gradient).all()


def test_on_a_gpu_auto_lowers_to_xlas_convolution_alone():
    def lowered(impl):
        model = create_model("resnet20", conv_impl=impl)
        images = jnp.zeros((2, 32, 32, 3))
        variables = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))

        def loss(params, batch_stats, images):
            logits, _ = model.apply(
                {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
            )
            return logits.sum()

        exported = export.export(jax.jit(jax.grad(loss)), platforms=["cuda"])(
            variables["params"], variables["batch_stats"], images
        )
        return str(exported.mlir_module())

    auto, xla = operations(lowered("auto")), operations(lowered("xla"))
    assert auto == xla
    assert xla["stablehlo.convolution"] == 19 * 3 - 1  # forward, and both gradients but that of the images
    assert "stablehlo.while" not in auto


def operations(module):
    """How often each StableHLO operation occurs in a module's text.

    The choice of the platform leaves a `case` of one branch, which the compiler inlines: it is left out with its index.
    """
    counts = Counter(re.findall(r"stablehlo\.\w+", module))
    for choice in ("case", "return", "constant", "broadcast_in_dim"):
        del counts[f"stablehlo.{choice}"]
    return counts
