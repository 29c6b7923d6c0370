"""The process that compiles a step for more devices than there are."""

from typing import Any

from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.resnet import DTYPES
from resnet_jax.models.variants import create_model


def measure_step_cost(
    model: str, batch_size: int, image_size: int | None = None, dtype: str = "float32", num_devices: int = 8
) -> dict[str, Any]:
    """What `step_cost` of step_cost.py returns, for `num_devices` simulated CPU devices.

    It runs in a process of its own: how many devices there are is settled before JAX finds them. Raises UserError (a
    ValueError) for what cannot be compiled.
    """
    counts = {"batch_size": batch_size, "image_size": image_size, "num_devices": num_devices}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    check_choice("dtype", dtype, tuple(name for name in DTYPES if name != "float64"))
    create_model(model)
    if batch_size % num_devices:
        raise UserError(f"batch_size={batch_size} must be divisible by num_devices={num_devices}")
    process = SideProcess("resnet_jax.benchmark.step_cost", {"model": model, "dtype": dtype, **counts})
    cost = process.about
    process.close()
    return cost
