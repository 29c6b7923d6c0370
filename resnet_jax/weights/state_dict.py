"""The state_dict in what a weights file holds: found, unwrapped, and its tensors named as torchvision names them."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_jax.errors import UserError, check_choice, truncate
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.find_network import beside_network, find_network, name_head
from resnet_jax.weights.formats.hdf5_file import Hdf5Tensor
from resnet_jax.weights.formats.named_tensors import ChannelsLast, NamedTensors
from resnet_jax.weights.formats.npz_file import NpzTensor
from resnet_jax.weights.layouts import untold_arguments, untold_note
from resnet_jax.weights.lazy_tensor import ArrayTensor, PickledObject, StoredTensor, Unreadable
from resnet_jax.weights.module_tensors import module_tensors
from resnet_jax.weights.names import COUNTERS, recognize_layout
from resnet_jax.weights.safetensors_file import SafetensorsTensor

# Under which names training scripts put the state_dict beside the optimizer's state, in order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
# Under which they put a moving average of the weights.
AVERAGES = (
    "model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema", "ema_state",
    "averaged", "params_ema", "swa_state_dict", "swa_model_state_dict", "model_swa", "swa_model",
)  # fmt: skip
USES = ("weights", "ema")
_OPTIMIZER = re.compile(r"(optim(izer)?s?|opt|lr_sched\w*|sched\w*)(_|$)")
_MOMENTS = {"exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg"}
STRUCTURE = "structure"  # the layout that has no names
logger = logging.getLogger(__name__)
STORED = (StoredTensor, SafetensorsTensor, ArrayTensor, NpzTensor, Hdf5Tensor, ChannelsLast)


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
    """Names the part of a run that was read: its step, and whether it is the moving average.

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
      prefix: what stood before all of their names in the file.
      left: the names in the file of tensors that are no part of the network.
      entries: all but the counters, by their names in the file and in its order.
      bgr: the network takes blue first, and is to be made one for red first.
      taken: None if they are of no run.
      arguments: of `ResNet`, that a network with such weights has and its tensors do not show.
    """

    tensors: dict[str, Tensor | Unreadable]
    originals: dict[str, str]
    num_counters: int
    format: str
    layout: str
    prefix: str = ""
    left: list[str] = field(default_factory=list)
    entries: dict[str, Tensor | Unreadable] = field(default_factory=dict)
    bgr: bool = False
    taken: RunCheckpoint | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that can be read."""
        return _shapes(self.tensors)


@dataclass(frozen=True)
class Choice:
    """Which network of a file is meant, where it holds several.

    Attributes:
      prefix: of its names; None: it is the only one.
      use: "weights" or "ema", their moving average; None: the weights, if both are there.
      layout: "structure" to match tensors whatever their names (`match_structure`); None: by the names that are known.
      bgr: the network takes blue, green and red in this order, as OpenCV reads them: it is made one for red first.
    """

    prefix: str | None = None
    use: str | None = None
    bgr: bool = False
    layout: str | None = None


def read_state_dict(path: Path, choice: Choice | None = None) -> StateDict:
    """Returns the state_dict in a file of weights; of most kinds no tensor is read yet.

    Raises:
      UserError: if the file is none, is damaged, or holds no state_dict.
    """
    choice = choice or Choice()
    check_choice("use", choice.use or USES[0], USES)
    file = open_weights_file(path)
    if file.named is not None:
        return from_named(path, file.named, file.format, choice)
    return name_tensors(path, _unwrap(path, file.root, choice.use), file.format, choice)


def from_named(path: Path, named: NamedTensors, kind: str, choice: Choice | None = None) -> StateDict:
    """Returns the tensors of another framework's file or folder, with the names that they have there.

    `kind` is its format.

    Raises:
      UserError: as `read_state_dict`.
    """
    choice = choice or Choice()
    state = name_tensors(path, _unwrap(path, named.tensors, choice.use), kind, choice)
    if named.note and not state.bgr:
        logger.warning(f"{path}: {named.note}")
    return replace(
        state,
        layout=state.layout if state.layout == STRUCTURE else named.layout or state.layout,
        originals={name: named.originals.get(there, there) for name, there in state.originals.items()},
        left=[*(named.originals.get(name, name) for name in state.left), *named.left],
        arguments={**state.arguments, **named.arguments},
    )


def name_tensors(path: Path, entries: Mapping[str, Any], kind: str, choice: Choice | None = None) -> StateDict:
    """Returns the StateDict of a file's entries by their own names.

    `kind` is the file's format.

    Raises:
      UserError: if two of them have the same meaning.
    """
    choice = choice or Choice()
    kept = {name: _tensor(entry) for name, entry in entries.items() if not _is_counter(name, entry)}
    num_counters = len(entries) - len(kept)
    if choice.layout == STRUCTURE:
        prefix = f"{choice.prefix.strip('.')}." if choice.prefix else ""
        inside = {name: tensor for name, tensor in kept.items() if name.startswith(prefix)}
        left = [name for name in kept if name not in inside]
        originals = {name: name for name in inside}
        return StateDict(inside, originals, num_counters, kind, STRUCTURE, prefix, left, inside, choice.bgr)
    found = find_network(str(path), kept, choice.prefix)
    inner = found.names if found else {name: name for name in kept}
    layout, renamed = recognize_layout(inner, has_prefix=found is None)
    tensors: dict[str, Tensor | Unreadable] = {}
    originals = {}
    for short, name in renamed.items():
        if name in tensors:
            first, second = truncate(originals[name]), truncate(inner[short])
            raise UserError(f"{path} holds {truncate(name)} twice, as {first!r} and as {second!r}")
        tensors[name], originals[name] = kept[inner[short]], inner[short]
    left = found.left if found else []
    if found:
        _name_head(tensors, originals, {name: kept[name] for name in left})
        taken = {*originals.values()}
        left = [name for name in left if name not in taken]
        for name in beside_network(_shapes(tensors)):
            left.append(originals.pop(name))
            del tensors[name]
    prefix = found.prefix if found else ""
    if not choice.bgr and (note := untold_note(inner)):
        logger.warning(f"{path}: {note}")
    arguments = untold_arguments(inner)
    return StateDict(
        tensors, originals, num_counters, kind, layout, prefix, left, kept, choice.bgr, arguments=arguments
    )


def _name_head(tensors: dict[str, Any], originals: dict[str, str], others: Mapping[str, Any]) -> None:
    """Renames the head to fc, wherever it was: among the network's `tensors`, or among `others` of the file."""
    for name, there in name_head(_shapes(tensors), _shapes(others)).items():
        if there in tensors:
            tensors[name], originals[name] = tensors.pop(there), originals.pop(there)
        else:
            tensors[name], originals[name] = others[there], there


def _shapes(tensors: Mapping[str, Tensor | Unreadable]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items() if not isinstance(tensor, Unreadable)}


def _is_counter(name: Any, entry: Any) -> bool:
    """Returns whether this is no weight whatever the model: a counter, one number beside the weights, or without a
    name.
    """
    if not isinstance(name, str) or name.rpartition(".")[2] in COUNTERS:
        return True
    return "." not in name and getattr(entry, "shape", None) == ()


def _tensor(entry: Any) -> Tensor | Unreadable:
    """Returns `entry`, or its stand-in if it is no tensor."""
    if isinstance(entry, Unreadable) or hasattr(entry, "read"):
        return entry
    return Unreadable(f"a {type(entry).__name__}")


def _unwrap(path: Path, root: Any, use: str | None = None) -> dict[str, Any]:
    seen: set[int] = set()  # a damaged file may contain itself
    while isinstance(root, dict | PickledObject) and id(root) not in seen:
        seen.add(id(root))
        if isinstance(root, PickledObject):
            if root.state:
                logger.info(f"{path} holds {root.what}, whole: its tensors are taken, and nothing of it is executed")
                root = module_tensors(path, root)
            break
        weights = next((name for name in WRAPPERS if _holds_weights(root.get(name))), None)
        average = next((name for name in AVERAGES if _holds_weights(root.get(name))), None)
        if average is not None and weights is None and use == "weights":
            raise UserError(
                f"{path} holds the moving average of the weights alone: leave out use='weights' (convert --use)"
            )
        if average is not None and (use == "ema" or weights is None):
            logger.info(f"{path}: the moving average of the weights is taken, {average}")
            weights, use = average, None
        elif average is not None and use is None:
            logger.info(
                f"{path}: the weights themselves are taken, {weights}; use='ema' (convert --use ema) takes {average}"
            )
        if weights is None:
            root = _several(root)
            break
        root = root[weights]
    if use == "ema":
        inside = sorted({str(name).partition(".")[0] for name in root}) if isinstance(root, dict) else []
        named = next((name for name in inside if "ema" in name.split("_")), None)
        advice = f": it is a part of the weights, prefix={named!r} (convert --prefix)" if named else ""
        raise UserError(
            f"{path} holds no moving average beside its weights: leave out use='ema' (convert --use ema){advice}"
        )
    if isinstance(root, Unreadable):
        raise UserError(f"{path} holds {root.what}, not a state_dict: save model.state_dict() instead")
    if not isinstance(root, dict):
        what = "a tensor" if isinstance(root, STORED) else "nothing" if root is None else f"a {type(root).__name__}"
        raise UserError(f"{path} holds {what}, not a state_dict: save model.state_dict() instead")
    if _holds_tensors(root):
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


def _several(root: dict[str, Any]) -> dict[str, Any]:
    """Returns a dict of state_dicts under unknown names, as student and teacher, as one whose names begin with these;
    itself if it holds tensors, or no such dicts.

    Those that lie deeper count where none lies in it itself, but what belongs to an optimizer.
    """
    if _holds_tensors(root):
        return root
    inside = {name: value for name, value in root.items() if isinstance(value, dict) and _holds_tensors(value)}
    inside = inside or _inside(root)
    return {f"{name}.{key}": entry for name, value in inside.items() for key, entry in value.items()} or root


def _inside(root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the dicts of tensors at any depth, by their path with dots, but an optimizer's."""
    found: dict[str, dict[str, Any]] = {}
    seen = {id(root)}  # a damaged file may contain itself
    waiting = [(str(name), value) for name, value in root.items()]
    while waiting:
        path, value = waiting.pop(0)
        if not isinstance(value, dict) or id(value) in seen or _OPTIMIZER.match(path.rpartition(".")[2].lower()):
            continue
        seen.add(id(value))
        if _holds_tensors(value):
            found |= {} if not {*map(str, value)}.isdisjoint(_MOMENTS) else {path: value}
        else:
            waiting += [(f"{path}.{name}", inner) for name, inner in value.items()]
    return found


def _holds_weights(value: Any) -> bool:
    """Returns whether this may be the state_dict, or be around it: a dict with a tensor, or with another known name."""
    if isinstance(value, PickledObject):
        return bool(value.state)
    if not isinstance(value, dict):
        return False
    return _holds_tensors(value) or not value.keys().isdisjoint(WRAPPERS)


def _holds_tensors(value: dict[str, Any]) -> bool:
    return any(isinstance(entry, STORED) for entry in value.values())
