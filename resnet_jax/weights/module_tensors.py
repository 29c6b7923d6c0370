"""The state_dict of a torch module that was pickled whole, read off its parts as data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.lazy_tensor import PickledObject

_MOST_DEEP = 64
_MOST_MODULES = 100_000


def module_tensors(path: Path, module: PickledObject) -> dict[str, Any]:
    """Returns torch's `module.state_dict()`: parameters and persistent buffers by their names, in its order.

    Args:
      path: of the file, for messages.

    Raises:
      UserError: for a module that holds itself, or more than any network has.
    """
    found: dict[str, Any] = {}
    for number, (prefix, one) in enumerate(_walk(path, module, "", 0)):
        if number > _MOST_MODULES:
            raise UserError(f"{path} is damaged or no checkpoint: its module has more than {_MOST_MODULES:,} modules")
        found.update(_own_tensors(prefix, one))
    return found


def _walk(path: Path, module: PickledObject, prefix: str, depth: int) -> Iterator[tuple[str, PickledObject]]:
    """Yields a module and all in it, each with what stands before its tensors' names."""
    if depth > _MOST_DEEP:
        raise UserError(f"{path} is damaged or no checkpoint: its modules hold one another")
    yield prefix, module
    modules = module.state.get("_modules")
    for name, child in modules.items() if isinstance(modules, dict) else ():
        if isinstance(name, str) and isinstance(child, PickledObject):
            yield from _walk(path, child, f"{prefix}{name}.", depth + 1)


def _own_tensors(prefix: str, module: PickledObject) -> dict[str, Any]:
    hidden = module.state.get("_non_persistent_buffers_set")
    found = {}
    for kind in ("_parameters", "_buffers"):
        tensors = module.state.get(kind)
        for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
            is_hidden = kind == "_buffers" and isinstance(hidden, set) and name in hidden
            if isinstance(name, str) and tensor is not None and not is_hidden:
                found[f"{prefix}{name}"] = tensor
    return found
