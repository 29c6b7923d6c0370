"""How much memory a device would save if the optimizer's state, or all of the train state, were split over the mesh.

    python benchmarks/sharded_state.py --model resnet50 --num_classes 21843 --rows 32

Compiles a training step for simulated devices, three times: with the state whole on every device, as `train` has it;
with the optimizer's momentum split over them (ZeRO's first stage); and with the parameters split as well (FSDP). Prints
what each needs on a device, as XLA counts it. Nothing is run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

NUM_DEVICES = 8
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={NUM_DEVICES}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402 - after the number of devices is set
import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from resnet_jax.cli.printing import print_result  # noqa: E402
from resnet_jax.distributed.mesh import BATCH_AXIS, data_sharding, make_mesh, replicated  # noqa: E402
from resnet_jax.models.variants import create_model, default_image_size  # noqa: E402
from resnet_jax.training import create_train_state, sgd, train_step  # noqa: E402

QUICK = {"xla_backend_optimization_level": 0}  # of LLVM, which comes after memory is laid out


def split(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    """Returns the sharding of an array over the mesh by its first axis that divides; whole if none does."""
    axis = next((i for i, size in enumerate(leaf.shape) if size >= NUM_DEVICES and size % NUM_DEVICES == 0), None)
    return replicated(mesh) if axis is None else NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def device_memory(model_name: str, num_classes: int, rows: int, dtype: str, sharded: tuple[str, ...]) -> dict[str, int]:
    """Returns {"state", "step"}: bytes on a device of the train state, and of all that a step needs.

    Args:
      rows: images on a device.
      sharded: the fields of the train state that are split: "opt_state", "params".
    """
    mesh, size = make_mesh(), default_image_size(model_name)
    model = create_model(model_name, num_classes=num_classes, dtype=dtype, conv_impl="xla")
    images = jax.ShapeDtypeStruct((rows * NUM_DEVICES, size, size, 3), jnp.float32, sharding=data_sharding(mesh))
    labels = jax.ShapeDtypeStruct((rows * NUM_DEVICES,), jnp.int32, sharding=data_sharding(mesh))

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros((1, size, size, 3)), train=False)
        return create_train_state(model, variables, sgd(0.1))

    shapes = jax.eval_shape(init, jax.random.key(0))
    whole = jax.tree.map(lambda leaf: replicated(mesh), shapes)
    shardings = whole.replace(
        **{name: jax.tree.map(lambda leaf: split(mesh, leaf), getattr(shapes, name)) for name in sharded}
    )
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
    step = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    memory: Any = (
        step.lower(state, {"image": images, "label": labels}).compile(compiler_options=QUICK).memory_analysis()
    )
    batch = (images.size * 4 + labels.size * 4) // NUM_DEVICES
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return {"state": memory.argument_size_in_bytes - batch, "step": total - memory.alias_size_in_bytes}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=32, help="images on a device (default: 32)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    result: dict[str, Any] = {"model": arguments.model, "classes": arguments.num_classes, "rows": arguments.rows}
    ways = {"whole": (), "momentum split": ("opt_state",), "all split": ("opt_state", "params")}
    for name, sharded in ways.items():
        memory = device_memory(arguments.model, arguments.num_classes, arguments.rows, arguments.dtype, sharded)
        result |= {f"{name}: MB of {part}": round(size / 1e6) for part, size in memory.items()}
    return print_result(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
