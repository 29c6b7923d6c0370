"""The residual networks in JAX: models, exact training, weights from and to PyTorch."""

from resnet_jax.models.variants import create_model, list_models

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models"]
