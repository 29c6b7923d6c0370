"""A file's tensors by torchvision's names and in torch's order, with what its framework's networks have in common."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnet_jax.errors import truncate

# Axes of our arrays in torch's order: (in, out) -> (out, in), HWIO -> OIHW.
TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """The content of a file of weights, translated.

    Attributes:
      tensors: by torchvision's names where they are known, else by their own.
      originals: the names in the file, by the names in `tensors`.
      layout: whose names they were.
      arguments: of `ResNet`, which every network of this layout has and no tensor shows.
      left: names in the file that are no part of the network.
      note: one line to say unless the order of colours is given; "" if there is none.
    """

    tensors: dict[str, Any]
    originals: dict[str, str]
    layout: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelsLast:
    """A tensor whose file has it in our order, shown in torch's: see TO_TORCH."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in torch's order."""
        shape = self.tensor.shape
        return tuple(shape[axis] for axis in TO_TORCH.get(len(shape), range(len(shape))))

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements."""
        return self.tensor.dtype

    def read(self) -> np.ndarray:
        """Returns its elements in torch's order."""
        array = self.tensor.read()
        return array.transpose(TO_TORCH.get(array.ndim, range(array.ndim)))


def translate(
    entries: Mapping[str, Any], rename: Callable[[str], str | None], layout: str, arguments: Mapping[str, Any]
) -> NamedTensors:
    """Returns the entries of a file, whose arrays are in our order, by torchvision's names.

    Args:
      rename: torchvision's name of an entry, by its name in the file; None if it is of no known module.

    Raises:
      ValueError: if two have the same.
    """
    tensors: dict[str, Any] = {}
    originals: dict[str, str] = {}
    for there, entry in entries.items():
        here = rename(there) or there
        if here in tensors:
            raise ValueError(f"it holds {truncate(here)} as {truncate(originals[here])} and as {truncate(there)}")
        tensors[here] = ChannelsLast(entry) if hasattr(entry, "read") else entry
        originals[here] = there
    return NamedTensors(tensors, originals, layout, arguments)


def any_match(names: Iterable[str], pattern: Any) -> bool:
    """Returns whether one of the names begins as the compiled pattern has it."""
    return any(pattern.match(name) for name in names)
