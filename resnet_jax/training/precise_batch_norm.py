"""Batch-norm statistics recomputed over training images ("precise BN", Wu and Johnson 2021, arXiv:2105.07576)."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet

Array = jax.Array


def precise_batch_stats(model: ResNet, variables: Mapping[str, Any], batches: Iterable[Array], seed: int = 0) -> Any:
    """Returns the mean, over `batches`, of each batch's own statistics, as torch.optim.swa_utils.update_bn computes it.

    Running statistics lag behind the weights, and a moving average of weights has an average over the past. These
    statistics belong to the weights as they are. The statistics of the model's `frozen_layers` stay.

    Args:
      variables: of `model`.
      batches: images (B, H, W, 3), normalised, augmented as in training.
      seed: of the dropout.

    Returns:
      The collection "batch_stats"; put it into `variables`.

    Raises:
      UserError: if there is no batch, or the model's statistics are frozen.
    """
    if model.batch_norm in ("frozen", "folded"):
        raise UserError(f"batch_norm={model.batch_norm!r} has no statistics to compute anew")
    model = model.clone(norm_momentum=0.0)  # what moves is then the batch's statistics alone
    total, num_batches = None, 0
    for images in batches:
        statistics = _batch_statistics(model, variables, images, jax.random.fold_in(jax.random.key(seed), num_batches))
        total = statistics if total is None else jax.tree.map(jax.numpy.add, total, statistics)
        num_batches += 1
    if total is None:
        raise UserError("precise batch-norm statistics need at least one batch of images")
    mean = jax.tree.map(lambda array: array / num_batches, total)
    return {**mean, **{name: variables.get("batch_stats", {})[name] for name in model.frozen_layers if name in mean}}


@partial(jax.jit, static_argnums=0)
def _batch_statistics(model: ResNet, variables: Mapping[str, Any], images: Array, dropout_key: Array) -> Any:
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key})
    return updated.get("batch_stats", {})
