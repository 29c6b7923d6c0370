"""Convolutions on the processors that others have: oneDNN capped to their instruction sets, each in a process."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

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
@pytest.mark.parametrize("name", ["ref:any", "brgconv:avx10_2", "brg_fwd:avx2+jit:rvv", "acl", ""])
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


# Input, kernel, stride, groups, dilation of bfloat16 convolutions; those after the third were computed wrongly by one
# of oneDNN's implementations.
BFLOAT16_SHAPES = (
    ((4, 16, 16, 32), (3, 3, 32, 64), 1, 1, 1), ((2, 9, 9, 64), (1, 1, 64, 128), 2, 1, 1),
    ((2, 17, 17, 3), (7, 7, 3, 16), 2, 1, 1), ((2, 26, 29, 32), (3, 3, 1, 96), 1, 32, 2),
    ((2, 1, 4, 128), (5, 5, 128, 16), 1, 1, 1), ((16, 8, 15, 33), (1, 1, 33, 4), 1, 1, 1),
    ((1, 12, 10, 12), (1, 1, 12, 9), 2, 1, 1), ((2, 23, 24, 33), (5, 5, 33, 20), 1, 1, 4),
    ((2, 9, 4, 64), (1, 1, 64, 64), 1, 1, 1), ((4, 13, 1, 8), (3, 3, 8, 8), 3, 1, 1),
)  # fmt: skip


def bfloat16_errors():
    """By how much of the largest value results are farther from float32's than their own rounding to bfloat16."""
    errors = []
    for shape, kernel_shape, *geometry in BFLOAT16_SHAPES:
        rng = np.random.default_rng(0)
        stride, groups, dilation = geometry
        problem = Problem(shape, kernel_shape, stride, groups, dilation, "bfloat16")
        x, kernel, y = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in problem.arrays)

        def results(impl, x, kernel, y, geometry=(stride, groups), dilation=dilation):
            result, vjp = jax.vjp(lambda x, kernel: convolve(x, kernel, *geometry, impl, dilation), x, kernel)
            return result, *vjp(y.astype(result.dtype))

        kernel = kernel.astype(jnp.float32)
        ours = jax.jit(functools.partial(results, "auto"))(x, kernel, y)
        exact = jax.jit(functools.partial(results, "xla"))(x.astype(jnp.float32), kernel, y)
        for one, other in zip(ours, exact, strict=True):
            one, other, rounding = np.asarray(one, np.float64), np.asarray(other, np.float64), jnp.finfo(one.dtype).eps
            excess = np.abs(one - other) - float(rounding) * np.abs(other)
            errors.append(float(excess.max() / np.abs(other).max()))
    return errors


@needs_onednn
@pytest.mark.parametrize("instruction_set", ["AVX512_CORE_BF16", "AVX512_CORE_AMX"])
def test_bfloat16_is_right_where_implementations_were_found_wrong(instruction_set, tmp_path):
    file = tmp_path / "errors.json"
    subprocess.run(
        [sys.executable, __file__, "--bfloat16", file],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "XLA_FLAGS": ""},
        check=True,
        timeout=200,
    )
    errors = np.array(json.loads(file.read_text())).reshape(len(BFLOAT16_SHAPES), 3)
    np.testing.assert_array_less(errors, 2e-5)


PAIRS, TILES = "avx512_core_bf16", "avx512_core_amx"


@pytest.mark.parametrize(
    ("operation", "shape", "kernel", "stride", "dilation", "refused", "taken"),
    [
        ("kernel_gradient", (2, 8, 1, 16), (3, 3, 16, 16), 2, 1,
         [f"jit_bf16:{PAIRS}", f"brgconv_bwd_w:{TILES}"], []),
        ("kernel_gradient", (2, 1, 4, 128), (5, 5, 128, 16), 1, 1,
         [f"jit_bf16:{PAIRS}"], [f"brgconv_bwd_w:{TILES}"]),
        ("kernel_gradient", (2, 9, 9, 16), (3, 3, 16, 16), 1, 2, [f"jit_bf16:{PAIRS}", f"jit:{TILES}"], []),
        ("forward", (2, 9, 9, 33), (1, 1, 33, 4), 1, 1,
         [f"jit_bf16_1x1:{PAIRS}", f"jit_1x1:{TILES}"], [f"jit:{TILES}"]),
        ("forward", (2, 8, 1, 16), (3, 3, 16, 16), 2, 1, ["jit:avx512_core"],
         [f"jit_bf16:{PAIRS}", f"brgconv:{TILES}"]),
    ],
)  # fmt: skip
def test_in_bfloat16_too_an_implementation_is_not_taken_where_it_was_found_wrong(
    operation, shape, kernel, stride, dilation, refused, taken
):
    problem = Problem(shape, kernel, stride, 1, dilation, "bfloat16")
    assert not any(onednn.is_right(operation, problem, name) for name in refused)
    assert all(onednn.is_right(operation, problem, name) for name in taken)


if __name__ == "__main__":
    if sys.argv[1] == "--bfloat16":
        Path(sys.argv[2]).write_text(json.dumps(bfloat16_errors()))
    else:
        np.savez(sys.argv[1], *compute("auto"))
        problem = Problem((2, 8, 8, 16), (3, 3, 16, 16), 1, 1)
        print(*(onednn.implementation(name, problem) for name in onednn.OPERATIONS))
