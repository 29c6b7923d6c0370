"""Weights from and to other frameworks, without them; knows nothing of training."""

from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.load import Report, import_weights, load_weights
from resnet_jax.weights.load_published import load_pretrained
from resnet_jax.weights.pretrained import fetch_pretrained
from resnet_jax.weights.read_info import load_preprocess, read_info
from resnet_jax.weights.save import save_weights

__all__ = [
    "Report",
    "WeightsInfo",
    "fetch_pretrained",
    "import_weights",
    "load_preprocess",
    "load_pretrained",
    "load_weights",
    "read_info",
    "save_weights",
]
