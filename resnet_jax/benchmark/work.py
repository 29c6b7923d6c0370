"""One network's compiled step in JAX, with all that the benchmark wants to know of it."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError
from resnet_jax.inference.onnx_graph import to_onnx
from resnet_jax.inference.ready.apply import ready_apply
from resnet_jax.models.arguments import DTYPES
from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import BottleneckBlock
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.layers import Conv
from resnet_jax.models.summary import count_macs
from resnet_jax.models.variants import create_model, default_image_size
from resnet_jax.training.optimizer import sgd
from resnet_jax.training.train_state import create_train_state
from resnet_jax.training.train_step import train_step

Array = jax.Array

LEARNING_RATE = 1e-3  # as in torch_side.py, which gives the reason

BLOCK = "resnext_block"
BLOCK_ARGUMENTS: dict[str, Any] = {"filters": 64, "groups": 32, "width_per_group": 4}
BLOCK_CHANNELS, BLOCK_SIZE = 256, 56


Side = int | tuple[int, int]  # pixels, or (height, width)


@dataclass
class Work:
    """A compiled step and its state; `macs` counts one image's forward pass, `program_memory` is in bytes."""

    input_shape: tuple[int, ...]
    dtype: str
    inference: bool
    macs: int
    function: Any  # what was compiled: it holds a network that is ready for inference
    compiled: Any
    state: Any
    batch: Any
    compile_seconds: float
    program_memory: int

    @classmethod
    def of(
        cls,
        name: str,
        batch_size: int,
        image_size: Side | None,
        dtype: str,
        *,
        inference: bool,
        conv_impl: str = "auto",
        ready: bool = True,
    ) -> "Work":
        """Returns the work of the named network, with convolutions by `conv_impl`.

        Args:
          ready: in inference the network may be one call, if it can be made ready; else it is operation by operation.

        Raises:
          UserError: for an unknown name or unusable shapes.
        """
        make = _block if name == BLOCK else _network
        step, state, batch, forward = make(name, batch_size, image_size, dtype, inference, conv_impl, ready)
        one_image = jax.ShapeDtypeStruct((1, *batch["image"].shape[1:]), batch["image"].dtype)
        started = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=() if inference else 0).lower(state, batch).compile()
        compile_seconds = time.perf_counter() - started
        memory: Any = compiled.memory_analysis()
        return cls(
            input_shape=batch["image"].shape,
            dtype=dtype,
            inference=inference,
            macs=count_macs(forward, one_image),
            function=step,
            compiled=compiled,
            state=state,
            batch=batch,
            compile_seconds=compile_seconds,
            program_memory=memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
            - memory.alias_size_in_bytes,
        )  # fmt: skip

    @property
    def image_size(self) -> Side:
        """Pixels a side, or (height, width) if they differ."""
        height, width = self.input_shape[1], self.input_shape[2]
        return height if height == width else (height, width)

    @property
    def convolutions(self) -> str:
        """Whose convolutions the program calls: "onednn", "onednn, ready" as one network, or "xla"."""
        program = self.compiled.as_text()
        return (
            "onednn, ready" if "resnet_jax_ready" in program else "onednn" if "resnet_jax_onednn" in program else "xla"
        )

    def step(self) -> Any:
        """Dispatches one step and returns its results."""
        if self.inference:
            return self.compiled(self.state, self.batch)
        self.state, results = self.compiled(self.state, self.batch)
        return results

    def seconds_per_step(self, num_steps: int) -> float:
        """Returns one measurement."""
        started = time.perf_counter()
        for _ in range(num_steps):
            results = self.step()
        jax.block_until_ready((results, self.state))
        return (time.perf_counter() - started) / num_steps


def torch_spec(name: str, batch_size: int, image_size: Side | None, dtype: str, *, inference: bool) -> dict[str, Any]:
    """Returns the arguments with which torch_side.py does the same work as `Work.of`."""
    if name == BLOCK:
        arguments = {**BLOCK_ARGUMENTS, "block_cls": "bottleneck", "shortcut": "B", "stride_in": "3x3"}
        size, channels = BLOCK_SIZE if image_size is None else image_size, BLOCK_CHANNELS
    else:
        model = create_model(name)
        arguments = {field: getattr(model, field) for field in TORCH_ARGUMENTS}
        size, channels = default_image_size(name) if image_size is None else image_size, 3
    return {
        "model_args": {**arguments, "block_only": name == BLOCK},
        "input_shape": (batch_size, *_sides(size), channels),
        "dtype": dtype,
        "inference": inference,
    }


def to_onnx_file(name: str, batch_size: int, image_size: Side | None, path: Path) -> tuple[int, ...]:
    """Writes the named network for inference, batch norm folded, as an ONNX file, and returns the shape of its input.

    Raises:
      UserError: for the block, which is no network, and where onnx is missing.
    """
    if name == BLOCK:
        raise UserError(f"{name} is measured in training only: choose a model for --inference")
    model = create_model(name, conv_impl="xla")
    size = _sides(default_image_size(name) if image_size is None else image_size)
    variables = _initial_variables(model, jnp.zeros((1, *size, 3)))
    folded, its = fold_batch_norm(model, variables)
    graph = to_onnx(lambda images: folded.apply(its, images, train=False), (*size, 3), jnp.float32)
    path.write_bytes(graph.SerializeToString())
    return batch_size, *size, 3


def _sides(size: Side) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


# A step, its state, its batch, and the forward pass whose MACs count.
Made = tuple[Callable[..., Any], Any, dict[str, Array], Callable[..., Any]]


def _network(
    name: str, batch_size: int, image_size: Side | None, dtype: str, inference: bool, conv_impl: str, ready: bool
) -> Made:
    size = default_image_size(name) if image_size is None else image_size
    model = create_model(name, dtype=dtype, conv_impl=conv_impl)
    assert model.num_classes is not None
    images = jax.random.normal(jax.random.key(1), (batch_size, *_sides(size), 3), DTYPES[dtype][1])
    batch = {"image": images, "label": jnp.arange(batch_size) % model.num_classes}
    variables = _initial_variables(model, images)
    counted = create_model(name, dtype=dtype, conv_impl="xla")
    forward = partial(counted.apply, variables, train=False)
    if inference:
        apply = ready_apply(model, variables, num_devices=1 if ready else 0)
        return (lambda state, batch: apply(state, batch["image"], train=False)), variables, batch, forward
    tx = sgd(LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    return train_step, create_train_state(model, variables, tx), batch, forward


TORCH_ARGUMENTS = (
    "stage_sizes", "block_cls", "num_filters", "num_classes", "groups", "width_per_group", "stem", "stride_in",
    "shortcut",
)  # fmt: skip


# What torch_side.py can build of the arguments that make a network's shape.
TORCH_VALUES: dict[str, tuple[Any, ...]] = {
    "block_cls": ("basic", "bottleneck"),
    "stem": ("imagenet", "cifar"),
    "shortcut": ("A", "B", "C", "none"),
}
# What makes no difference to the network, or is set beside its name.
_NOT_OF_THE_NETWORK = (
    "dtype", "conv_impl", "remat", "trainable", "kernel_init", "zero_init_residual", "axis_name", "parent", "name",
)  # fmt: skip


def check_torch_has(name: str) -> None:
    """Raises UserError (a ValueError) if torch_side.py cannot build the named network."""
    if name == BLOCK:
        return
    model = create_model(name)
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        known = field.name in {*TORCH_ARGUMENTS} - TORCH_VALUES.keys() or field.name in _NOT_OF_THE_NETWORK
        if not known and value not in TORCH_VALUES.get(field.name, (field.default,)):
            raise UserError(
                f"--against torch has no {field.name}={value!r}, which {name} has: measure it without, or another model"
            )


def _block(
    name: str, batch_size: int, image_size: Side | None, dtype: str, inference: bool, conv_impl: str, ready: bool
) -> Made:
    del ready
    if inference:
        raise UserError(f"{name} is measured in training only: choose a model for --inference")
    size = BLOCK_SIZE if image_size is None else image_size
    computed, kept = DTYPES[dtype]

    def block(impl: str) -> nn.Module:
        conv = partial(Conv, impl=impl, dtype=computed, param_dtype=kept)
        return BottleneckBlock(conv=conv, norm=partial(BatchNorm, dtype=computed, param_dtype=kept), **BLOCK_ARGUMENTS)

    model = block(conv_impl)
    batch = {"image": jax.random.normal(jax.random.key(1), (batch_size, *_sides(size), BLOCK_CHANNELS), computed)}
    variables = _initial_variables(model, batch["image"])
    forward = partial(block("xla").apply, variables, train=False)
    tx = sgd(LEARNING_RATE, momentum=0.9, weight_decay=1e-4)

    def step(state: Any, batch: dict[str, Array]) -> tuple[Any, Array]:
        params, statistics, opt_state = state

        def loss_fn(params: Any) -> tuple[Array, Any]:
            variables = {"params": params, "batch_stats": statistics}
            outputs, updated = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(outputs)), updated.get("batch_stats", {})

        (loss, statistics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    state = (variables["params"], variables.get("batch_stats", {}), tx.init(variables["params"]))
    return step, state, batch, forward


def _initial_variables(model: nn.Module, images: Array) -> Any:
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])


def matmul_flops_per_second(dtype: str, size: int | None = None, repeats: int = 10) -> float:
    """Returns the floating-point operations a second of the best of `repeats` products of two size x size matrices.

    Args:
      size: None is 2048, or 8192 on a GPU, which a smaller product does not fill.
    """
    size = size or (8192 if jax.default_backend() == "gpu" else 2048)
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)
