"""The mesh of all devices, and how states and batches lie on it: replicated, and split along the axis `data`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UserError

BATCH_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over `devices`, all of all processes if None, one process after the other.

    `jax.make_mesh` refuses devices of several hosts, each of which is a slice to it, and may change their order, by
    which the processes divide a batch.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole: the train state."""
    return NamedSharding(mesh, PartitionSpec())


def data_sharding(mesh: Mesh, num_parts: int = 1) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over `data`, or its second where the first counts the parts."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS) if num_parts == 1 else PartitionSpec(None, BATCH_AXIS))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, num_parts: int = 1) -> dict[str, Any]:
    """Returns this process's rows of a batch as global arrays on the mesh; returns before the copy is done.

    num_parts > 1: (B, ...) becomes (num_parts, B / num_parts, ...), each part split over the devices.
    """
    sharding = data_sharding(mesh, num_parts)
    if num_parts > 1:
        batch = {name: rows.reshape(num_parts, -1, *rows.shape[1:]) for name, rows in batch.items()}
    if jax.process_count() == 1:  # one transfer for all, several times faster than array by array
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh, num_parts: int = 1) -> None:
    """Raises UserError (a ValueError) unless batch_size is positive and divisible by the devices (times num_parts)."""
    num_devices = mesh.devices.size
    divisor = num_devices * num_parts
    if batch_size < 1 or batch_size % divisor:
        near = max(round(batch_size / divisor), 1) * divisor
        parts = f" times config.accumulation_steps={num_parts}" if num_parts > 1 else ""
        raise UserError(
            f"batch_size={batch_size} must be positive and divisible by the {num_devices} devices{parts}, "
            f"for example {near}"
        )
