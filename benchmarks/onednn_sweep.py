"""Finds where oneDNN's convolutions are right: every implementation, under every instruction set, against XLA.

    python benchmarks/onednn_sweep.py --num_random 2000 --to sweep.jsonl
    python benchmarks/onednn_sweep.py --dtype bfloat16 --instruction_sets AVX512_CORE_AMX

Runs each implementation of each operation in a process that is capped to an instruction set
(`ONEDNN_MAX_CPU_ISA`), as XLA runs it: made in one thread and run in another. The arrays end where memory does, so
that whatever reads or writes beyond them crashes. A case that crashes or does not end is recorded, and the sweep goes
on in a new process. Results are compared with the definition's in float64, and those with XLA's. In bfloat16 the
operands are rounded first, so that only the result's own rounding and that of sums in float32 are left.

Cases are the convolutions of all listed networks, with a batch of 2, and small random ones. Prints a table: cases by
instruction set and implementation, and how many of them were wrong, crashed or hung; then the worst cases.
"""

import argparse
import collections
import ctypes
import dataclasses
import json
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import create_model, list_models
from resnet_jax.models import layers
from resnet_jax.models.variants import default_image_size
from resnet_jax.ops import onednn, onednn_library
from resnet_jax.ops.convolution import convolve

INSTRUCTION_SETS = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX")
TOLERANCE = 1e-5  # of the largest value, beyond the rounding of the result; float32 rounds to some 1e-7 of it
ROUNDING = {"float32": 2**-24, "bfloat16": 2**-8}  # of each value
SECONDS_TO_HANG = 120.0
GARBAGE = (0x00, 0xFF, 0x3F)  # what is in the scratchpad before: zeros, NaNs, ordinary numbers
RESULTS = ("right", "wrong", "crashed", "hung")

# --- the cases -------------------------------------------------------------------------------------------------------


def network_problems(dtype: str, batch_size: int = 2) -> Iterator[onednn.Problem]:
    """The convolutions of all listed networks for images of the size that they are made for."""
    for name in list_models():
        size, found = default_image_size(name), []

        def record(x, kernel, stride, groups, impl, dilation, found=found):
            found.append(onednn.Problem(x.shape, kernel.shape, stride, groups, dilation, dtype))
            return convolve(x, kernel, stride, groups, "xla", dilation)

        with mock.patch.object(layers, "convolve", record):
            model, images = create_model(name), jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
            jax.eval_shape(lambda x, model=model: model.init(jax.random.key(0), x, train=False), images)
        yield from found


def random_problems(num: int, seed: int, dtype: str) -> Iterator[onednn.Problem]:
    """Small convolutions of any kind that a network of one's own may have."""
    rng = np.random.default_rng(seed)
    unvectorized = (1, 2, 3, 4, 5, 7, 9, 12, 15, 17, 20, 31, 33, 63, 65, 100)
    vectorized = (8, 16, 24, 32, 40, 64, 96, 160, 256)
    for _ in range(num):
        size = int(rng.choice((1, 1, 1, 2, 3, 3, 3, 4, 5, 7)))
        stride = int(rng.choice((1, 1, 2, 2, 3, 4)))
        dilation = int(rng.choice((1, 1, 1, 1, 2, 3, 4))) if size > 1 else 1
        groups = int(rng.choice((1, 1, 1, 2, 3, 4, 8, 16, 32)))
        counts = unvectorized if rng.random() < 0.3 else vectorized
        channels, features = (int(rng.choice(counts)) for _ in range(2))
        if groups > 1:  # a few of each group's, depthwise included
            channels, features = (groups * int(rng.choice((1, 1, 2, 3, 4, 8, 16, 20))) for _ in range(2))
        batch, height, width = int(rng.choice((1, 1, 2, 3, 4, 5, 8, 16))), *map(int, rng.integers(1, 30, 2))
        if rng.random() < 0.25:  # long rows, which code for one processor divides in its own way, or columns
            height, width = map(int, rng.permutation((rng.integers(1, 12), rng.integers(30, 130))))
        kernel_shape = size, size, channels // groups, features
        problem = onednn.Problem((batch, height, width, channels), kernel_shape, stride, groups, dilation, dtype)
        if min(problem.output_shape) > 0 and np.prod(problem.output_shape) * np.prod(problem.kernel_shape[:3]) < 1e8:
            yield problem


def reference(problem: onednn.Problem, x: np.ndarray, kernel: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """The results of onednn.OPERATIONS in float64 by their definition; compiling each case by XLA would take longer."""
    size, _, channels, features = problem.kernel_shape
    groups, stride, dilation, pad = problem.groups, problem.stride, problem.dilation, problem.padding
    batch, out_height, out_width, _ = problem.output_shape
    x, kernel, y = (array.astype(np.float64) for array in (x, kernel, y))
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    padded = padded.reshape(*padded.shape[:3], groups, channels)
    kernels = kernel.reshape(size, size, channels, groups, features // groups)
    cotangent = y.reshape(batch, out_height, out_width, groups, features // groups)
    forward, input_gradient = np.zeros(cotangent.shape), np.zeros(padded.shape)
    kernel_gradient = np.zeros(kernels.shape)
    for i, j in np.ndindex(size, size):
        rows, columns = (slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride)
                         for k, n in ((i, out_height), (j, out_width)))  # fmt: skip
        seen = padded[:, rows, columns]  # (B, h, w, G, C)
        forward += np.einsum("bhwgc,cgf->bhwgf", seen, kernels[i, j], optimize=True)
        input_gradient[:, rows, columns] += np.einsum("bhwgf,cgf->bhwgc", cotangent, kernels[i, j], optimize=True)
        kernel_gradient[i, j] = np.einsum("bhwgc,bhwgf->cgf", seen, cotangent, optimize=True)
    input_gradient = input_gradient.reshape(*input_gradient.shape[:3], -1)
    height, width = problem.input_shape[1:3]
    return [
        forward.reshape(problem.output_shape),
        input_gradient[:, pad : pad + height, pad : pad + width],
        kernel_gradient.reshape(problem.kernel_shape),
    ]


def xla_reference(problem: onednn.Problem, x: np.ndarray, kernel: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """The same by XLA."""
    with jax.enable_x64(True):
        x, kernel, y = (jnp.asarray(array, jnp.float64) for array in (x, kernel, y))
        forward, vjp = jax.vjp(
            lambda x, kernel: convolve(x, kernel, problem.stride, problem.groups, "xla", problem.dilation), x, kernel
        )
        return [np.asarray(array) for array in (forward, *vjp(y))]


def write_case(problem: onednn.Problem, file: Path, seed: int) -> None:
    """Writes random operands and their results in float64, of which XLA confirms each twentieth."""
    rng = np.random.default_rng(seed)
    dtype = jnp.dtype(problem.dtype)
    arrays = [rng.normal(size=shape).astype(dtype).astype(np.float32) for shape in problem.arrays]
    results = reference(problem, *arrays)
    if seed % 20 == 0:
        for one, other in zip(results, xla_reference(problem, *arrays), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())
    names = ("x", "kernel", "y", *onednn.OPERATIONS)
    np.savez(file, **dict(zip(names, (*arrays, *results), strict=True)))


# --- a worker: one process under one instruction set -----------------------------------------------------------------


class Fenced:
    """A copy of an array, 64-byte aligned as XLA's, right before memory that nobody may touch."""

    def __init__(self, array: np.ndarray) -> None:
        page = mmap.PAGESIZE
        num_bytes = -(-array.nbytes // 64) * 64
        length = -(-num_bytes // page) * page
        self._memory = mmap.mmap(-1, length + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for fence in (base, base + page + length):
            if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = base + page + length - num_bytes
        buffer = (ctypes.c_char * array.nbytes).from_address(self.address)
        self.array = np.frombuffer(buffer, array.dtype).reshape(array.shape)
        self.array[...] = array


def work() -> None:
    """Reads cases from standard input and writes what each implementation gave, a JSON line each."""
    for line in sys.stdin:
        order = json.loads(line)
        problem, case = onednn.Problem(*order["problem"]), np.load(order["file"])
        operands = {"forward": ("x", "kernel"), "input_gradient": ("y", "kernel"), "kernel_gradient": ("x", "y")}
        for operation in onednn.OPERATIONS:
            dtypes = [np.dtype(one) for one in onednn.operand_dtypes(operation, problem)]
            result_dtype = onednn.result_dtype(operation, problem)
            for implementation in onednn.implementations(operation, problem):
                key = f"{operation} {implementation.name}"
                if key in order["skip"] or order["only"] not in key or implementation.name.startswith("ref"):
                    continue  # "ref" is slower than XLA's and never taken
                print(json.dumps({"begins": key}), flush=True)
                given = [case[name].astype(dtype) for name, dtype in zip(operands[operation], dtypes, strict=True)]
                arrays, expected = [Fenced(array) for array in given], case[operation]
                result = Fenced(np.full(expected.shape, np.nan, result_dtype))
                run = implementation.prepare()
                for garbage in GARBAGE:
                    onednn_library.fill_scratchpad(garbage)
                    thread = threading.Thread(target=run, args=([a.address for a in arrays], [result.address]))
                    thread.start()
                    thread.join()
                same = all(np.array_equal(a.array, b) for a, b in zip(arrays, given, strict=True))
                got = result.array.astype(np.float64)
                excess = np.abs(got - expected) - ROUNDING[result_dtype.name] * np.abs(expected)
                error = float(excess.max() / max(np.abs(expected).max(), 1e-30))
                right = same and error <= TOLERANCE  # False for NaN
                print(json.dumps({"key": key, "result": "right" if right else "wrong", "error": error}), flush=True)
        print(json.dumps({"ends": True}), flush=True)


class Worker:
    """A process that works under one instruction set, and is started anew after it crashed or hung."""

    def __init__(self, instruction_set: str, num_threads: int, only: str) -> None:
        self._only = only
        self._environment = {
            **os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "OMP_NUM_THREADS": str(num_threads),
            "OMP_WAIT_POLICY": "passive",
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def _start(self) -> subprocess.Popen[str]:
        self._lines = lines = queue.Queue()
        process = subprocess.Popen(
            [sys.executable, __file__, "--work"], env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

        def read() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        return process

    def run(self, problem: onednn.Problem, file: Path) -> Iterator[dict]:
        """Yields the results of all implementations of a problem."""
        skip: list[str] = []
        while True:
            self._process = self._process or self._start()
            order = {"problem": dataclasses.astuple(problem), "file": str(file), "skip": skip, "only": self._only}
            print(json.dumps(order), file=self._process.stdin, flush=True)
            current = None
            while True:
                try:
                    line = self._lines.get(timeout=SECONDS_TO_HANG)
                except queue.Empty:
                    self._process.kill()
                    line, failure = "", "hung"
                else:
                    failure = "crashed"
                if not line:
                    self._process.wait()
                    self._process = None
                    if current is None:
                        raise RuntimeError(f"the worker ended before it began: {problem}")
                    yield {"key": current, "result": failure, "error": None}
                    skip.append(current)
                    break
                message = json.loads(line)
                if "ends" in message:
                    return
                if "begins" in message:
                    current = message["begins"]
                else:
                    skip.append(message["key"])
                    yield message

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.kill()
            self._process.wait()


# --- the sweep -------------------------------------------------------------------------------------------------------


def sweep(
    problems: list[onednn.Problem], instruction_sets: list[str], threads: list[int], to: Path, seed: int, only: str = ""
) -> None:
    """Runs all problems and appends each result to a file of JSON lines."""
    with tempfile.TemporaryDirectory() as folder, to.open("a") as log:
        workers = {name: [Worker(name, num, only) for num in threads] for name in instruction_sets}
        for i, problem in enumerate(problems):
            file = Path(folder) / "case.npz"
            write_case(problem, file, seed + i)
            for name, pool in workers.items():
                for result in pool[i % len(pool)].run(problem, file):
                    operation, implementation = result.pop("key").split()
                    record = {
                        "isa": name, "operation": operation, "implementation": implementation, **result,
                        "num_threads": threads[i % len(pool)], "input": problem.input_shape,
                        "kernel": problem.kernel_shape, "stride": problem.stride, "groups": problem.groups,
                        "dilation": problem.dilation, "dtype": problem.dtype,
                        "allowed": onednn.is_right(operation, problem, implementation),
                    }  # fmt: skip
                    print(json.dumps(record), file=log, flush=True)
            if sys.stderr.isatty() or i % 100 == 0:
                print(f"\r{i + 1} of {len(problems)} cases", end="", file=sys.stderr)
        for pool in workers.values():
            for worker in pool:
                worker.close()


def report(file: Path) -> int:
    """Prints the table of a file of results; returns how many of those that are allowed are not right."""
    counts: dict[tuple, collections.Counter] = collections.defaultdict(collections.Counter)
    worst: dict[tuple, float] = collections.defaultdict(float)
    bad = []
    for record in map(json.loads, file.read_text().splitlines()):
        key = record["isa"], record["dtype"], record["operation"], record["implementation"]
        counts[key][record["result"]] += 1
        counts[key]["allowed"] += record["allowed"]
        if record["result"] == "right":
            worst[key[:3]] = max(worst[key[:3]], record["error"])
        elif record["allowed"]:
            bad.append(record)
    print("| instruction set | dtype | operation | implementation |", *(f"{name} |" for name in (*RESULTS, "taken")))
    print("|---|---|---|---|---|---|---|---|---|")
    for key, count in sorted(counts.items()):
        print("|", *(f"{word} |" for word in key), *(f"{count[name]} |" for name in (*RESULTS, "allowed")))
    print("\nlargest error of those that are right, of the largest value:")
    for key, error in sorted(worst.items()):
        print(*key, f"{error:.1e}")
    for record in bad[:20]:
        print("taken and not right:", json.dumps(record))
    return len(bad)


def main() -> int:
    """Sweeps, or works for a sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--num_random", type=int, default=500, help="random cases besides those of the networks")
    parser.add_argument("--no_networks", action="store_true", help="random cases alone")
    parser.add_argument("--instruction_sets", nargs="+", default=list(INSTRUCTION_SETS), choices=INSTRUCTION_SETS)
    parser.add_argument("--dtype", choices=tuple(ROUNDING), default="float32", help="of the images")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 7], help="taken in turn")
    parser.add_argument("--only", default="", help="operations and implementations with this text in their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("build/onednn_sweep.jsonl"), help="results are appended to it")
    parser.add_argument("--report", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0
    if not arguments.report:
        problems = list(random_problems(arguments.num_random, arguments.seed, arguments.dtype))
        if not arguments.no_networks:
            problems = [*dict.fromkeys(network_problems(arguments.dtype)), *problems]
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        sweep(problems, arguments.instruction_sets, arguments.threads, arguments.to, arguments.seed, arguments.only)
    return int(report(arguments.to) > 0)


if __name__ == "__main__":
    sys.exit(main())
