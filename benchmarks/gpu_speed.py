"""The parts of gpu.py that measure speed: the card, training, inference, flags, kernels, reading images."""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from floor import floor
from gpu_part import ROOT, Part, shorten
from reading_images import measure_data

from resnet_jax.benchmark import FLOPS_PER_MAC
from resnet_jax.benchmark.peers import ProcessPeer, is_installed, measure_in_turn, torch_process
from resnet_jax.benchmark.work import Work, matmul_flops_per_second, torch_spec
from resnet_jax.config import default_config
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.errors import UserError
from resnet_jax.training.experiment import options_of
from resnet_jax.training.run import train

GIB = 2**30
TINY_PRODUCT = 256
NUM_SWEEPS = 20
NUM_TRACED = 10  # steps, and kernels that are listed
# Torch's, of which the faster is measured.
TRAIN_VARIANTS = ("channels-last compile",)
MIXED_VARIANTS = ("channels-last autocast compile",)
INFER_VARIANTS = ("channels-last", "channels-last compile")
# What is tried one at a time beside the baseline; docs/gpu.md says what each is for.
FLAGS: dict[str, dict[str, str]] = {
    "baseline": {},
    "JAX_OPTIMIZATION_LEVEL=O1": {"JAX_OPTIMIZATION_LEVEL": "O1"},
    **{
        flag: {"XLA_FLAGS": flag}
        for flag in (
            "--xla_gpu_deterministic_ops=true",
            "--xla_gpu_enable_latency_hiding_scheduler=true",
            "--xla_gpu_autotune_level=0",
            "--xla_gpu_enable_command_buffer=",
            "--xla_gpu_enable_triton_gemm=false",
            "--xla_gpu_cudnn_gemm_fusion_level=3",
            "--xla_gpu_exclude_nondeterministic_ops=true",
        )
    },
}


def describe_machine(part: Part) -> None:
    """The card, versions, and what matrix products and copies reach."""
    devices = jax.devices()
    part.row(what="device", value=f"{devices[0].device_kind}, {len(devices)} of them")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with part.measured(what="nvidia-smi") as values:
        values["value"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    part.row(what="versions", value=f"Python {sys.version.split()[0]}, jax {jax.__version__}, flax {flax.__version__}")
    part.row(what="cores", value=len(os.sched_getaffinity(0)))
    for dtype in ("bfloat16", "float32"):
        with part.measured(what=f"matrix product in {_precision(dtype)}, TFLOP/s") as values:
            values["value"] = _peak(dtype, part.tiny) / 1e12
    with part.measured(what="memory, GB/s read and written") as values:
        values["value"] = _bandwidth(part.tiny) / 1e9


def copied_bytes_per_second(num_bytes: int) -> float:
    """Returns the bytes read and written a second of the best of ten sweeps over an array in the device's memory."""
    array = jnp.zeros(num_bytes // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1.0).lower(array).compile()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        result = array
        for _ in range(NUM_SWEEPS):  # without waiting between: a launch takes as long as a part of a sweep
            result = add(result)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - started) / NUM_SWEEPS)
    return 2 * num_bytes / min(seconds)


def compare_training(part: Part) -> None:
    """Training, by batch and network, each against torch with channels-last, compiled, in mixed precision."""
    usual, others = (4, 8) if part.tiny else (256, 128)
    compare(part, "resnet50", usual, "bfloat16", ("channels-last autocast", *MIXED_VARIANTS))
    compare(part, "resnet50", usual, "float32", TRAIN_VARIANTS)
    for model in ("resnet18", "resnext50_32x4d", "resnet152"):
        compare(part, model, others, "bfloat16", MIXED_VARIANTS)
    for batch_size in (2, 16) if part.tiny else (128, 64, 512, 1024, 2048):
        row = compare(part, "resnet50", batch_size, "bfloat16", MIXED_VARIANTS)
        if any(words in row.get("failed", "") for words in ("RESOURCE_EXHAUSTED", "ut of memory")):
            break


def compare_inference(part: Part) -> None:
    """Inference with batch norm folded, by batch, each against torch's, folded too, channels-last or with graphs."""
    for batch_size in (1, 4) if part.tiny else (1, 128, 512, 8, 32):
        for dtype in ("bfloat16", "float32"):
            compare(part, "resnet50", batch_size, dtype, INFER_VARIANTS, inference=True)


def compare(
    part: Part, model: str, batch_size: int, dtype: str, variants: Sequence[str], *, inference: bool = False
) -> dict[str, Any]:
    """Measures a network against torch's, in turn, which prepares while ours compiles; keeps and returns the row.

    "share of peak" is of the rate of a matrix product of that dtype; "memory" is what the program's buffers take,
    torch's what its allocator took at most. The floor is that of floor.py at the bandwidth and peak measured here.
    """
    model, image_size = ("resnet20", 32) if part.tiny else (model, None)
    num_steps, num_pairs = (1, 2) if part.tiny else (20 if batch_size >= 64 else 50, 5)
    row: dict[str, Any]
    with part.measured(model=model, dtype=_precision(dtype), batch=batch_size) as row:
        started = time.monotonic()
        torch = None
        try:
            torch = _start_torch(
                {**torch_spec(model, batch_size, image_size, dtype, inference=inference), "num_steps": num_steps},
                variants, row,
            )  # fmt: skip
            work = Work.of(model, batch_size, image_size, dtype, inference=inference)
            torch = _when_warm(torch, row)
            work.seconds_per_step(2 if part.tiny else 10)
            peers = {"torch": torch} if torch is not None else {}
            seconds, by_peer = measure_in_turn(work, peers, num_steps, num_pairs)
            median = statistics.median(seconds)
            row["images/s"], row["ms"] = batch_size / median, 1e3 * median
            flops = FLOPS_PER_MAC["inference" if inference else "training"] * work.macs * batch_size / median
            peak = _peak(dtype, part.tiny)
            row["share of peak"] = flops / peak
            least = floor(model, batch_size, image_size, dtype, _bandwidth(part.tiny), peak, inference)
            row["floor's images/s"] = least["images_per_second"]
            row["of the floor's rate"] = batch_size / median / least["images_per_second"]
            row["memory, GiB"], row["compile, s"] = work.program_memory / GIB, work.compile_seconds
            if torch is not None:
                median = statistics.median(torch.seconds)
                row["torch images/s"], row["torch ms"] = batch_size / median, 1e3 * median
                ratios = by_peer["torch"]
                row["torch's time by ours"] = statistics.median(ratios)
                row["from"], row["to"] = min(ratios), max(ratios)
                row["torch's memory, GiB"], row["torch's variant"] = torch.peak_memory / GIB, torch.variant
        finally:
            if torch is not None:
                torch.close()
            row["took, s"] = time.monotonic() - started
    return row


def _start_torch(spec: dict[str, Any], variants: Sequence[str], row: dict[str, Any]) -> ProcessPeer | None:
    """Torch's process, which prepares; None where there is none, and the row says why."""
    if not is_installed("torch"):
        row["torch"] = "not installed"
        return None
    return torch_process(spec, variants, "cuda" if jax.default_backend() == "gpu" else "cpu")


def _when_warm(torch: ProcessPeer | None, row: dict[str, Any]) -> ProcessPeer | None:
    """The process when it is warm; None if it has ended, and the row says so."""
    try:
        if torch is not None:
            torch.wait_until_warm()
    except UserError as error:
        row["torch"] = shorten(error)
        return None
    return torch


def _precision(dtype: str) -> str:
    """The dtype's name; a GPU computes float32 products in TF32 unless it is told otherwise."""
    return "TF32" if dtype == "float32" and jax.default_backend() == "gpu" else dtype


@functools.cache
def _peak(dtype: str, tiny: bool) -> float:
    return matmul_flops_per_second(dtype, TINY_PRODUCT if tiny else None)


@functools.cache
def _bandwidth(tiny: bool) -> float:
    return copied_bytes_per_second(2**16 if tiny else 2**30)


def compare_flags(part: Part) -> None:
    """Training ResNet-50 in bfloat16 under each flag, a process each, compiled anew while nothing else runs."""
    baseline = None
    for name, environment in FLAGS.items():
        with part.measured(flag=name) as row:
            command = [str(Path(__file__)), *(["--tiny"] if part.tiny else [])]
            process = part.run(command, **environment, JAX_ENABLE_COMPILATION_CACHE="false")
            if process.returncode:
                raise RuntimeError(f"exit code {process.returncode}: {process.stdout.strip()[-150:]}")
            row.update(json.loads(process.stdout.strip().splitlines()[-1]))
            baseline = baseline or row["images/s"]
            row["by the baseline"] = row["images/s"] / baseline


def measure_training_step(tiny: bool) -> dict[str, float]:
    """Returns what one flag is judged by, measured in this process."""
    work = _usual_work(tiny)
    work.seconds_per_step(2 if tiny else 10)
    seconds = statistics.median(work.seconds_per_step(2 if tiny else 20) for _ in range(5))
    return {
        "images/s": work.input_shape[0] / seconds,
        "compile, s": work.compile_seconds,
        "memory, GiB": work.program_memory / GIB,
    }


def _usual_work(tiny: bool) -> Work:
    name, batch_size, image_size = ("resnet20", 4, 32) if tiny else ("resnet50", 256, None)
    return Work.of(name, batch_size, image_size, "bfloat16", inference=False)


def trace_kernels(part: Part) -> None:
    """The costliest kernels of a bare step, and how much of the time the GPU waits there and in the training loop."""
    with tempfile.TemporaryDirectory() as folder:
        work = _usual_work(part.tiny)
        work.seconds_per_step(3)
        with jax.profiler.trace(folder):
            jax.block_until_ready([work.step() for _ in range(NUM_TRACED)])
        with part.measured(where="a bare step") as row:
            trace = read_trace(Path(folder))
            row["ms"], row["GPU waits"] = trace.busy_ns() / NUM_TRACED / 1e6, trace.idle_share()
            spent, count = Counter[str](), Counter[str]()
            for name, start, stop in trace.events:
                spent[name] += stop - start
                count[name] += 1
            for name, nanoseconds in spent.most_common(NUM_TRACED):
                share, milliseconds = nanoseconds / spent.total(), nanoseconds / NUM_TRACED / 1e6
                part.row(kernel=name, ms=milliseconds, share=share, count=count[name] / NUM_TRACED)
        del work
    with tempfile.TemporaryDirectory() as folder, part.measured(where="the training loop") as row:
        config, splits = _loop_config(part.tiny, num_steps=40)
        train(options_of(config), Path(folder) / "warm", "gpu", splits)  # compiles, into the cache
        with jax.profiler.trace(str(Path(folder) / "trace")):
            result = train(options_of(config), Path(folder) / "run", "gpu", splits)
        row["GPU waits"] = read_trace(Path(folder) / "trace").middle().idle_share()
        row["images/s"] = result.records[-1].get("images_per_second")


def _loop_config(tiny: bool, num_steps: int) -> tuple[Any, Splits]:
    """A config of a run on random images in memory, as large as ImageNet's after their crop."""
    batch_size, image_size = (4, 32) if tiny else (256, 224)
    batch_size *= len(jax.devices())
    config = default_config()
    config.model = "resnet20" if tiny else "resnet50"
    config.dtype, config.batch_size, config.num_steps = "bfloat16", batch_size, num_steps
    config.augment.flip = True
    config.log_every_steps = num_steps
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2 * batch_size, image_size, image_size, 3), np.uint8)
    labels = random.integers(0, 10, 2 * batch_size).astype(np.int32)
    config.checkpoint_every_steps = num_steps
    return config, Splits(ArraySource(images, labels, tuple(map(str, range(10)))), None, None)


@dataclass(frozen=True)
class Trace:
    """The kernels that ran on the devices: each one's name, start and end in nanoseconds, by their starts."""

    events: list[tuple[str, float, float]]

    def busy_ns(self) -> float:
        """Returns the nanoseconds in which at least one of the kernels ran."""
        total = end = 0.0
        for _, start, stop in self.events:
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

    def idle_share(self) -> float:
        """Returns the share of the time from the first kernel to the last in which none ran."""
        span = max(stop for _, _, stop in self.events) - self.events[0][1]
        return 1.0 - self.busy_ns() / span

    def middle(self) -> "Trace":
        """The half of the kernels in the middle: in a training loop, without what comes before and after the steps."""
        count = len(self.events)
        return Trace(self.events[count // 4 : -(count // 4) or None])


def read_trace(folder: Path) -> Trace:
    """Returns what ran on the GPUs, in the newest trace of a folder; without GPUs, XLA's operations on the CPU.

    Raises ValueError if there is nothing.
    """
    latest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(latest)).planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    events = [
        (event.name, event.start_ns, event.start_ns + event.duration_ns)
        for plane in gpus or planes
        for line in plane.lines
        if not gpus or line.name.startswith("Stream")  # what is drawn above the streams is the same time once more
        for event in line.events
        if gpus or "hlo_op" in dict(event.stats)
    ]
    if not events:
        lines = [f"{plane.name} {line.name}" for plane in planes for line in plane.lines]
        raise ValueError(f"the trace has no kernels; its lines: {', '.join(lines)}")
    return Trace(sorted(events, key=lambda event: event[1]))


def compare_input(part: Part) -> None:
    """Random crops of two photos a second, by cores, against what ResNet-50's training step needs."""
    cores = sorted({1, 4, len(os.sched_getaffinity(0))}) if not part.tiny else [1]
    folder = ROOT / "tests" / "golden"
    sizes = {"image_size": 32, "batch_size": 8, "num_batches": 1} if part.tiny else {"batch_size": 256}
    for num_cores in cores:
        with part.measured(cores=num_cores) as row:
            rates = measure_data(folder, num_pairs=1 if part.tiny else 2, cores=[num_cores], **sizes)
            found = rates[f"cores_{num_cores}"]
            row.update({f"{name}, images/s": found[name] for name in ("ours", "decode", "pillow")})
    with part.measured(cores="what training ResNet-50 takes") as row:
        row["ours, images/s"] = measure_training_step(part.tiny)["images/s"]


if __name__ == "__main__":
    print(json.dumps(measure_training_step("--tiny" in sys.argv)))
