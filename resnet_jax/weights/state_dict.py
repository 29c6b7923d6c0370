"""The state_dict in what a weights file holds: found, unwrapped, and its tensors named as torchvision names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_jax.errors import UserError, truncate
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.lazy_tensor import StoredTensor, Unreadable
from resnet_jax.weights.names import COUNTERS, recognize_layout
from resnet_jax.weights.safetensors_file import SafetensorsTensor

# Under which names training scripts put the state_dict beside the optimizer's state, in order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
STORED = (StoredTensor, SafetensorsTensor)


class Tensor(Protocol):
    """A tensor in torch's order that may still be in its file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements."""

    def read(self) -> np.ndarray:
        """Returns its elements."""


@dataclass(frozen=True)
class RunCheckpoint:
    """Names what was read of a run: which step, and whether the moving average.

    Attributes:
      checkpoint: "newest" or "best"; "" where the step itself was named.
    """

    checkpoint: str
    step: int
    average: bool

    def __str__(self) -> str:
        weights = "the moving average of the weights" if self.average else "the weights themselves"
        which = f"{self.checkpoint} checkpoint, " if self.checkpoint else ""
        return f"{which}step {self.step}, {weights}"


@dataclass(frozen=True)
class StateDict:
    """Tensors by torchvision's names.

    Attributes:
      tensors: also what is no tensor, should a weight be expected in its place.
      originals: the names in the file, by torchvision's.
      num_counters: how many entries count batches or steps.
      taken: None if they are of no run.
    """

    tensors: dict[str, Tensor | Unreadable]
    originals: dict[str, str]
    num_counters: int
    format: str
    layout: str
    taken: RunCheckpoint | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that can be read."""
        return {name: tensor.shape for name, tensor in self.tensors.items() if not isinstance(tensor, Unreadable)}


def read_state_dict(path: Path) -> StateDict:
    """Returns the state_dict in a torch or safetensors file; no tensor is read yet.

    Raises:
      UserError: if the file is none, is damaged, or holds no state_dict.
    """
    file = open_weights_file(path)
    return name_tensors(path, _unwrap(path, file.root), file.format)


def name_tensors(path: Path, entries: Mapping[str, Any], kind: str) -> StateDict:
    """Returns the StateDict of a file's entries by their own names.

    `kind` is the file's format.

    Raises:
      UserError: if two of them have the same meaning.
    """
    kept = {name: _tensor(entry) for name, entry in entries.items() if not _is_counter(name, entry)}
    layout, renamed = recognize_layout(kept)
    tensors: dict[str, Tensor | Unreadable] = {}
    originals: dict[str, str] = {}
    for original, name in renamed.items():
        if name in tensors:
            raise UserError(
                f"{path} holds {truncate(name)} twice, as {truncate(originals[name])!r} and as {truncate(original)!r}"
            )
        tensors[name], originals[name] = kept[original], original
    return StateDict(tensors, originals, len(entries) - len(kept), kind, layout)


def _is_counter(name: Any, entry: Any) -> bool:
    """Returns whether this is no weight whatever the model: a counter, one number beside the weights, or without a
    name.
    """
    if not isinstance(name, str) or name.rpartition(".")[2] in COUNTERS:
        return True
    return "." not in name and getattr(entry, "shape", None) == ()


def _tensor(entry: Any) -> Tensor | Unreadable:
    """Returns `entry`, or what stands for it where it is no tensor."""
    if isinstance(entry, Unreadable) or hasattr(entry, "read"):
        return entry
    return Unreadable(f"a {type(entry).__name__}")


def _unwrap(path: Path, root: Any) -> dict[str, Any]:
    seen: set[int] = set()  # a damaged file may contain itself
    while isinstance(root, dict) and id(root) not in seen:
        seen.add(id(root))
        inner = next((root[name] for name in WRAPPERS if _holds_weights(root.get(name))), None)
        if inner is None:
            break
        root = inner
    if isinstance(root, Unreadable):
        raise UserError(f"{path} holds {root.what}, not a state_dict: save model.state_dict() instead")
    if not isinstance(root, dict):
        what = "a tensor" if isinstance(root, STORED) else "nothing" if root is None else f"a {type(root).__name__}"
        raise UserError(f"{path} holds {what}, not a state_dict: save model.state_dict() instead")
    if any(isinstance(value, STORED) for value in root.values()):
        return root
    for name, value in root.items():
        if isinstance(value, Unreadable) and name in WRAPPERS:
            raise UserError(
                f"{path} holds {value.what} under {name!r}, not a state_dict: save model.state_dict() instead"
            )
    for name, value in root.items():
        if isinstance(value, Unreadable):
            raise UserError(f"{path}: {truncate(name)} is {value.what}; a weight must be a plain tensor")
    keys = ", ".join(repr(truncate(name)) for name in list(root)[:5]) or "nothing"
    raise UserError(f"{path} holds no tensors under a known name; it has {keys}")


def _holds_weights(value: Any) -> bool:
    """Returns whether this may be the state_dict, or be around it: a dict with a tensor, or with another known name."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(entry, STORED) for entry in value.values()) or not value.keys().isdisjoint(WRAPPERS)
