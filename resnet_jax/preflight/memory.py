"""Estimates a run's needs of memory and disk from its shapes; nothing is computed or compiled."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import DISTINCT_BLOCKS, variable_shapes
from resnet_jax.models.summary import max_product_elements
from resnet_jax.training.jit_steps import init_run_state
from resnet_jax.training.train_state import TrainState

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Experiment

# A stage of more blocks is not traced whole: a thousand layers would take half a minute.
LONG_STAGE = 8


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step takes on each device.

    parameters, statistics, average (the moving one of both), optimizer: the train state.

    Attributes:
      gradients: of the trained layers.
      activations: what the backward pass needs of the forward pass, and at least what passes through its widest
        layer.
      images: as they come, and normalised.
    """

    parameters: int
    statistics: int
    average: int
    optimizer: int
    gradients: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(asdict(self).values())


def num_bytes(tree: Any) -> int:
    """Returns the bytes of the arrays, or shapes, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state_bytes(state: TrainState) -> int:
    """Returns the bytes of a train state, which a checkpoint takes as well: they are stored as they are."""
    return num_bytes(state)


def estimate_memory(experiment: "Experiment") -> StepMemory:
    """Returns the memory of a step on each device, within a tenth of XLA's reservation for it.

    Where layers are frozen only the order is right: what passes through them depends on the compiler. With
    model_args.remat it is what an accelerator takes: on the CPU XLA keeps more.
    """
    batches = experiment.batches
    state = init_run_state(experiment, shapes_only=True)
    num_rows = batches.part_size // experiment.mesh.devices.size
    shape = (num_rows, *training_image_shape(experiment))
    images = jax.ShapeDtypeStruct(shape, jnp.float64 if experiment.model.dtype == "float64" else jnp.float32)
    label_shape = (len(experiment.class_names),) if experiment.multi_label else ()
    labels = jax.ShapeDtypeStruct((num_rows, *label_shape), jnp.int32)
    return StepMemory(
        parameters=num_bytes(state.params),
        statistics=num_bytes(state.batch_stats),
        average=num_bytes((state.ema_params, state.ema_batch_stats)),
        optimizer=num_bytes(state.opt_state),
        gradients=num_bytes(state.trained(state.params)) * min(batches.num_parts, 2),  # a part's, and the sum
        activations=_activation_bytes(experiment.model, state, images, labels),
        images=num_bytes(images) + images.size,
    )


def training_image_shape(experiment: "Experiment") -> tuple[int, ...]:
    """Returns (H, W, C) of a training image; none is read."""
    source: Any = experiment.batches.source
    return (source.transform and source.transform.image_shape) or source.image_shape


def _activation_bytes(
    model: ResNet, state: TrainState, images: jax.ShapeDtypeStruct, labels: jax.ShapeDtypeStruct
) -> int:
    """Returns what the backward pass needs, and at least what passes through the widest layer.

    A long stage's blocks are alike from its second one on, but in a pruned network, and so is what is kept for each.
    """

    def of_length(stage_sizes: tuple[int, ...]) -> TrainState:
        short = model.clone(stage_sizes=stage_sizes)
        return state.replace(apply_fn=short.apply, **variable_shapes(short, images.shape[-1]))

    shortened = tuple(DISTINCT_BLOCKS if length > LONG_STAGE else length for length in model.stage_sizes)
    base = model.stage_sizes if model.block_widths else shortened
    kept = in_base = _kept_bytes(of_length(base), images, labels)
    for i, (length, traced) in enumerate(zip(model.stage_sizes, base, strict=True)):
        if length > traced:
            one_more = (*base[:i], traced + 1, *base[i + 1 :])
            kept += (length - traced) * (_kept_bytes(of_length(one_more), images, labels) - in_base)
    return max(kept, _passing_bytes(of_length(base), images))


def _passing_bytes(state: TrainState, images: jax.ShapeDtypeStruct) -> int:
    """Returns the size of the widest layer's input and output."""
    forward = partial(state.apply_fn, train=False)
    return 2 * max_product_elements(forward, state.variables, images) * images.dtype.itemsize


def _kept_bytes(state: TrainState, images: jax.ShapeDtypeStruct, labels: jax.ShapeDtypeStruct) -> int:
    def kept(state: TrainState, images: jax.Array, labels: jax.Array) -> list[jax.Array]:
        def loss(trained: Any) -> tuple[jax.Array, Any]:
            logits, updated = state.apply_fn(
                {"params": {**state.params, **trained}, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return state.loss(logits, labels).mean(), updated

        return jax.tree.leaves(jax.vjp(loss, state.trained(state.params), has_aux=True)[1])

    jaxpr = jax.make_jaxpr(kept)(state, images, labels).jaxpr
    given = {id(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    # By identity: one array may be kept for several layers.
    arrays = {id(variable): variable.aval for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    return num_bytes([aval for name, aval in arrays.items() if name not in given])
