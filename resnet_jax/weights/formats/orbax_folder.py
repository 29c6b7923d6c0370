"""Checkpoint folders that Orbax wrote for other programs, as flax.training.checkpoints does now: trees of arrays."""

from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.manifest import MANIFEST_FILE
from resnet_jax.checkpoint.serialization import read_tree
from resnet_jax.weights.formats.flax_names import name_variables
from resnet_jax.weights.formats.named_tensors import NamedTensors
from resnet_jax.weights.lazy_tensor import ArrayTensor, reading

# Of a tree of arrays; in a step of a CheckpointManager's it lies deeper, under one of these names.
METADATA = "_METADATA"
ITEMS = ("default", "state", "params")


def find_tree(path: Path) -> Path | None:
    """Returns the folder in `path` that has a tree of arrays, or `path` itself; None if there is none or it is ours."""
    if (path / MANIFEST_FILE).exists():
        return None
    folders = (path, *(path / item for item in ITEMS))
    return next((folder for folder in folders if (folder / METADATA).is_file()), None)


def open_orbax(path: Path, tree: Path) -> NamedTensors:
    """Returns the network's variables in the checkpoint at `path`, by names of torch.

    Args:
      tree: the folder that `find_tree` gave.

    Raises:
      UserError: if it is damaged.
    """
    arrays = read_tree(tree)
    with reading(path):
        return name_variables(_as_tensors(arrays))


def _as_tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _as_tensors(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return {str(i): _as_tensors(value) for i, value in enumerate(tree)}
    return ArrayTensor(tree) if hasattr(tree, "dtype") else tree
