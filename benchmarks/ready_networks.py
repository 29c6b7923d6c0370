"""Prints, for every network of the list, how far its ready form answers from the folded network, at its own image size.

    python benchmarks/ready_networks.py [NAME ...]      # ten minutes and 12 GB for all

Weights are He-normal, statistics and biases random; the difference is the largest of a logit by the largest logit, both
in float32. Networks that are not made ready (group norm, blurred strides, efficient channel attention) say why.
"""

import gc
import sys
from typing import Any

import jax
import numpy as np

from resnet_jax.inference.ready.apply import make_ready
from resnet_jax.inference.ready.trace import UnknownOperationError
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.models.variants import create_model, default_image_size, list_models


def random_variables(shapes: Any, num_blocks: int) -> Any:
    """Returns float32 arrays of these shapes, such that a network of so many blocks stays finite and conditioned."""
    rng = np.random.default_rng(0)
    branch = min(1.0, 20 / num_blocks)  # the sums of six hundred branches would overflow

    def make(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            fan_in = int(np.prod(leaf.shape[:-1]))
            # Gates that saturate make a hundred layers chaotic: float32 itself is then 0.4 from float64.
            gain = 0.001 if any(key.key == "se" for key in path) else 1.0
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(gain * np.sqrt(2 / fan_in))
        if name in ("var", "scale"):
            least, factor = (0.5, 1.0) if name == "var" else (0.25, branch)
            return (factor * rng.uniform(least, least + 1, leaf.shape)).astype(np.float32)
        return 0.1 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(make, shapes)


def difference(name: str) -> float:
    """Returns how far the ready network's logits are from the folded one's, by the largest of these.

    Raises:
      UnknownOperationError: if the network is not made ready.
    """
    model, side = create_model(name), default_image_size(name)
    variables = random_variables(variable_shapes(model), sum(model.stage_sizes))
    images = np.random.default_rng(1).standard_normal((1, side, side, 3), np.float32)
    folded, arrays = fold_batch_norm(model, variables)
    expected = np.asarray(jax.jit(lambda a, x: folded.apply(a, x, train=False))(arrays, images))
    ready = make_ready(folded, arrays, images.shape)(images)
    return float(np.abs(ready - expected).max() / np.abs(expected).max())


def main(names: list[str]) -> int:
    """Prints a line for each network."""
    for name in names or list_models():
        try:
            line = f"{difference(name):.1e}"
        except UnknownOperationError as error:
            line = f"not made ready: {error}"
        print(f"{name:<32} {line}", flush=True)
        jax.clear_caches()
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
