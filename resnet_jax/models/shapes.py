"""The shapes of a model's variables, without initialising or computing anything."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError, first_line
from resnet_jax.models.resnet import ResNet

RGB = 3  # channels
# A stage's blocks are alike from its second one on.
DISTINCT_BLOCKS = 2


def stem_kernel(model: ResNet) -> tuple[str, ...]:
    """Returns the path, within the parameters, of the one kernel (kh, kw, C, F) whose shape depends on the images'
    channels.
    """
    return ("conv1", "0", "kernel") if model.stem.startswith("deep") else ("conv1", "kernel")


def num_input_channels(model: ResNet, variables: Mapping[str, Any]) -> int:
    """Returns the channels C of the images (B, H, W, C) that the model's variables are for; 3 if they have no such
    kernel.
    """
    leaf: Any = variables.get("params")
    for name in stem_kernel(model):
        leaf = leaf.get(name) if isinstance(leaf, Mapping) else None
    shape: tuple[int, ...] = getattr(leaf, "shape", ())
    return shape[2] if len(shape) == 4 else RGB


@functools.lru_cache(maxsize=256)
def variable_shapes(model: ResNet, num_channels: int = RGB) -> dict[str, Any]:
    """Returns the result of `model.init`, with a jax.ShapeDtypeStruct for each array: {"params": ..., "batch_stats":
    ...}.

    Only the first two blocks of each stage are traced, so that a thousand layers take no longer than twenty.

    Do not change the result: it is kept for the next call.

    Args:
      num_channels: of the images.

    Raises:
      UserError: for arguments of which no network can be made, whose layers do not fit one another.
    """
    if num_channels != RGB:
        shapes = jax.tree.map(lambda leaf: leaf, variable_shapes(model))  # a copy
        *parents, name = stem_kernel(model)
        layer = functools.reduce(lambda tree, parent: tree[parent], parents, shapes["params"])
        height, width, _, features = layer[name].shape
        layer[name] = layer[name].update(shape=(height, width, num_channels, features))
        return shapes
    distinct = max(model.stage_sizes) if model.block_widths else DISTINCT_BLOCKS
    short = model.clone(stage_sizes=tuple(min(num_blocks, distinct) for num_blocks in model.stage_sizes))
    images = jax.ShapeDtypeStruct((1, 32, 32, RGB), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)  # nothing is compiled
    try:
        shapes = jax.eval_shape(lambda key, x: short.init(key, x, train=False), key, images)
    except (ValueError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"no network can be made of these arguments: {first_line(error)}") from error
    for tree in shapes.values():
        for i, num_blocks in enumerate(model.stage_sizes, 1):
            blocks = tree[f"layer{i}"]
            for j in range(distinct, num_blocks):
                blocks[str(j)] = blocks[str(distinct - 1)]
    return shapes
