"""Settings of a command for its process, made before JAX finds its devices, and facts about its machine.

The cache of compiled programs, malloc, warnings; cores, memory, GPUs, versions. None changes a number. A program that
imports resnet_jax as a library decides for itself: importing runs none of it.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jax

import resnet_jax
from resnet_jax.formatting import format_count

# malloc's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# The compiled programs of all versions together; a network's training and evaluation take some 10 MB.
MOST_CACHED_BYTES = 2**30
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
NVIDIA_DEVICE = Path("/dev/nvidia0")
CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


def prepare_process() -> None:
    """Settles all; to be called before JAX touches its devices."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ start-up messages are no use to whoever trains
    enable_compilation_cache()
    if keep_freed_memory():
        compute_one_at_a_time()
    silence_libraries()


def silence_libraries() -> None:
    """Silences warnings about images and letters, which print a source line; our own lines report what matters.

    Pillow warns of odd files, and of large images, which are refused in a line where they matter. matplotlib warns of
    letters that its fonts lack. The filters stay for good: a temporary filter would affect other threads as well.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")


def enable_compilation_cache() -> Path | None:
    """Keeps compiled programs on disk, so that the next start compiles nothing; returns the folder, None if off.

    The folder is the user's alone, under RESNET_JAX_HOME (default: ~/.cache/resnet_jax), and named by JAX's versions
    and the processor, for which alone compiled programs are right. RESNET_JAX_COMPILATION_CACHE=0 turns it off.
    JAX_COMPILATION_CACHE_DIR, or the folder that a program has given JAX, stays. A folder that others could write, or
    that cannot be made, is no error: nothing is kept. Beyond MOST_CACHED_BYTES the oldest programs are removed.
    """
    folder = cache_folder()
    if cache_is_off() or jax.config.jax_compilation_cache_dir not in (None, str(folder)):  # type: ignore[attr-defined]
        return None
    if cache_fault(folder):
        return None
    remove_oldest(folder.parent, MOST_CACHED_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def remove_oldest(folder: Path, most_bytes: int) -> None:
    """Removes the oldest files in `folder` until the others have no more than `most_bytes`."""
    files: list[tuple[float, int, Path]] = []
    for parent, _, names in os.walk(folder):  # passes over a folder that vanishes meanwhile
        for path in (Path(parent) / name for name in names):
            with contextlib.suppress(OSError):  # another process removes them as well
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


@contextlib.contextmanager
def programs_not_kept() -> Iterator[None]:
    """Keeps no program on disk that is compiled inside: for those that hold a network's weights, and are as large."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


def cache_is_off() -> bool:
    """Returns whether the user has turned the cache of compiled programs off."""
    return os.environ.get("RESNET_JAX_COMPILATION_CACHE") == "0"


def cache_folder() -> Path:
    """Returns where compiled programs are kept, of these versions and this processor."""
    return home() / "compiled" / _compiler()


def cache_fault(folder: Path) -> str:
    """Returns why nothing can be kept in `folder`, which is made if need be; empty if all is well."""
    try:
        home().parent.mkdir(parents=True, exist_ok=True)
        for path in (home(), folder.parent, folder):
            path.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        return f"{error.filename} cannot be made: {error.strerror}"
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        return f"others could write in {folder}"
    if not os.access(folder, os.W_OK):
        return f"{folder} cannot be written"
    return ""


def home() -> Path:
    """Returns the user's folder of files that resnet_jax keeps between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RESNET_JAX_HOME") or Path(cache) / "resnet_jax").expanduser()


def _compiler() -> str:
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))
    return f"{versions}-{hashlib.sha256(_processor().encode()).hexdigest()[:12]}"


def processor_name() -> str:
    """Returns the processor's name and how many cores this process may use, as in "AMD EPYC 9R45, 2 cores"."""
    lines = _processor().splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = found[0] if found else platform.processor() or platform.machine()
    return f"{name}, {format_count(_cores_to_run_on(), 'core')}"


def _processor() -> str:
    """Returns the processor's model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def versions() -> dict[str, str]:
    """Returns the versions of what decides a run's numbers: Python, resnet_jax and the libraries that it computes
    with.
    """
    libraries = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        "resnet_jax": resnet_jax.__version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


@functools.cache
def source_digest() -> str:
    """Returns 12 hexadecimal digits of a digest of the package's own code, which differ between two runs of
    one version if the code changed between them.
    """
    package, sha = Path(resnet_jax.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sha.update(f"{path.relative_to(package).as_posix()}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def keep_freed_memory() -> bool:
    """Has malloc keep the memory that it frees, where training runs on the CPU under glibc; returns whether it does.

    A step's temporaries are one allocation of hundreds of megabytes, which malloc would give back to the kernel after
    each step and get anew, page by page: a fifth of a ResNet-20 step. With several arenas each thread would keep some.
    """
    if importlib.metadata.entry_points(group="jax_plugins"):  # an accelerator: its memory is not malloc's
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    return True


def compute_one_at_a_time() -> None:
    """Has JAX on the CPU compute what is called before it returns.

    Left to itself it gets the temporaries of the next step while it computes one. Malloc keeps both, so that a process
    held twice what it needs (ResNet-50's training 5.0 instead of 3.0 GB), and now and then got them anew from the
    kernel. A step on the CPU takes all cores; there is nothing that could be done beside it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def in_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def num_cores() -> float:
    """Returns the cores that the process may use, a container's share of them included."""
    cores = _cores_to_run_on()
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdecimal() and period.strip().isdecimal() else cores


def _cores_to_run_on() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Returns the bytes of main memory that the process can still take, a container's limit included; None if
    it is unknown.
    """
    free = [1024 * int(line.split()[1]) for line in _read(MEMINFO).splitlines() if line.startswith("MemAvailable:")]
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free.append(int(limit) - int(used))
    return min(free, default=None)


def peak_memory() -> int:
    """Returns the most bytes of memory that this process has held."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # type: ignore[import-untyped]

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def has_nvidia_gpu() -> bool:
    """Returns whether the machine has a GPU of NVIDIA's, whoever can use it."""
    return NVIDIA_DEVICE.exists() or shutil.which("nvidia-smi") is not None


def cuda_devices() -> list[str]:
    """Returns the NVIDIA GPUs that JAX would compute on, each as CUDA_VISIBLE_DEVICES names it; empty if it would on
    something else.

    Asks the driver and not JAX, which would take the GPUs' memory: those that CUDA_VISIBLE_DEVICES names where it is
    set, else all, or of a GPU that is cut into instances (MIG) these.
    """
    platform = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    has_plugin = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if platform not in ("", "cuda", "gpu") or not has_plugin or not has_nvidia_gpu():
        return []
    if (visible := os.environ.get(CUDA_VISIBLE_DEVICES)) is not None:
        names = [name.strip() for name in visible.split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))  # where CUDA stops reading
        return names[:end]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        listing = "\n".join(f"GPU {i}:" for i, _ in enumerate(NVIDIA_DEVICE.parent.glob("nvidia[0-9]*")))
    return _listed_gpus(listing)


def other_accelerators() -> list[str]:
    """Returns the names of the installed plugins for accelerators other than NVIDIA's; none where JAX is to compute on
    the CPU or on NVIDIA's.
    """
    platform = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if platform in ("cpu", "cuda", "gpu"):
        return []
    return [name for name in _plugins() if "cuda" not in name] + (["libtpu"] if find_spec("libtpu") else [])


def missing_accelerator(backend: str) -> str | None:
    """Returns a line if JAX computes on the CPU although its plugin for an accelerator is installed, and nobody chose
    so; None otherwise. In a container without its GPUs JAX says nothing of it.
    """
    plugins = _plugins()
    if backend != "cpu" or not plugins or os.environ.get("JAX_PLATFORMS"):
        return None
    return f"no device of {', '.join(plugins)} is visible: all is computed on the CPU (JAX_PLATFORMS=cpu to want it)"


def _plugins() -> list[str]:
    return sorted(point.name for point in importlib.metadata.entry_points(group="jax_plugins"))


def _listed_gpus(listing: str) -> list[str]:
    """Returns the GPUs of `nvidia-smi -L` by their numbers, and in place of one that has instances what names these."""
    gpus: list[list[str]] = []
    for line in listing.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            gpus.append([gpu[1]])
        elif gpus and (instance := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            gpus[-1].append(instance[1])
    return [name for gpu in gpus for name in gpu[1:] or gpu]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
