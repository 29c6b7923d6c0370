"""The mesh of all devices, and how states and batches lie on it: replicated, and split along the axis `data`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, `data`, over `devices` (all of all processes if None)."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: the train state."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's rows of a batch as global arrays on the mesh; returns before the copy is done."""
    sharding = split_by_rows(mesh)
    if jax.process_count() == 1:  # one transfer for all, several times faster than array by array
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise UserError (a ValueError) unless batch_size is positive and divisible by the mesh's devices."""
    num_devices = mesh.devices.size
    if batch_size < 1 or batch_size % num_devices:
        near = max(round(batch_size / num_devices), 1) * num_devices
        raise UserError(
            f"batch_size={batch_size} must be positive and divisible by the {num_devices} devices, for example {near}"
        )
