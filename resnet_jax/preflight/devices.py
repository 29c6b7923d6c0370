"""Checks the hardware that computes: devices, convolutions, cores, and whether a run's batch fits them."""

import os
import platform
from collections.abc import Iterator
from importlib.util import find_spec

import jax

from resnet_jax.data.batches import BatchOptions
from resnet_jax.distributed.mesh import check_batch_size, make_mesh
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_bytes
from resnet_jax.ops import onednn, onednn_library
from resnet_jax.preflight.finding import Finding, error, ok, refused, warning
from resnet_jax.runtime import has_nvidia_gpu, num_cores

TYPICAL = onednn.Problem((8, 14, 14, 64), (3, 3, 64, 64), stride=1, groups=1)
NO_IMPLEMENTATION = "XLA's: of oneDNN's implementations for this processor none was tried"


def check_devices() -> Iterator[Finding]:
    """Yields platform, kind, number and memory of JAX's devices, and a GPU that is not among them."""
    try:
        devices = jax.devices()
    except Exception as reason:  # an AssertionError where a platform is asked for that this jaxlib does not have
        platforms = os.environ.get("JAX_PLATFORMS", "")
        remedy = (
            f"unset JAX_PLATFORMS, which is {platforms}" if platforms else "pip install --force-reinstall jax jaxlib"
        )
        yield error("devices", f"JAX finds none ({(str(reason).splitlines() or [type(reason).__name__])[0]})", remedy)
        return
    memory = device_memory(devices[0])
    told = f", {format_bytes(memory)} free on each" if memory is not None else ""
    yield ok("devices", f"{len(devices)} {devices[0].platform} ({devices[0].device_kind}){told}")
    if devices[0].platform == "cpu" and has_nvidia_gpu():
        yield warning("gpu", "this machine has an NVIDIA GPU, and JAX sees none", _gpu_remedy())
    if devices[0].platform == "cpu":
        yield _convolutions(len(devices))
        yield ok("cores", f"{num_cores():g} may be used")


def device_memory(device: jax.Device) -> int | None:
    """Returns the bytes that are free on the device; None if it does not report them, like a CPU."""
    statistics = device.memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


def check_batch(options: BatchOptions) -> Iterator[Finding]:
    """Yields whether the devices can share a batch."""
    mesh = make_mesh()
    num_devices = mesh.devices.size
    try:
        check_batch_size(options.batch_size, mesh, options.accumulation_steps)
        yield ok("batch", f"{options.batch_size} images, {options.batch_size // num_devices} on each device")
    except UserError as reason:
        divisor = num_devices * options.accumulation_steps
        near = max(round(options.batch_size / divisor), 1) * divisor
        yield refused("batch", reason, f"--config.batch_size={near}")


def _gpu_remedy() -> str:
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return "unset JAX_PLATFORMS, which is cpu"
    if find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin"):
        return "see what `nvidia-smi` says, and python -c \"import jax; jax.devices('cuda')\""
    return "pip install 'resnet-family-jax[cuda13]', or [cuda12] where the driver is older than 580"


def _convolutions(num_devices: int) -> Finding:
    if onednn.available():
        if num_devices == 1:
            names = dict.fromkeys(filter(None, (onednn.implementation(name, TYPICAL) for name in onednn.OPERATIONS)))
            return ok("convolutions", f"oneDNN's, the fast ones: {', '.join(names)}" if names else NO_IMPLEMENTATION)
        return ok("convolutions", f"XLA's: oneDNN's are for one device, and there are {num_devices}")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return ok("convolutions", "XLA's: oneDNN's are for Linux on x86-64")
    return warning(
        "convolutions",
        "oneDNN's, two to three times as fast as XLA's, cannot be loaded",
        f"pip install '{onednn_library.PACKAGE}==2023.2.*', and libgomp (apt install libgomp1)",
    )
