"""Finds whether oneDNN's batch norm, max-pooling and their gradients are right, under every instruction set.

    python benchmarks/onednn_layers_sweep.py --num 400

As benchmarks/onednn_sweep.py does for convolutions: each case runs in one thread after it was made in another, in
processes capped to an instruction set, on arrays that end where memory does, whatever the scratchpad holds. Results are
compared with the definition's in float64. What a process takes is what training would take there.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import threading

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp
import numpy as np
from onednn_sweep import GARBAGE, INSTRUCTION_SETS, Fenced

from resnet_jax.ops import onednn_layers, onednn_library

EPSILON = 1e-5
TOLERANCES = {"float32": 2e-4, "bfloat16": 1e-2}  # of the largest value; means are up to 80 of the spread
PADDINGS = (((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 0), (0, 0)))


def work(num: int, seed: int) -> None:
    """Prints a JSON line for each result of random cases."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        channels = int(rng.choice((1, 3, 4, 8, 12, 16, 20, 24, 32, 48, 64, 80, 128, 200, 256, 512, 2048)))
        height, width = map(int, rng.integers(1, 40, 2))
        batch = max(1, min(int(rng.choice((1, 2, 3, 4, 7, 8, 16, 32))), 2_000_000 // (height * width * channels)))
        shape, dtype = (batch, height, width, channels), str(rng.choice(("float32", "bfloat16")))
        for relu in (False, True):
            if batch * height * width > 1 and onednn_layers.can_normalize(shape, dtype, EPSILON, relu):
                batch_norm(rng, shape, dtype, relu)
        for padding in PADDINGS:
            smallest = min(side + sum(pads) for side, pads in zip((height, width), padding, strict=True))
            if smallest >= 3 and onednn_layers.can_pool(shape, dtype, padding):
                max_pool(rng, shape, dtype, padding)


def batch_norm(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, relu: bool) -> None:
    """Runs forward and gradient of images whose mean may be large beside their spread.

    The gradient gets what forward noted.
    """
    name = "batch_norm_relu" if relu else "batch_norm"
    images = jnp.dtype(dtype)
    offset = rng.choice((0.0, 1.0, 30.0)) * rng.normal(size=shape[-1])
    x = (rng.normal(size=shape) + offset).astype(np.float32).astype(images)
    cotangent = rng.normal(size=shape).astype(np.float32).astype(images)
    scale, bias = rng.normal(size=(2, shape[-1])).astype(np.float32)
    wide, axes = x.astype(np.float64), (0, 1, 2)
    mean, var = wide.mean(axes), wide.var(axes)
    inverse = 1 / np.sqrt(var + EPSILON)
    normal, slope = (wide - mean) * inverse, cotangent.astype(np.float64)
    channels, y = np.empty(shape[-1], np.float32), normal * scale + bias
    forward = {"y": (np.maximum(y, 0) if relu else y, images), "mean": (mean, None), "var": (var, None)}
    run = onednn_layers.prepare_batch_norm(False, shape, dtype, EPSILON, relu)
    note = [Fenced(np.zeros(onednn_layers.note_bytes(shape), np.uint8))] if relu else []
    found = check(name, shape, dtype, run, [x, scale, bias], forward, channels, note)
    if relu:
        slope = slope * (found[0].astype(np.float64) > 0)
    scale_gradient, bias_gradient = (slope * normal).sum(axes), slope.sum(axes)
    count = x.size // shape[-1]
    x_gradient = (slope - bias_gradient / count - normal * scale_gradient / count) * inverse * scale
    gradient = {"x": (x_gradient, images), "scale": (scale_gradient, None), "bias": (bias_gradient, None)}
    run = onednn_layers.prepare_batch_norm(True, shape, dtype, EPSILON, relu)
    given = [
        cotangent,
        x,
        mean.astype(np.float32),
        var.astype(np.float32),
        scale,
        *(one.array for one in note),
        *found[: len(note)],
    ]
    check(f"{name}_gradient", shape, dtype, run, given, gradient, channels)


def max_pool(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, padding: tuple) -> None:
    """Runs the gradient where many maxima stand more than once in a window."""
    images = jnp.dtype(dtype)
    x = np.round(rng.normal(size=shape) * 2).astype(np.float32).astype(images)
    batch, height, width, channels = onednn_layers.pooled_shape(shape, padding)
    cotangent = rng.normal(size=(batch, height, width, channels)).astype(np.float32).astype(images)
    padded = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    window = [
        padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]  # fmt: skip
    first, gradient = np.argmax(window, axis=0), np.zeros(padded.shape)
    for k in range(9):
        rows, columns = slice(k // 3, k // 3 + 2 * height - 1, 2), slice(k % 3, k % 3 + 2 * width - 1, 2)
        gradient[:, rows, columns] += np.where(first == k, cotangent.astype(np.float64), 0)
    (top, _), (left, _) = padding
    expected = gradient[:, top : top + shape[1], left : left + shape[2]]
    run = onednn_layers.prepare_max_pool(shape, dtype, padding)
    check("max_pool_gradient", shape, dtype, run, [cotangent, x], {"x": (expected, images)}, None)


def check(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    run,
    operands: list,
    expected: dict,
    channels,
    more: list | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Runs a case, prints how far it is from what is expected, and returns the results.

    Args:
      more: results of which nothing is expected.
    """
    print(json.dumps({"begins": name, "shape": shape, "dtype": dtype}), flush=True)
    given = [Fenced(array) for array in operands]
    results = [
        Fenced(np.full(value.shape, np.nan, np.float32).astype(kind or channels.dtype))
        for value, kind in expected.values()
    ]
    for garbage in GARBAGE:
        onednn_library.fill_scratchpad(garbage)
        addresses = [one.address for one in given], [one.address for one in (*results, *(more or []))]
        thread = threading.Thread(target=run, args=addresses)
        thread.start()
        thread.join()
    unchanged = all(one.array.tobytes() == array.tobytes() for one, array in zip(given, operands, strict=True))
    errors = {
        key: float(np.abs(one.array.astype(np.float64) - value).max() / max(np.abs(value).max(), 1.0))
        for one, (key, (value, _)) in zip(results, expected.items(), strict=True)
    }
    right = unchanged and all(error <= TOLERANCES[dtype] for error in errors.values())
    print(json.dumps({"key": name, "shape": shape, "dtype": dtype, "right": right, "errors": errors}), flush=True)
    return [one.array.copy() for one in results]


def main() -> int:
    """Sweeps, or works for a sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--num", type=int, default=200, help="random shapes for each instruction set and thread count")
    parser.add_argument("--instruction_sets", nargs="+", default=list(INSTRUCTION_SETS), choices=INSTRUCTION_SETS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 7])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.num, arguments.seed)
        return 0
    num_bad = 0
    print("| instruction set | threads | computation | type | cases | wrong | largest error |")
    print("|---|---|---|---|---|---|---|")
    for instruction_set in arguments.instruction_sets:
        for num_threads in arguments.threads:
            num_bad += sweep(instruction_set, num_threads, arguments.num, arguments.seed)
    return int(num_bad > 0)


def sweep(instruction_set: str, num_threads: int, num: int, seed: int) -> int:
    """Prints the rows of one process; returns how many cases were wrong, or ended it."""
    environment = {
        **os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "OMP_NUM_THREADS": str(num_threads),
        "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    command = [sys.executable, __file__, "--work", "--num", str(num), "--seed", str(seed)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    rows: dict[tuple, list] = collections.defaultdict(list)
    for line in lines:
        if "key" in line:
            rows[line["key"], line["dtype"]].append(line)
            if not line["right"]:
                print("not right:", json.dumps(line), file=sys.stderr)
    for (key, dtype), found in sorted(rows.items()):
        wrong = sum(not line["right"] for line in found)
        largest = max(max(line["errors"].values()) for line in found)
        print(
            f"| {instruction_set} | {num_threads} | {key} | {dtype} | {len(found)} | {wrong} | {largest:.1e} |",
            flush=True,
        )
    if result.returncode:
        print(f"crashed under {instruction_set}: {lines[-1:]} {result.stderr[-500:]}", file=sys.stderr)
    return sum(not line["right"] for found in rows.values() for line in found) + (result.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
