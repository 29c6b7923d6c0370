"""The weights that a run begins from."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from resnet_jax.doctor.finding import Finding, ok
from resnet_jax.paths import expand
from resnet_jax.weights.load import open_weights


def check_weights(config: ConfigDict) -> Iterator[Finding]:
    """Whether the weights of config.finetune can be read. Raises UserError (a ValueError) as train if not."""
    if "finetune" not in config or not config.finetune.weights:
        return
    path = expand(config.finetune.weights)
    yield ok("weights", f"{path} holds {len(open_weights(path).tensors)} tensors")
