"""Checkpoint directories: a run's, or those that the convert command writes."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.weights.names import torch_arrays
from resnet_jax.weights.state_dict import StateDict, name_tensors
from resnet_jax.weights.target import PARTIAL, check_parents, making_parents

# As in a training checkpoint, where the optimizer's state lies beside it; and there, if the run has them, the moving
# average of the weights with its names for them, and the statistics computed anew before the model was judged.
VARIABLES = "variables"
AVERAGE = "average"
JUDGED = "judged"
OF_AVERAGE = "ema_"
INFO_FILE = "weights.json"


@dataclass(frozen=True)
class ArrayTensor:
    """A tensor in torch's order that is in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements."""
        return self.array.dtype

    def read(self) -> np.ndarray:
        """Its elements."""
        return self.array


def read_directory(path: Path) -> StateDict:
    """The tensors in a checkpoint directory: of convert's, of a step, or of a run or its `checkpoints` or `best`.

    Of several steps the newest; of a run that keeps a moving average of its weights, that. Raises UserError (a
    ValueError) if there are none or they are damaged.
    """
    folder = find_variables(path)
    prefix = ""
    if (average := folder.with_name(AVERAGE)).is_dir():
        folder, prefix = average, OF_AVERAGE
    stored = _read_item(folder)
    if (judged := folder.with_name(JUDGED)).is_dir():
        stored |= {name: tree for name, tree in _read_item(judged).items() if name in stored}
    variables = {name.removeprefix(prefix): tree for name, tree in stored.items()}
    tensors = {name: ArrayTensor(array) for name, array in torch_arrays(variables).items()}
    return name_tensors(path, tensors, "checkpoint")


def _read_item(folder: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    with _one_line(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def find_variables(path: Path) -> Path:
    """The folder of the variables in a checkpoint directory, as `read_directory` takes it."""
    for folder in (path, path / "checkpoints"):
        if (folder / VARIABLES).is_dir():
            return folder / VARIABLES
        steps = [step for step in folder.glob("*") if step.name.isdecimal() and (step / VARIABLES).is_dir()]
        if steps:
            return max(steps, key=lambda step: int(step.name)) / VARIABLES
    raise UserError(f"{path} is no checkpoint directory: it has no {VARIABLES}/, and no checkpoints/ with one")


def write_directory(path: Path, variables: Mapping[str, Any], info: str) -> None:
    """Writes the variables and `info` (JSON) as a checkpoint directory, which appears at once when it is whole.

    An earlier one at `path` is replaced; anything else there is a UserError (a ValueError), as is a full disk.
    """
    path = path.resolve()
    check_replaceable(path)
    import orbax.checkpoint as ocp

    with (
        _one_line(path),
        making_parents(path),
        tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, ignore_cleanup_errors=True
        ) as scratch,
    ):
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new / VARIABLES, jax.tree.map(np.asarray, dict(variables)))
        (new / INFO_FILE).write_text(info)
        if path.exists():
            path.replace(old)
        try:
            new.replace(path)
        except BaseException:
            old.replace(path)
            raise


def check_replaceable(path: Path) -> None:
    """Raise UserError (a ValueError) if something other than converted weights is at `path`, or it cannot be made."""
    check_parents(path)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        others = sorted(names - {VARIABLES, INFO_FILE})
        if others or len(names) == 1:
            raise UserError(
                f"{path} holds {(others or sorted(names))[0]!r}, no converted weights: choose another folder"
            )
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another name for the folder, or end the name with .safetensors")


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Orbax's many-line errors as one line."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise nearly every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read or written as a checkpoint: {reason}") from error
