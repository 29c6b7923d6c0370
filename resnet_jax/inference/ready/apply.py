"""A network's `apply` for inference: by oneDNN's primitives in a row on one CPU device, elsewhere the model's own."""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.inference.ready.network import ReadyNetwork
from resnet_jax.inference.ready.trace import Operation, UnknownOperationError, trace
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops.onednn import available
from resnet_jax.ops.onednn_library import DTYPES, PREPARING, OneDNNError
from resnet_jax.ops.xla_ffi import Kernel, register_while_held

Array = jax.Array

logger = logging.getLogger(__name__)


def ready_apply(model: ResNet, variables: Mapping[str, Any], num_devices: int) -> Callable[..., Array]:
    """Returns a function that stands for `model.apply` in evaluation mode, of these variables.

    Called inside `jit` as apply(variables, images, train=False), (B, H, W, C) -> (B, K). Where the CPU is one device,
    oneDNN is there and has every operation of the network, the network is one call of it, made ready for the shape at
    hand out of `variables` as they are now; elsewhere the model's own `apply`, batch norm folded, of the variables that
    it is given. A program that is kept on disk names the network by its content. The returned function holds what was
    made ready: it must live as long as programs with it run.

    Args:
      num_devices: over which the images are split; 0: the model's own `apply` in any case.
    """

    held: dict[str, Kernel] = {}  # by the name of its custom call

    def apply(given: Any, images: Array, *, train: bool = False) -> Array:
        if train:
            raise ValueError("train=True: a network that is ready for inference cannot be trained")
        target = _register(model, variables, images.shape, held) if _may_be_ready(model, num_devices, images) else None
        if target is None:
            one, its = (model, given) if model.batch_norm == "folded" else fold_batch_norm(model, given)
            return jnp.asarray(one.apply(its, images, train=False))
        assert model.num_classes is not None
        result = jax.ShapeDtypeStruct((images.shape[0], model.num_classes), jnp.float32)
        return jax.ffi.ffi_call(target, result)(images.astype(jnp.float32))

    return apply


def _may_be_ready(model: ResNet, num_devices: int, images: Array) -> bool:
    return (
        jax.default_backend() == "cpu"
        and num_devices == 1
        and model.dtype in DTYPES
        and model.conv_impl != "xla"
        and model.num_classes is not None
        and math.prod(images.shape) > 0
        and available()
    )


def make_ready(model: ResNet, variables: Mapping[str, Any], input_shape: tuple[int, int, int, int]) -> ReadyNetwork:
    """Returns the network in evaluation mode as oneDNN's primitives, for images of one shape (B, H, W, C).

    It computes in model.dtype, "float32" or "bfloat16", with sums in float32.

    Raises:
      UnknownOperationError: for a network with other operations than these have.
      OneDNNError: where oneDNN is missing, or has not one of them in that type.
    """
    return ReadyNetwork(_operations(model, variables, input_shape), model.dtype)


def _operations(model: ResNet, variables: Mapping[str, Any], input_shape: tuple[int, int, int, int]) -> list[Operation]:
    arrays = jax.tree.map(np.asarray, dict(variables))
    plain = model.clone(dtype="float32", remat=False)
    return trace(lambda images: plain.apply(arrays, images, train=False), input_shape)


def _register(
    model: ResNet, variables: Mapping[str, Any], input_shape: tuple[int, ...], held: dict[str, Kernel]
) -> str | None:
    """Returns the name of the custom call that is the network, and adds it to `held`; None where it has other
    operations.
    """
    try:
        batch, height, width, channels = input_shape
        operations = _operations(model, variables, (batch, height, width, channels))
        name = f"resnet_jax_ready_{model.dtype}_{_digest(operations)}"
        with PREPARING:
            held[name] = register_while_held(name, partial(_prepare, operations, model.dtype))
        return name
    except (UnknownOperationError, OneDNNError) as error:
        logger.debug(f"not made ready for inference: {error}")
        return None


def _prepare(operations: list[Operation], dtype: str) -> Kernel:
    network = ReadyNetwork(operations, dtype)

    def run(operands: Sequence[int], results: Sequence[int]) -> None:
        network.run(operands[0], results[0])

    return run


def _digest(operations: list[Operation]) -> str:
    """Returns a digest that identifies a network: by its operations, shapes and every weight."""
    digest = hashlib.blake2b(digest_size=16)
    for operation in operations:
        for field in dataclasses.fields(operation):
            value = getattr(operation, field.name)
            digest.update(f"{field.name}={value.shape if isinstance(value, np.ndarray) else value!r};".encode())
            if isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
