"""Losses and accuracies of a batch of logits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError, check_choice

Array = jax.Array

# By the name that a config gives, and by torch's.
LOSSES = {"softmax": "softmax", "sigmoid": "sigmoid", "ce": "softmax", "bce": "sigmoid"}


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Returns the cross-entropy of each row, (B,), in nats.

    logits (B, K) float; labels (B,) int in [0, K), or (B, K) float, each row a distribution over the classes. A label
    outside gives NaN. label_smoothing s in [0, 1): of the target 1 - s is kept, and s / K added everywhere (Szegedy et
    al. 2015, arXiv:1512.00567; torch.nn.CrossEntropyLoss).
    """
    log_probabilities = jax.nn.log_softmax(logits)
    if labels.ndim == 2:
        smoothed = labels * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
        return -jnp.sum(smoothed * log_probabilities, axis=-1)
    # Beyond the last class NaN is read; a negative label would count from the end.
    labels = jnp.where(labels < 0, logits.shape[-1], labels)
    at_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1, mode="fill")[:, 0]
    if label_smoothing == 0.0:
        return -at_label
    return -(1.0 - label_smoothing) * at_label - label_smoothing * jnp.mean(log_probabilities, axis=-1)


def binary_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0, target_threshold: float = 0.0
) -> Array:
    """Returns the binary cross-entropy of each row, (B,), in nats: the mean over the classes, each by its own sigmoid.

    logits (B, K) float; labels (B,) int in [0, K), or (B, K) float in [0, 1] (torch.nn.BCEWithLogitsLoss). A label
    outside [0, K) gives NaN. target_threshold in [0, 1): where positive, targets above it count as 1 and the others as
    0, so that each of two mixed classes is fully there (Wightman et al. 2021, arXiv:2110.00476). label_smoothing s in
    [0, 1): of a target 1 - s is then kept, and s / K added everywhere (timm smooths first, so that its threshold undoes
    the smoothing).
    """
    num_classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    if target_threshold:
        targets = (targets > target_threshold).astype(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    losses = targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits)  # (B, K)
    losses = jnp.mean(losses, axis=-1)
    if labels.ndim == 2:
        return losses
    return jnp.where((labels >= 0) & (labels < num_classes), losses, jnp.nan)


@dataclass(frozen=True)
class Loss:
    """The training loss of each row: Loss("softmax")(logits (B, K), labels) -> (B,) in nats.

    Attributes:
      name: "softmax" (torch's "ce") or "sigmoid" ("bce"): `softmax_cross_entropy` or `binary_cross_entropy`, with
        their label_smoothing and, of the second, target_threshold.

    Raises:
      UserError: for other names and numbers outside [0, 1).
    """

    name: str = "softmax"
    label_smoothing: float = 0.0
    target_threshold: float = 0.0

    def __post_init__(self) -> None:
        check_choice("loss", self.name, LOSSES)
        for field in ("label_smoothing", "target_threshold"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"{field}={getattr(self, field)} must be in [0, 1)")
        if self.target_threshold and LOSSES[self.name] != "sigmoid":
            raise UserError(f"target_threshold={self.target_threshold} belongs to loss='sigmoid'")

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Returns the rows' losses, (B,)."""
        if LOSSES[self.name] == "softmax":
            return softmax_cross_entropy(logits, labels, self.label_smoothing)
        return binary_cross_entropy(logits, labels, self.label_smoothing, self.target_threshold)


def correct(logits: Array, labels: Array) -> Array:
    """Returns whether each row's largest logit is its label's, (B,) bool. logits (B, K); labels (B,) int, or (B, K)
    float, of which the largest counts.
    """
    labels = jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels
    return jnp.argmax(logits, axis=-1) == labels


def masked_mean(values: Array, mask: Array | None, axis_name: tuple[str, ...] = ()) -> Array:
    """Returns the mean of `values` (B,) over the rows whose mask (B,) is 1; over all rows if mask is None.

    Args:
      axis_name: mapped axes over which the rows are split: the result is then the share's part, to be averaged over
        them.
    """
    if mask is None:
        return jnp.mean(values)
    mask = mask.astype(values.dtype)
    count = jnp.sum(mask)
    return jnp.sum(jnp.where(mask > 0, values * mask, 0.0)) / (jax.lax.pmean(count, axis_name) if axis_name else count)


def check_labels(labels: Array, num_classes: int, mask: Array | None = None) -> None:
    """Raises UserError (a ValueError) for a label (B,) int outside [0, num_classes) whose mask (B,) is not 0.

    Under `jit` labels have no values yet, and of a global array a process sees but a part: nothing is checked, and the
    loss of such a label is NaN.
    """
    arrays = [array for array in (labels, mask) if isinstance(array, jax.Array)]
    if labels.ndim != 1 or any(isinstance(a, jax.core.Tracer) or not a.is_fully_addressable for a in arrays):
        return
    values = np.asarray(labels)
    wrong = (values < 0) | (values >= num_classes)
    if mask is not None:
        wrong &= np.asarray(mask) > 0
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"label {values[row]} of row {row} must be from 0 to {num_classes - 1}: count classes from 0")
