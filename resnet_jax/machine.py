"""What this machine gives a process: cores, memory, a GPU."""

import os
import shutil
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
NVIDIA_DEVICE = Path("/dev/nvidia0")


def num_cores() -> float:
    """The cores that the process may use, a container's share of them included."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdecimal() and period.strip().isdecimal() else cores


def free_memory() -> int | None:
    """Bytes of main memory that the process can still take, a container's limit included; None if nothing tells."""
    free = [1024 * int(line.split()[1]) for line in _read(MEMINFO).splitlines() if line.startswith("MemAvailable:")]
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free.append(int(limit) - int(used))
    return min(free, default=None)


def peak_memory() -> int:
    """The most bytes of memory that this process has held."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # type: ignore[import-untyped]

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def has_nvidia_gpu() -> bool:
    """Whether the machine has a GPU of NVIDIA's, whoever can use it."""
    return NVIDIA_DEVICE.exists() or shutil.which("nvidia-smi") is not None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
