"""The state_dict in what a weights file holds: found, unwrapped, and its tensors named as torchvision names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.names import COUNTERS, recognize_layout
from resnet_jax.weights.stored import StoredTensor, Unreadable

# Under which names training scripts put the state_dict beside the optimizer's state, in order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
MAX_WRAPPERS = 4


class Tensor(Protocol):
    """A tensor in torch's order that may still be in its file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements."""

    def read(self) -> np.ndarray:
        """Its elements."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by torchvision's names.

    tensors: also what is no tensor, should a weight be expected in its place. originals: the names in the file, by
    torchvision's. dropped: the names of counters and the like.
    """

    tensors: dict[str, Tensor | Unreadable]
    originals: dict[str, str]
    dropped: tuple[str, ...]
    format: str
    layout: str
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that can be read."""
        return {name: tensor.shape for name, tensor in self.tensors.items() if not isinstance(tensor, Unreadable)}


def read_state_dict(path: Path) -> StateDict:
    """The state_dict in a torch or safetensors file; no tensor is read yet.

    Raises UserError (a ValueError) if the file is none, is damaged, or holds no state_dict.
    """
    file = open_weights_file(path)
    return name_tensors(path, _unwrap(path, file.root), file.format, file.metadata)


def name_tensors(path: Path, entries: Mapping[str, Any], kind: str, metadata: Mapping[str, str]) -> StateDict:
    """The StateDict of a file's entries by their own names. `kind` is the file's format.

    Raises UserError (a ValueError) if two of them have the same meaning.
    """
    kept = {name: _tensor(entry) for name, entry in entries.items() if not _is_counter(name, entry)}
    layout, renamed = recognize_layout(kept)
    tensors: dict[str, Tensor | Unreadable] = {}
    originals: dict[str, str] = {}
    for original, name in renamed.items():
        if name in tensors:
            raise UserError(f"{path} holds {name} twice, as {originals[name]!r} and as {original!r}")
        tensors[name], originals[name] = kept[original], original
    dropped = tuple(str(name) for name in entries if name not in kept)
    return StateDict(tensors, originals, dropped, kind, layout, dict(metadata))


def _is_counter(name: Any, entry: Any) -> bool:
    """Whether this is no weight whatever the model: a counter, one number beside the weights, or without a name."""
    if not isinstance(name, str) or name.rpartition(".")[2] in COUNTERS:
        return True
    return "." not in name and getattr(entry, "shape", None) == ()


def _tensor(entry: Any) -> Tensor | Unreadable:
    """`entry`, or what stands for it where it is no tensor."""
    if isinstance(entry, Unreadable) or hasattr(entry, "read"):
        return entry
    return Unreadable(f"a {type(entry).__name__}")


def _unwrap(path: Path, root: Any) -> dict[str, Any]:
    for _ in range(MAX_WRAPPERS):
        if isinstance(root, Unreadable):
            raise UserError(f"{path} holds {root.what}, not a state_dict: save model.state_dict() instead")
        if not isinstance(root, dict):
            raise UserError(f"{path} holds a {type(root).__name__}, not a state_dict: save model.state_dict() instead")
        inner = next((name for name in WRAPPERS if isinstance(root.get(name), dict) and root[name]), None)
        if inner is None:
            break
        root = root[inner]
    if any(isinstance(value, StoredTensor) for value in root.values()):
        return root
    for name in WRAPPERS:
        if isinstance(root.get(name), Unreadable):
            raise UserError(
                f"{path} holds {root[name].what} under {name!r}, not a state_dict: save model.state_dict() instead"
            )
    for name, value in root.items():
        if isinstance(value, Unreadable):
            raise UserError(f"{path}: {name!r} is {value.what}; only strided tensors of numbers are read")
    keys = ", ".join(repr(str(name)[:40]) for name in list(root)[:5]) or "nothing"
    raise UserError(f"{path} holds no tensors under a known name; it has {keys}")
