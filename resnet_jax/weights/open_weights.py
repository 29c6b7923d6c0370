"""The tensors in a weights file or checkpoint directory, by torchvision's names; of a directory of convert or a run."""

from dataclasses import replace
from pathlib import Path

from resnet_jax.checkpoint.items import AVERAGE, JUDGED, NUM_LOOKS, VARIABLES
from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.checkpoint.serialization import read_item
from resnet_jax.checkpoint.weights_directory import find_checkpoint
from resnet_jax.errors import DamagedCheckpointError, UserError
from resnet_jax.weights.formats.orbax_folder import find_tree, open_orbax
from resnet_jax.weights.formats.refusals import refuse_folder
from resnet_jax.weights.lazy_tensor import ArrayTensor
from resnet_jax.weights.model_folder import is_model_folder
from resnet_jax.weights.names import torch_arrays
from resnet_jax.weights.state_dict import Choice, RunCheckpoint, StateDict, from_named, name_tensors, read_state_dict

# The beginning of the moving average's names in a run.
OF_AVERAGE = "ema_"


def open_weights(
    path: Path, which: str | None = None, *, average: bool = True, choice: Choice | None = None
) -> StateDict:
    """Returns the tensors in a weights file or checkpoint directory.

    Args:
      which, average: of a run, as `read_directory` takes them.
      choice: of a file, which network is meant.

    Raises:
      UserError: if it is neither.
    """
    if path.is_dir() and not is_model_folder(path):
        refuse_folder(path)
        if which is None and average and (tree := find_tree(path)) is not None:
            return from_named(path, open_orbax(path, tree), "orbax", choice)
        if choice is not None and choice != Choice():
            raise UserError(f"{path} is a folder of ours, of one network: leave out prefix= and use=")
        return read_directory(path, which, average=average)
    if which is not None or not average:
        raise UserError(f"--checkpoint and --no_average belong to a run's folder, and {path} is none: leave them out")
    return read_state_dict(path, choice)


def read_directory(path: Path, which: str | None = None, *, average: bool = True) -> StateDict:
    """Returns the tensors in a checkpoint directory: of convert's, of a step, or of a run or its `checkpoints` or
    `best`.

    Args:
      which: the "newest" or the "best" of a run's folder; None: the newest of what `path` is.
      average: of a run that keeps a moving average of its weights, take that.

    Raises:
      UserError: if there are none or they are damaged, and for a choice that there is not.
    """
    for _ in range(NUM_LOOKS - 1):
        folder = find_checkpoint(path, which)
        try:
            return _read_checkpoint(path, folder, average)
        except DamagedCheckpointError:
            if folder.is_dir():
                raise
    return _read_checkpoint(path, find_checkpoint(path, which), average)


def _read_checkpoint(path: Path, folder: Path, average: bool) -> StateDict:
    leaves = read_manifest(folder)["leaves"]
    if not average and AVERAGE not in leaves:
        raise UserError(f"{path} keeps no moving average: leave out --no_average")
    item, prefix = (AVERAGE, OF_AVERAGE) if average and AVERAGE in leaves else (VARIABLES, "")
    if item not in leaves:
        raise UserError(f"{folder} holds no weights")
    stored = read_item(folder / item, leaves[item])
    if JUDGED in leaves:
        stored |= {name: tree for name, tree in read_item(folder / JUDGED, leaves[JUDGED]).items() if name in stored}
    variables = {name.removeprefix(prefix): tree for name, tree in stored.items()}
    tensors = {name: ArrayTensor(array) for name, array in torch_arrays(variables).items()}
    state = name_tensors(path, tensors, "checkpoint")
    if not folder.name.isdecimal():
        return state
    which = "" if folder == path else "best" if folder.absolute().parent.name == "best" else "newest"
    return replace(state, taken=RunCheckpoint(which, int(folder.name), item == AVERAGE))
