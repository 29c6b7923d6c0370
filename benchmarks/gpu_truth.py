"""The parts of gpu.py that compare results: tests, a whole recipe, a killed run, losses beside the CPU's."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from gpu_part import ROOT, Part
from gpu_speed import TRAIN_VARIANTS, compare
from PIL import Image
from step_cost import step_config

from resnet_jax.config import load_config
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state, jit_train_step
from resnet_jax.training.run import train

GPU_TESTS = ("tests/training/test_gpu_program.py",)  # the files with tests marked so: others need not be importable
NUM_LOSSES = 20
SECONDS_TO_SAVE = 10.0
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def run_gpu_tests(part: Part) -> None:
    """The tests marked `gpu`, a row each."""
    run_tests(part, *GPU_TESTS, "-m", "gpu")


def run_tests(part: Part, *words: str) -> None:
    """Runs tests on the GPU where there is one; a row for each that was chosen and one for all."""
    platform = "cuda" if jax.default_backend() == "gpu" else "cpu"
    options = ["--numprocesses=0", "-vv", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    process = part.run(["-m", "pytest", *words, *options], RESNET_JAX_TEST_PLATFORM=platform)
    for test, outcome in re.findall(r"^tests/\S*::(.+?) (PASSED|FAILED|ERROR|SKIPPED)", process.stdout, re.MULTILINE):
        part.row(test=test, outcome=outcome.lower(), platform=platform)
    last = "cut off" if process.returncode < 0 else process.stdout.strip().splitlines()[-1].strip("= ")
    part.row(test=f"all of {' '.join(words)}", outcome=last, platform=platform)
    if process.returncode:
        raise RuntimeError(f"pytest ended with exit code {process.returncode}")


def train_cifar10(part: Part) -> None:
    """The whole recipe, its accuracy and time; then the bare step, against torch's, for as many steps."""
    with tempfile.TemporaryDirectory() as folder, part.measured(what="the recipe") as row:
        started = time.monotonic()
        if part.cifar10 is None and not part.tiny:
            raise ValueError("not measured: --cifar10 names no images")
        train_images, test_images = _random_images() if part.cifar10 is None else read_jpegs(part.cifar10)
        row["reading images, s"] = time.monotonic() - started
        config = load_config(str(ROOT / "configs" / "cifar10.py"))
        config.num_steps = 20 if part.tiny else config.num_steps
        config.stop_after_minutes = max(0.01, (part.left - SECONDS_TO_SAVE) / 60)
        started = time.monotonic()
        result = train(options_of(config), Path(folder) / "run", "cifar10", Splits(train_images, None, test_images))
        seconds = time.monotonic() - started
        row["steps"], row["seconds"], row["ms a step"] = result.step, seconds, 1e3 * seconds / max(1, result.step)
        for record in result.records:
            row.update({name: record[name] for name in ("images_per_second", "test_accuracy") if name in record})
        if result.interrupted_by:
            row["failed"] = "no time was left"
            row["whole, s"] = seconds / result.step * config.num_steps
    row = compare(part, "resnet20", 8 if part.tiny else 128, "float32", ("channels-last", *TRAIN_VARIANTS))
    for name, milliseconds in (("ours", row.get("ms")), ("torch's", row.get("torch ms"))):
        if milliseconds is not None:
            part.row(what=f"64,000 bare steps, {name}", seconds=64 * milliseconds)


def read_jpegs(path: Path) -> tuple[ArraySource, ArraySource]:
    """Returns the images for training and for testing of a folder or tar: .../train/<class>/<image>, .../test/....

    Raises ValueError if there are none.
    """
    with ThreadPoolExecutor() as threads:
        read = list(threads.map(lambda item: (*item[0], np.asarray(Image.open(io.BytesIO(item[1])))), _files(path)))
    sources = []
    for split in ("train", "test"):
        chosen = sorted((one[1:] for one in read if one[0] == split), key=lambda one: one[:2])
        if not chosen:
            raise ValueError(f"{path} has no images {split}/<class>/<image>")
        names = sorted({image_class for image_class, _, _ in chosen})
        labels = np.array([names.index(image_class) for image_class, _, _ in chosen], np.int32)
        sources.append(ArraySource(np.stack([image for _, _, image in chosen]), labels, tuple(names)))
    return sources[0], sources[1]


def _files(path: Path) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """The split, class and name of each file, with its content."""
    if path.is_dir():
        for file in sorted(path.glob("**/*.*")):
            yield (*file.parts[-3:-1], file.name), file.read_bytes()  # type: ignore[misc]
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    split, image_class, name = Path(member.name).parts[-3:]
                    yield (split, image_class, name), stream.read()


def _random_images() -> tuple[ArraySource, ArraySource]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (256, 32, 32, 3), np.uint8)
    labels = np.arange(256, dtype=np.int32) % 10
    names = tuple(map(str, range(10)))
    return ArraySource(images, labels, names), ArraySource(images[:64], labels[:64], names)


def kill_and_continue(part: Part) -> None:
    """Compares a killed and continued run's last parameters with an unbroken run's, and counts how often runs agree."""
    for flags in (DETERMINISTIC, ""):
        with tempfile.TemporaryDirectory() as folder, part.measured(XLA_FLAGS=flags or "none") as row:
            unbroken, killed = Path(folder) / "unbroken", Path(folder) / "killed"
            with ThreadPoolExecutor() as threads:
                first = threads.submit(_digest, part, unbroken, flags)
                _kill_after_a_checkpoint(part, killed, flags)
                row["unbroken"] = first.result()[:12]
            row["killed after step"] = max(_saved_steps(killed))
            row["continued"] = _digest(part, killed, flags)[:12]
            row["equal"] = row["unbroken"] == row["continued"]


def _training(part: Part, workdir: Path, flags: str) -> tuple[list[str], dict[str, str]]:
    words = [
        "train.py",
        "--config",
        "configs/digits.py",
        "--workdir",
        str(workdir),
        "--config.checkpoint_every_steps=5",
    ]
    words += [f"--config.num_steps={20 if part.tiny else 60}"]
    return words, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}


def _digest(part: Part, workdir: Path, flags: str) -> str:
    words, environment = _training(part, workdir, flags)
    process = part.run(words, **environment)
    found = re.search(r"sha256\s+(\w+)", process.stdout)
    if found is None:
        raise RuntimeError(f"train ended with exit code {process.returncode}: {process.stdout.strip()[-150:]}")
    return found[1]


def _kill_after_a_checkpoint(part: Part, workdir: Path, flags: str) -> None:
    words, environment = _training(part, workdir, flags)
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env={**os.environ, **environment})
    try:
        while not _saved_steps(workdir):
            if process.poll() is not None or part.left <= 0:
                raise RuntimeError("the run to be killed ended, or part e's time, before its first checkpoint")
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _saved_steps(workdir: Path) -> list[int]:
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


def compare_losses(part: Part) -> None:
    """Losses of twenty steps beside the CPU's in float32; then float64's beside torch's, by the golden runs' tests."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    reference = None
    for name, dtype, precision, one in (
        ("the CPU, float32", "float32", "highest", cpu),
        ("float32 without TF32", "float32", "highest", device),
        ("float32", "float32", "default", device),
        ("bfloat16", "bfloat16", "default", device),
    ):
        with part.measured(losses=name) as row:
            losses = _losses(part, dtype, precision, one)
            reference = losses if reference is None else reference
            difference = np.abs(losses - reference) / np.abs(reference)
            row.update({f"step {k}": float(losses[k - 1]) for k in (1, NUM_LOSSES)})
            row.update({f"difference to step {k}": float(difference[:k].max()) for k in (1, 5, NUM_LOSSES)})
    run_tests(part, "tests/training/test_steps.py", "-k", "torchs")


def _losses(part: Part, dtype: str, precision: str, device: jax.Device) -> np.ndarray:
    """(NUM_LOSSES,) those of ResNet-20 on random images, from the same weights everywhere."""
    config = step_config("resnet20", 8 if part.tiny else 64, 32, dtype, {"learning_rate": 0.01})
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (config.batch_size, 32, 32, 3), np.uint8)
    labels = np.arange(config.batch_size, dtype=np.int32) % 10
    splits = Splits(ArraySource(images, labels, tuple(map(str, range(10)))), None, None)
    experiment = build_experiment(options_of(config), [device], splits)
    with jax.default_device(device), jax.default_matmul_precision(precision):
        state, step = init_run_state(experiment), jit_train_step(experiment)
        losses = []
        for k in range(NUM_LOSSES):
            state, metrics = step(state, shard_batch(experiment.batches[k], experiment.mesh))
            losses.append(float(metrics["loss"]))
    return np.array(losses)
