"""The reference values in tests/golden, made with the real torchvision and torch.optim, and their weights by name."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from golden import weights

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    """The facts (json) and arrays (npz) of a golden file."""
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return facts, dict(arrays)


def images(facts, dtype, *, batch=None, seed=None):
    """The golden input as (B, H, W, 3)."""
    nchw = weights.images(batch or facts["batch"], facts["image_size"], facts["seed"] if seed is None else seed)
    return jnp.asarray(nchw.transpose(0, 2, 3, 1), dtype)


def to_jax(name, array):
    """A torch state_dict entry as (collection, path, array)."""
    *path, leaf = name.split(".")
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    leaf = {"weight": "kernel" if array.ndim > 1 else "scale", "running_mean": "mean", "running_var": "var"}.get(
        leaf, leaf
    )
    collection = "batch_stats" if leaf in ("mean", "var") else "params"
    return collection, (*path, leaf), array


def variables(state_dict, dtype, seed=0):
    """The golden weights for the names and shapes of a torch state_dict."""
    result = {"params": {}, "batch_stats": {}}
    for name, shape in state_dict.items():
        if name.endswith("num_batches_tracked"):
            continue
        collection, (*path, leaf), array = to_jax(name, weights.tensor(name, tuple(shape), seed))
        node = result[collection]
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = jnp.asarray(array, dtype)
    return result


def at(tree, path):
    """The leaf of a nested dict."""
    for part in path:
        tree = tree[part]
    return tree
