"""Convolutions on the processors that others have: oneDNN capped to their instruction sets, each in a process."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import onednn, onednn_library
from resnet_jax.ops.convolution import convolve
from resnet_jax.ops.onednn import Problem

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN is not installed for this machine")

# Input (H = W), kernel size, stride, channels, features, groups, dilation; the third is one with which oneDNN's own
# choice is wrong.
SHAPES = (
    (8, 3, 1, 16, 16, 1, 1), (8, 3, 2, 64, 64, 32, 1), (20, 1, 2, 6, 32, 1, 1), (8, 1, 1, 32, 64, 1, 1),
    (9, 7, 2, 3, 16, 1, 1), (9, 3, 1, 16, 16, 1, 2),
)  # fmt: skip


def compute(impl):
    """The convolutions of SHAPES and their gradients."""
    results = []
    for size, kernel_size, stride, channels, features, groups, dilation in SHAPES:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, size, size, channels)).astype(np.float32)
        kernel = rng.normal(size=(kernel_size, kernel_size, channels // groups, features)).astype(np.float32)

        def apply(x, kernel, stride=stride, groups=groups, dilation=dilation):
            return convolve(x, kernel, stride, groups, impl, dilation)

        def with_gradients(x, kernel, apply=apply):
            y, vjp = jax.vjp(apply, x, kernel)
            return y, *vjp(jnp.cos(y))

        results += jax.jit(with_gradients)(x, kernel)
    return results


@pytest.fixture(scope="module")
def by_xla():
    return compute("xla")


@needs_onednn
@pytest.mark.parametrize(
    ("instruction_set", "implementations"),
    [
        ("SSE41", "jit:sse41 x64:gemm:jit x64:gemm:jit"),
        ("AVX", "jit:avx x64:gemm:jit x64:gemm:jit"),
        ("AVX2", "brgconv:avx2 brg_fwd:avx2+brgconv:avx2 jit:avx2"),
    ],
)
def test_older_processors_compute_what_xla_computes(instruction_set, implementations, by_xla, tmp_path):
    file = tmp_path / "results.npz"
    result = subprocess.run(
        [sys.executable, __file__, file],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == implementations
    results = np.load(file)
    for one, other in zip((results[name] for name in results.files), by_xla, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))


@needs_onednn
def test_no_implementation_is_taken_where_it_was_found_wrong():
    racing, right = Problem((2, 20, 20, 6), (1, 1, 6, 32), 2, 1), Problem((2, 20, 20, 32), (1, 1, 32, 32), 2, 1)
    for isa in ("avx2", "avx512_core"):
        assert not onednn.is_right("kernel_gradient", racing, f"jit_1x1:{isa}")
        assert onednn.is_right("kernel_gradient", right, f"jit_1x1:{isa}")
        assert onednn.is_right("forward", racing, f"jit_1x1:{isa}")
    assert onednn.implementation("kernel_gradient", racing) is not None  # another of oneDNN's


@needs_onednn
@pytest.mark.parametrize("name", ["ref:any", "brgconv:avx512_core_amx", "brg_fwd:avx2+jit:rvv", "acl", ""])
def test_implementations_that_nobody_tried_are_left_to_xla(monkeypatch, name):
    monkeypatch.setattr(onednn, "implementations", lambda *_: iter([onednn.Implementation(name, "", None, None)]))
    problem = Problem((1, 3, 5, 2), (3, 3, 2, 2), 1, 1)
    onednn._first_right.cache_clear()
    try:
        assert onednn.implementation("forward", problem) is None
        with pytest.raises(onednn_library.OneDNNError, match="no implementation is known to be right"):
            onednn.call("forward", problem, None, None)
        x, kernel = jnp.ones(problem.input_shape), jnp.ones(problem.kernel_shape)
        lowered = jax.jit(lambda x, kernel: convolve(x, kernel)).lower(x, kernel)
        assert "onednn" not in lowered.as_text()
        np.testing.assert_array_equal(lowered.compile()(x, kernel), convolve(x, kernel, impl="xla"))
    finally:
        onednn._first_right.cache_clear()


@needs_onednn
def test_results_do_not_depend_on_what_the_scratchpad_holds():
    problem = Problem((8, 24, 24, 32), (1, 1, 32, 64), 2, 1)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in (problem.input_shape, problem.output_shape))
    results = []
    for garbage in (0x00, 0xFF):
        onednn_library.fill_scratchpad(garbage)
        results.append(jax.jit(lambda x, y: onednn.call("kernel_gradient", problem, x, y))(x, y))
    np.testing.assert_array_equal(*results)


if __name__ == "__main__":
    np.savez(sys.argv[1], *compute("auto"))
    print(*(onednn.implementation(name, Problem((2, 8, 8, 16), (3, 3, 16, 16), 1, 1)) for name in onednn.OPERATIONS))


def test_bfloat16_gradients_of_kernels_of_images_narrower_than_the_stride_are_left_to_others():
    narrow = Problem((2, 8, 1, 16), (3, 3, 16, 16), 2, 1, dtype="bfloat16")
    wide = Problem((2, 8, 8, 16), (3, 3, 16, 16), 2, 1, dtype="bfloat16")
    name = "jit_bf16:avx512_core_bf16"
    assert not onednn.is_right("kernel_gradient", narrow, name)
    assert onednn.is_right("kernel_gradient", wide, name)
    assert onednn.is_right("forward", narrow, name)
    assert not onednn.is_right("forward", wide, "jit:avx512_core")
