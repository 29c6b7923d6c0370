"""Losses and accuracies of a batch of logits."""

import jax
import jax.numpy as jnp

Array = jax.Array


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy of each row, (B,), in nats.

    logits (B, K) float; labels (B,) int in [0, K), or (B, K) float, each row a distribution over the classes.
    label_smoothing s in [0, 1): of the target 1 - s is kept, and s / K added everywhere (Szegedy et al. 2015,
    arXiv:1512.00567; torch.nn.CrossEntropyLoss).
    """
    log_probabilities = jax.nn.log_softmax(logits)
    if labels.ndim == 2:
        smoothed = labels * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
        return -jnp.sum(smoothed * log_probabilities, axis=-1)
    at_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    if label_smoothing == 0.0:
        return -at_label
    return -(1.0 - label_smoothing) * at_label - label_smoothing * jnp.mean(log_probabilities, axis=-1)


def correct(logits: Array, labels: Array) -> Array:
    """Whether each row's largest logit is its label's, (B,) bool. logits (B, K); labels (B,) int, or (B, K) float, of
    which the largest counts.
    """
    labels = jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels
    return jnp.argmax(logits, axis=-1) == labels


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Mean of `values` (B,) over the rows whose mask (B,) is 1; over all rows if mask is None."""
    if mask is None:
        return jnp.mean(values)
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.sum(mask)
