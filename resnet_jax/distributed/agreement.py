"""Compares what all processes must have alike to compute together, before the first program is compiled.

Hosts with other versions, code, flags or devices would train on other pixels without a word, or wait for each other for
ever. Over the coordinator's store of keys, as no device is needed for that.
"""

import importlib.metadata
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import jax

from resnet_jax.errors import UserError
from resnet_jax.runtime import source_digest, versions

# What decides programs or numbers of what the environment can set.
FLAGS = (
    "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE", "JAX_NUMPY_DTYPE_PROMOTION",
)  # fmt: skip
# Words of XLA_FLAGS that may differ: where dumps go, and how many devices are simulated, which is compared itself.
_MAY_DIFFER = ("--xla_dump", "--xla_force_host_platform_device_count")
_PROBE_SECONDS = 5.0  # a network's disk may show a new file late


def agree(client: Any, process_id: int, num_processes: int, seconds: float) -> str:
    """Compares the processes' facts, and whether they keep compiled programs in one folder; to be called by all.

    Where they do not, none keeps programs: with GPUs XLA divides its search for the fastest kernels among the processes
    that compile, and one that only loads its program would leave the others waiting.

    Args:
      client: JAX's, of the coordinator.
      seconds: to wait for each of the others.

    Returns:
      A warning, empty if all is well.

    Raises:
      UserError: in all processes, if one has other facts than process 0.
    """
    milliseconds = int(1000 * seconds)
    folder: str | None = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009, JAX makes it
    if process_id == 0:
        client.key_value_set("resnet_jax/probe", json.dumps([folder, _write_probe(folder)]))
    probed, probe = json.loads(client.blocking_key_value_get("resnet_jax/probe", milliseconds))
    facts = {**own_facts(), "programs": folder == probed and _sees(probe)}
    client.key_value_set(f"resnet_jax/facts/{process_id}", json.dumps(facts))
    if process_id == 0:
        found = [
            json.loads(client.blocking_key_value_get(f"resnet_jax/facts/{number}", milliseconds))
            for number in range(num_processes)
        ]
        _remove(probe)
        client.key_value_set("resnet_jax/verdict", json.dumps(verdict(found)))
    refusal, shares = json.loads(client.blocking_key_value_get("resnet_jax/verdict", milliseconds))
    if refusal:
        raise UserError(refusal)
    if shares or folder is None:
        return ""
    jax.config.update("jax_enable_compilation_cache", False)
    return (
        "compiled programs are not kept, as the processes' folders for them are not one: set RESNET_JAX_HOME to a "
        "folder that all hosts share"
    )


def own_facts() -> dict[str, Any]:
    """Returns the facts of this process."""
    known = {name: version for name, version in versions().items() if name != "python"}
    return {
        **known,
        "pillow": importlib.metadata.version("pillow"),
        "code": source_digest(),
        **{name: _flags(name) for name in FLAGS},
        "devices": jax.local_device_count(),
    }


def verdict(facts: list[dict[str, Any]]) -> tuple[str, bool]:
    """Returns (how a process differs from process 0, empty if none does; whether all keep programs in one folder)."""
    first = facts[0]
    for number, own in enumerate(facts):
        name = next((name for name in own if name != "programs" and own[name] != first.get(name)), None)
        if name is not None:
            theirs = f"{name} {own[name]!r}, and process 0 {first.get(name)!r}"
            return f"process {number} has {theirs}: start all processes with the same", False
    return "", all(own["programs"] for own in facts)


def _flags(name: str) -> str:
    words = os.environ.get(name, "").split()
    return " ".join(sorted(word for word in words if not word.startswith(_MAY_DIFFER)))


def _write_probe(folder: str | None) -> str:
    """Returns the path of a new file in the folder, empty if none can be written; an address, which all reach, as it
    is.
    """
    if folder is None or _is_address(folder):
        return folder or ""
    probe = Path(folder) / f"probe-{secrets.token_hex(8)}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
    except OSError:
        return ""
    return str(probe)


def _sees(probe: str) -> bool:
    if _is_address(probe):
        return True
    deadline = time.monotonic() + _PROBE_SECONDS
    while probe and not Path(probe).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return bool(probe)


def _remove(probe: str) -> None:
    if probe and not _is_address(probe):
        Path(probe).unlink(missing_ok=True)


def _is_address(folder: str) -> bool:
    return "://" in folder
