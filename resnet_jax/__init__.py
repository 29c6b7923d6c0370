"""The residual networks in JAX: models, exact training, weights from and to PyTorch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.config import load_config
    from resnet_jax.models import create_model, list_models
    from resnet_jax.training.api import train
    from resnet_jax.weights import load_preprocess, load_pretrained, load_weights, save_weights

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "create_model",
    "list_models",
    "load_config",
    "load_preprocess",
    "load_pretrained",
    "load_weights",
    "save_weights",
    "train",
]
# Where each is, imported when it is asked for.
_MODULES = {
    **dict.fromkeys(("create_model", "list_models"), "models"),
    **dict.fromkeys(("load_preprocess", "load_pretrained", "load_weights", "save_weights"), "weights"),
    "load_config": "config",
    "train": "training.api",
}


def __dir__() -> list[str]:
    """Returns the public names, imported or not yet, and the subpackages that are imported."""
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING"})


def __getattr__(name: str) -> Any:
    """Returns the functions, imported when they are asked for: networks alone need no Pillow, and the doctor nothing
    at all.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"resnet_jax.{_MODULES[name]}"), name)
