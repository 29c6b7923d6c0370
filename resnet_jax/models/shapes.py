"""The shapes of a model's variables, without initialising or computing anything."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.resnet import ResNet

# A stage's blocks are alike from its second one on.
DISTINCT_BLOCKS = 2


@functools.lru_cache(maxsize=32)
def variable_shapes(model: ResNet) -> dict[str, Any]:
    """What `model.init` returns, with a jax.ShapeDtypeStruct for each array: {"params": ..., "batch_stats": ...}.

    Only the first two blocks of each stage are traced, so that a thousand layers take no longer than twenty. Do not
    change the result: it is kept for the next call.
    """
    short = model.clone(stage_sizes=tuple(min(num_blocks, DISTINCT_BLOCKS) for num_blocks in model.stage_sizes))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)  # nothing is compiled
    shapes = jax.eval_shape(lambda key, x: short.init(key, x, train=False), key, images)
    for tree in shapes.values():
        for i, num_blocks in enumerate(model.stage_sizes, 1):
            blocks = tree[f"layer{i}"]
            for j in range(DISTINCT_BLOCKS, num_blocks):
                blocks[str(j)] = blocks[str(DISTINCT_BLOCKS - 1)]
    return shapes
