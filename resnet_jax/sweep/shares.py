"""The machine divided among several runs at a time: a GPU each, or separate cores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from resnet_jax.errors import UserError
from resnet_jax.runtime import CUDA_VISIBLE_DEVICES, cuda_devices, num_cores, other_accelerators


@dataclass(frozen=True)
class Share:
    """A part of the machine.

    Attributes:
      environment: the variables that say which, besides this process's own.
      cores: their numbers; empty: those that this process has.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()


def share_machine(num_jobs: int, num_runs: int | None = None) -> list[Share]:
    """Returns a share for each of so many runs at a time; for a single job all that this process has.

    Where JAX computes on NVIDIA GPUs each has one of them, elsewhere a part of the cores, of the same size within one.
    On systems that cannot give a process some of the cores they share all.

    Args:
      num_runs: that are left; if fewer, there are as many shares. Each still has a single GPU, but more cores.

    Raises:
      UserError: for more than there are GPUs, or cores, and with accelerators that are not NVIDIA's.
    """
    if num_jobs < 1:
        raise UserError(f"--jobs {num_jobs} must be at least 1")
    if num_jobs == 1:
        return [Share()]
    num_shares = num_jobs if num_runs is None else max(min(num_jobs, num_runs), 1)
    if gpus := cuda_devices():
        _check(num_jobs, len(gpus), "GPUs")
        return [Share({CUDA_VISIBLE_DEVICES: gpu}) for gpu in gpus[:num_shares]]
    if others := other_accelerators():
        raise UserError(
            f"--jobs {num_jobs} divides NVIDIA's GPUs or the cores, not the devices of {', '.join(others)}: leave it "
            "out, or set JAX_PLATFORMS=cpu to train on the cores"
        )
    _check(num_jobs, max(int(num_cores()), 1), "cores")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    bounds = [i * len(cores) // num_shares for i in range(num_shares + 1)]
    return [Share(cores=tuple(cores[bounds[i] : bounds[i + 1]])) for i in range(num_shares)]


def _check(num_jobs: int, most: int, what: str) -> None:
    if num_jobs > most:
        raise UserError(f"--jobs {num_jobs} must be at most {most}, the number of {what}: no two runs share one")
