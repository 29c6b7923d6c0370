"""The residual networks in JAX: models, exact training, weights from and to PyTorch."""

from typing import TYPE_CHECKING, Any

from resnet_jax.models.variants import create_model, list_models

if TYPE_CHECKING:
    from resnet_jax.weights import load_preprocess, load_pretrained, load_weights, save_weights

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "create_model",
    "list_models",
    "load_preprocess",
    "load_pretrained",
    "load_weights",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    """The functions on weights, imported when the first is asked for: networks alone need no Pillow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnet_jax import weights

    return getattr(weights, name)
