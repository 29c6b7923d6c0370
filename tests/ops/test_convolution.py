"""The CPU's formulations of the convolution against XLA's own."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from resnet_jax import create_model
from resnet_jax.ops import convolution, onednn, xla_ffi
from resnet_jax.ops.convolution import convolve

# size, kernel_size, stride, channels, features, groups and, if it is not 1, dilation
SHAPES = pytest.mark.parametrize(
    "shape",
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
        (9, 3, 1, 4, 6, 1, 2),
        (9, 3, 2, 64, 8, 1, 2),
        (11, 3, 1, 8, 8, 4, 4),
    ],
)
needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN is not installed for this machine")

ONE_DEVICE = {**os.environ, "XLA_FLAGS": ""}


def results(impl, dtype, shape):
    """The convolution, both gradients, a directional derivative, a gradient's gradient and a batch of kernels."""
    size, kernel_size, stride, channels, features, groups, dilation = (*shape, 1)[:7]
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, size, size, channels), dtype)
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, channels // groups, features), dtype)

    @jax.jit
    def compute(x, kernel):
        def apply(x, kernel):
            return convolve(x, kernel, stride, groups, impl, dilation)

        y, vjp = jax.vjp(apply, x, kernel)
        tangent = jax.jvp(apply, (x, kernel), (x, kernel))[1]
        second = jax.grad(lambda k: jnp.sum(jnp.square(jax.grad(lambda k: jnp.sum(apply(x, k) ** 3))(k))))(kernel)
        batched = jax.vmap(apply, in_axes=(None, 0))(x, jnp.stack([kernel, 2 * kernel]))
        return y, *vjp(jax.random.normal(keys[2], y.shape, y.dtype)), tangent, second / 1e4, batched

    return compute(x, kernel), compute.lower(x, kernel).as_text()


@SHAPES
def test_values_and_all_derivatives_equal_xlas_without_onednn(monkeypatch, shape):
    monkeypatch.setattr(convolution.onednn, "available", lambda: False)
    with jax.enable_x64(True):
        actual, program = results("cpu", jnp.float64, shape)
        expected, _ = results("xla", jnp.float64, shape)
        assert "onednn" not in program
        for left, right in zip(actual, expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-10)


@pytest.mark.numerics
@needs_onednn
@SHAPES
def test_values_and_all_derivatives_equal_xlas_to_rounding_with_onednn(shape):
    actual, program = results("auto", jnp.float32, shape)
    assert program.count("custom_call @resnet_jax_onednn") >= 6
    expected, _ = results("xla", jnp.float32, shape)
    for left, right in zip(actual, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=6e-6 * float(jnp.abs(right).max()))


@pytest.mark.numerics
@needs_onednn
def test_half_precision_is_widened_and_rounded_once():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 16), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 16), jnp.bfloat16)
    exact = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), impl="xla").astype(jnp.bfloat16)
    np.testing.assert_allclose(
        convolve(x, kernel).astype(jnp.float32), exact.astype(jnp.float32), rtol=2**-7, atol=1e-3
    )


@needs_onednn
def test_programs_for_several_devices_and_for_export_hold_no_custom_call():
    x, kernel = jnp.ones((8, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    mesh = jax.make_mesh((8,), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for program in (
        jax.jit(convolve, in_shardings=(rows, None)).lower(x, kernel).as_text(),
        export.export(jax.jit(convolve), platforms=["cpu"])(x, kernel).mlir_module(),
    ):
        assert "convolution" in program
        assert "onednn" not in program


@needs_onednn
@pytest.mark.parametrize("ending", ["pass", "del y", "raise SystemExit(3)"])
def test_a_process_ends_while_convolutions_run(ending):
    code = (
        "import jax, jax.numpy as jnp; from resnet_jax.ops.convolution import convolve\n"
        "def f(x):\n    for _ in range(20): x = convolve(x, jnp.full((3, 3, 64, 64), 1e-3))\n    return x\n"
        f"y = jax.jit(f)(jnp.ones((16, 32, 32, 64)))\n{ending}"
    )
    result = subprocess.run([sys.executable, "-c", code], env=ONE_DEVICE, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (3 if "3" in ending else 0, "")


@pytest.mark.numerics
@needs_onednn
def test_several_threads_may_compile_the_same_convolution():
    x, kernel = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 7))
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: jax.jit(lambda x, kernel: convolve(x, kernel))(x, kernel), range(16)))
    for y in results:
        np.testing.assert_array_equal(y, convolve(x, kernel, impl="xla"))


@needs_onednn
def test_an_error_in_onednn_fails_the_program():
    kernel = xla_ffi.make_handler(lambda operands, results: 1 / 0)
    jax.ffi.register_ffi_target("resnet_jax_test_error", jax.ffi.pycapsule(kernel), platform="cpu")
    broken = jax.ffi.ffi_call("resnet_jax_test_error", jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(Exception, match="division by zero"):
        jax.block_until_ready(jax.jit(broken)(jnp.float32(1)))


@pytest.mark.parametrize("with_onednn", [pytest.param(True, marks=needs_onednn), False])
def test_an_empty_batch_is_convolved(monkeypatch, with_onednn):
    monkeypatch.setattr(convolution.onednn, "available", lambda: with_onednn)
    x, kernel = jnp.ones((0, 6, 6, 3)), jnp.ones((3, 3, 3, 5))
    y, vjp = jax.vjp(lambda x, kernel: convolve(x, kernel, 2), x, kernel)
    assert y.shape == (0, 3, 3, 5)
    assert not np.any(vjp(y)[1])


def test_nan_weights_give_nan_gradients_and_no_hang():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.full((3, 3, 2, 2), jnp.nan)
    gradient = jax.jit(jax.grad(lambda kernel: convolve(x, kernel, impl="cpu").sum()))(kernel)
    assert gradient.shape == kernel.shape
    gradient = jax.jit(jax.grad(lambda x: convolve(x, kernel, impl="cpu").sum()))(x)
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "resnext50_32x4d"])
def test_on_a_gpu_auto_lowers_to_xlas_convolution_word_for_word(name):
    def lowered(impl):
        model = create_model(name, conv_impl=impl, stage_sizes=(1, 1, 1))
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
        location = r'(?m)^#loc.*\n| loc\((#loc\d*|unknown|"[^"]*"(\(#loc\d+\))?)\)'
        return re.sub(location, "", str(exported.mlir_module()))

    xla = lowered("xla")
    assert xla.count("stablehlo.convolution") >= 20
    assert "loc" not in xla
    assert lowered("auto") == xla


def test_bfloat16_of_any_shape_is_as_near_to_float32_as_xlas_is():
    random = np.random.default_rng(0)
    for case in range(24):
        groups = int(random.choice([1, 1, 2]))
        channels, features = (groups * int(random.integers(1, 25)) for _ in range(2))
        size, stride = int(random.choice([1, 3, 5])), int(random.integers(1, 4))
        shape = (int(random.integers(1, 5)), *map(int, random.integers(1, 14, 2)), channels)
        x = jnp.asarray(random.standard_normal(shape), jnp.bfloat16)
        kernel = jnp.asarray(random.standard_normal((size, size, channels // groups, features)), jnp.float32)

        def results(impl, x, kernel, stride=stride, groups=groups):
            y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, groups, impl), x, kernel)
            return y, *pull(jnp.ones_like(y))

        ours = jax.jit(partial(results, "auto"))(x, kernel)
        theirs = jax.jit(partial(results, "xla"))(x, kernel)
        exact = jax.jit(partial(results, "xla"))(x.astype(jnp.float32), kernel)
        for one, other, true in zip(ours, theirs, exact, strict=True):
            assert one.dtype == other.dtype
            scale = max(float(jnp.abs(true).max()), 1e-6)
            assert float(jnp.abs(one.astype(jnp.float32) - true).max()) / scale < 0.02, (
                case,
                shape,
                kernel.shape,
                stride,
            )
