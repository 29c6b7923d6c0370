"""Runs at the same time: a GPU each, or cores that no other has."""

import os
import subprocess
from importlib.util import find_spec

import pytest

from resnet_jax import runtime
from resnet_jax.errors import UserError
from resnet_jax.sweep.shares import Share, share_machine

LISTING = """GPU 0: NVIDIA A100 (UUID: GPU-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-a)
  MIG 3g.20gb     Device  1: (UUID: MIG-b)
GPU 1: NVIDIA A100 (UUID: GPU-2)
"""


@pytest.fixture
def gpus(monkeypatch):
    """A machine with GPUs, as far as the driver and JAX's plugin say so."""
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runtime, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(runtime, "find_spec", lambda name: "jax_cuda13_plugin" in name or find_spec(name))
    monkeypatch.setattr(
        runtime.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=LISTING, stderr="")
    )


@pytest.fixture
def cores(monkeypatch):
    """Five cores, of a machine that has more."""
    monkeypatch.setattr(runtime, "CGROUP", runtime.Path("/nothing"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 9}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)


def test_one_run_at_a_time_has_all_that_there_is(gpus):
    assert share_machine(1) == [Share()]


def test_each_run_has_a_gpu_or_an_instance_of_its_own(gpus):
    assert [share.environment for share in share_machine(3)] == [
        {"CUDA_VISIBLE_DEVICES": name} for name in ("MIG-a", "MIG-b", "1")
    ]
    assert [share.environment for share in share_machine(3, 1)] == [{"CUDA_VISIBLE_DEVICES": "MIG-a"}]
    with pytest.raises(UserError, match="--jobs 4 must be at most 3, the number of GPUs: no two runs share one"):
        share_machine(4)


def test_gpus_are_those_that_the_environment_leaves(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7,-1,2")
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in share_machine(2)] == ["4", "GPU-7"]
    with pytest.raises(UserError, match="at most 2, the number of GPUs"):
        share_machine(3)


def test_cores_are_shared_where_jax_is_to_compute_on_them(gpus, cores, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [share.cores for share in share_machine(2)] == [(2, 3), (5, 7, 9)]
    assert [share.cores for share in share_machine(2, 1)] == [(2, 3, 5, 7, 9)]
    assert sorted(core for share in share_machine(5) for core in share.cores) == [2, 3, 5, 7, 9]
    with pytest.raises(UserError, match="--jobs 6 must be at most 5, the number of cores: no two runs share one"):
        share_machine(6)
    with pytest.raises(UserError, match="--jobs 0 must be at least 1"):
        share_machine(0)


def test_runs_at_a_time_need_devices_that_can_be_divided(cores, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(runtime, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    monkeypatch.setattr(runtime, "_plugins", lambda: ["rocm"])
    with pytest.raises(UserError, match="not the devices of rocm: leave it out, or set JAX_PLATFORMS=cpu"):
        share_machine(2)
    assert share_machine(1) == [Share()]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert len(share_machine(2)) == 2
