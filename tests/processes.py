"""Training runs in processes of their own, on one device, as people start them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

TINY = [
    "train", "--config", "digits", "--config.model_args.stage_sizes=(1,)", "--config.model_args.num_filters=4",
    "--config.image_size=8", "--config.augment.crop_padding=1", "--config.log_every_steps=5",
    "--config.checkpoint_every_steps=25",
]  # fmt: skip


# Runs "$@" with the file "$0" in the place of that by which systems tell one boot, and so one host, from another.
AS_HOST = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


def can_be_hosts():
    """Return whether processes here may seem to run on hosts of their own."""
    words = ["unshare", "-rm", "sh", "-c", AS_HOST, os.devnull, "true"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


def start(*words, num_devices=1, environment=None, boot_id=None):
    """A process running `python -m resnet_jax` with these words; boot_id: a file that makes it one of another host."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # all start the same few programs
    return subprocess.Popen(
        [
            *(["unshare", "-rm", "sh", "-c", AS_HOST, str(boot_id)] if boot_id else []),
            sys.executable, "-m", "resnet_jax", *map(str, words),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **cache, "XLA_FLAGS": flags, **(environment or {})},
    )  # fmt: skip


def start_many(num_processes, *words, hosts=None, **options):
    """Processes that run `python -m resnet_jax` with these words together, process 0 first.

    hosts: a folder, in which each becomes one of a host of its own.
    """
    address = f"localhost:{free_port()}"
    boot_ids = [None] * num_processes
    if hosts is not None:
        boot_ids = [hosts / f"boot_id{number}" for number in range(num_processes)]
        for number, path in enumerate(boot_ids):
            path.write_text(f"{number:08d}-0000-4000-8000-000000000000\n")
    return [
        start(
            *words, "--coordinator", address, "--num_processes", num_processes, "--process_id", number,
            boot_id=boot_ids[number], **options,
        )
        for number in range(num_processes)
    ]  # fmt: skip


def free_port():
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def end(process):
    """(exit code, standard output, standard error) of a process, when it has ended."""
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def run(*words, **options):
    """(exit code, standard output, standard error) of such a process."""
    return end(start(*words, **options))


def records(workdir):
    """The metrics log without its timings; a last line that is being written is left out."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    parsed = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in parsed]


def wait_for_step(process, workdir, step):
    """Return when the run has logged `step`; fail if it ends before."""
    while max((record["step"] for record in records(workdir)), default=0) < step:
        if process.poll() is not None:
            raise AssertionError(f"the run ended before step {step}: {process.communicate()}")
        time.sleep(0.005)


def without_tensorflow(folder):
    """A PYTHONPATH, this process's own behind a folder in which TensorFlow cannot be imported."""
    package = folder / "blocked" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not here')")
    return os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))
