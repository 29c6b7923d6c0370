"""Counts a training step's cost on paper: the collectives of its program on simulated devices, and its arithmetic.

The program is the same as in `train`: augmentation, forward and backward pass, SGD with momentum, metrics. It is
compiled for CPU devices, with XLA's own convolutions as on an accelerator. The partitioner and combiner settle which
collectives there are, before any platform's code is made.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from collectives import collectives, total_by_kind
from ml_collections import ConfigDict

from resnet_jax.cli.printing import print_result
from resnet_jax.config import default_config
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.distributed.mesh import data_sharding, replicated
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.arguments import DTYPES
from resnet_jax.models.summary import count_macs, num_elements
from resnet_jax.models.variants import create_model, default_image_size
from resnet_jax.training.experiment import Experiment, build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state, jit_train_step

BYTES = 4  # of a parameter, a statistic and a metric: float32 in every dtype but float64
NUM_METRIC_SUMS = 2  # the sums over the batch that the metrics need beside the gradients: loss, correct rows
QUICK = {"xla_backend_optimization_level": 0}  # LLVM's: it comes after the partitioner, whose result is asked for
FORWARD_PASSES = 3  # a training step: the forward pass, and two gradients that cost as much each


def step_cost(
    model: str,
    batch_size: int,
    image_size: int | None = None,
    dtype: str = "float32",
    num_devices: int = 8,
    fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Counts one training step's cost on `num_devices` of this process's devices; `fields`: of the config, by name.

    Returns {"model", "dtype", "num_devices", "batch_size", "image_size", "parameters", "statistics" (counts),
    "collectives": see `total_by_kind`, "collective_bytes", "allowed_bytes" (parameters, twice the statistics and the
    metrics in float32), "macs_forward" and "macs_step" of the batch, "macs_ratio": of the step by three forward passes,
    "xla_flops" (that XLA counts, all devices) and "xla_flops_ratio", of these by three forward passes' FLOPs}.
    """
    image_size = default_image_size(model) if image_size is None else image_size
    macs_forward, macs_step = step_macs(model, batch_size, image_size, fields)
    config = step_config(model, batch_size, image_size, dtype, fields or {})
    config.model_args.conv_impl = "xla"
    experiment = make_experiment(config, num_devices)
    state, _ = shapes(experiment)
    compiled = lower_step(experiment).compile(compiler_options=QUICK)
    analysis: Any = compiled.cost_analysis()
    totals = total_by_kind(collectives(compiled.as_text()))
    parameters, statistics = (num_elements(tree) for tree in (state.params, state.batch_stats))
    xla_flops = num_devices * analysis["flops"]
    return {
        "model": model,
        "dtype": dtype,
        "num_devices": num_devices,
        "batch_size": batch_size,
        "image_size": image_size,
        "parameters": parameters,
        "statistics": statistics,
        "collectives": totals,
        "collective_bytes": sum(total["bytes"] for total in totals.values()),
        "allowed_bytes": BYTES * (parameters + 2 * statistics + NUM_METRIC_SUMS),
        "macs_forward": macs_forward,
        "macs_step": macs_step,
        "macs_ratio": macs_step / (FORWARD_PASSES * macs_forward),
        "xla_flops": xla_flops,
        "xla_flops_ratio": xla_flops / (2 * FORWARD_PASSES * macs_forward),
    }


def check(model: str, batch_size: int, image_size: int | None, dtype: str, num_devices: int) -> None:
    """Raises UserError (a ValueError) for what cannot be compiled."""
    counts = {"batch_size": batch_size, "image_size": image_size, "num_devices": num_devices}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    check_choice("dtype", dtype, tuple(name for name in DTYPES if name != "float64"))
    create_model(model)
    if batch_size % num_devices:
        raise UserError(f"batch_size={batch_size} must be divisible by num_devices={num_devices}")


def step_macs(model: str, batch_size: int, image_size: int, fields: dict[str, Any] | None = None) -> tuple[int, int]:
    """Multiply-accumulates of a batch's forward pass and of its training step, from their jaxprs."""
    experiment = make_experiment(step_config(model, batch_size, image_size, "float32", fields or {}), 1)
    state, batch = shapes(experiment)
    images = jax.ShapeDtypeStruct(batch["image"].shape, jnp.float32)
    forward = count_macs(partial(state.apply_fn, train=False), state.variables, images)
    return forward, count_macs(jit_train_step(experiment), state, batch)


def lower_step(experiment: Experiment, platform: str | None = None) -> Any:
    """The training step of `experiment`, lowered for the shapes of its first batch, for `platform` if given."""
    traced: Any = jit_train_step(experiment)
    return traced.trace(*shapes(experiment)).lower(lowering_platforms=platform and (platform,))


def step_config(model: str, batch_size: int, image_size: int, dtype: str, fields: dict[str, Any]) -> ConfigDict:
    """The default config of a run of a thousand steps with flips, SGD with momentum; then `fields`."""
    config = default_config()
    config.model = model
    config.dtype = dtype
    config.batch_size = batch_size
    config.image_size = image_size
    config.num_steps = 1000
    config.augment.flip = True
    config.update_from_flattened_dict(fields)
    return config


def make_experiment(config: ConfigDict, num_devices: int) -> Experiment:
    """The config's, with as many images as a batch has, which take no memory: nothing is computed with them."""
    devices = jax.devices()[:num_devices]
    if len(devices) < num_devices:
        raise UserError(f"num_devices={num_devices} must be at most the {len(devices)} devices there are")
    num_classes = create_model(config.model).num_classes or 1
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), shape)
    source = ArraySource(images, np.zeros(config.batch_size, np.int32), tuple(map(str, range(num_classes))))
    return build_experiment(options_of(config), devices, Splits(source, None, None))


def shapes(experiment: Experiment) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """The shapes of the state and of a batch, as they lie on the mesh."""
    mesh, rows = experiment.mesh, data_sharding(experiment.mesh)
    state = init_run_state(experiment, shapes_only=True)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), state)
    first = experiment.batches[0]
    return state, {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in first.items()}


def print_step_cost(result: dict[str, Any], as_json: bool) -> int:
    """Prints what `step_cost` returns."""
    if not as_json:
        totals = result.pop("collectives")
        shown_totals = {name: f"{total['count']}, {total['bytes']:,} bytes" for name, total in totals.items()}
        result = {name: f"{value:,}" if isinstance(value, int) else value for name, value in result.items()}
        result.update(shown_totals)
    return print_result(result, as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, help="default: the model's")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    parser.add_argument("--num_devices", type=int, default=8, help="simulated ones (default: 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    shapes = (arguments.model, arguments.batch_size, arguments.image_size)
    try:
        check(*shapes, arguments.dtype, arguments.num_devices)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.num_devices)
        return print_step_cost(step_cost(*shapes, arguments.dtype, arguments.num_devices), arguments.json)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
