"""Losses and accuracies of a batch of logits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError, check_choice

Array = jax.Array

# By the name that a config gives, and by torch's.
LOSSES = {"softmax": "softmax", "sigmoid": "sigmoid", "ce": "softmax", "bce": "sigmoid"}


def softmax_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0, class_weights: tuple[float, ...] = ()
) -> Array:
    """Returns the cross-entropy of each row, (B,), in nats.

    logits (B, K) float; labels (B,) int in [0, K), or (B, K) float, each row a distribution over the classes. A label
    outside gives NaN. label_smoothing s in [0, 1): of the target 1 - s is kept, and s / K added everywhere (Szegedy et
    al. 2015, arXiv:1512.00567; torch.nn.CrossEntropyLoss). class_weights, if any, (K,): each class's part of the
    cross-entropy is multiplied by its weight, as torch does.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    if class_weights:
        targets = _targets(labels, logits)
        smoothed = targets * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
        losses = -jnp.sum(jnp.asarray(class_weights, logits.dtype) * smoothed * log_probabilities, axis=-1)
        return _nan_outside(losses, labels, logits.shape[-1])
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
    targets = _targets(labels, logits)
    if target_threshold:
        targets = (targets > target_threshold).astype(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    return _nan_outside(jnp.mean(_binary_losses(logits, targets), axis=-1), labels, num_classes)


def multi_label_cross_entropy(
    logits: Array,
    labels: Array,
    label_smoothing: float = 0.0,
    target_threshold: float = 0.0,
    class_weights: tuple[float, ...] = (),
) -> Array:
    """Returns the binary cross-entropy of each row, (B,), in nats: the mean over labels that are there or not.

    logits (B, K) float; labels (B, K), 1 where the image has the label, between 0 and 1 where images are mixed.
    target_threshold as of `binary_cross_entropy`. label_smoothing s in [0, 1): of a target 1 - s is kept, and s / 2
    added, since a label is there or not: two classes. class_weights, if any, (K,): the mean is weighted by them.
    """
    targets = labels.astype(logits.dtype)
    if target_threshold:
        targets = (targets > target_threshold).astype(logits.dtype)
    losses = _binary_losses(logits, targets * (1.0 - label_smoothing) + label_smoothing / 2)
    if not class_weights:
        return jnp.mean(losses, axis=-1)
    weights = jnp.asarray(class_weights, logits.dtype)
    return jnp.sum(losses * weights, axis=-1) / jnp.sum(weights)


def _targets(labels: Array, logits: Array) -> Array:
    return labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def _binary_losses(logits: Array, targets: Array) -> Array:
    return targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits)  # (B, K)


def _nan_outside(losses: Array, labels: Array, num_classes: int) -> Array:
    """Returns the losses (B,), NaN where a label (B,) is outside [0, num_classes)."""
    if labels.ndim == 2:
        return losses
    return jnp.where((labels >= 0) & (labels < num_classes), losses, jnp.nan)


@dataclass(frozen=True)
class Loss:
    """The training loss of each row: Loss("softmax")(logits (B, K), labels) -> (B,) in nats.

    Attributes:
      name: "softmax" (torch's "ce") or "sigmoid" ("bce"): `softmax_cross_entropy` or `binary_cross_entropy`, with
        their label_smoothing and, of the second, target_threshold.
      class_weights: one a class, by which its images weigh in a batch's mean; () where all weigh the same.
      multi_label: labels are (B, K), 1 where the image has the label: `multi_label_cross_entropy`.

    Raises:
      UserError: for other names and numbers outside [0, 1), and several labels an image without "sigmoid".
    """

    name: str = "softmax"
    label_smoothing: float = 0.0
    target_threshold: float = 0.0
    class_weights: tuple[float, ...] = ()
    multi_label: bool = False

    def __post_init__(self) -> None:
        check_choice("loss", self.name, LOSSES)
        for field in ("label_smoothing", "target_threshold"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise UserError(f"{field}={getattr(self, field)} must be in [0, 1)")
        if self.target_threshold and LOSSES[self.name] != "sigmoid":
            raise UserError(f"target_threshold={self.target_threshold} belongs to loss='sigmoid'")
        if self.multi_label and LOSSES[self.name] != "sigmoid":
            raise UserError(f"loss={self.name!r} must be 'sigmoid' where an image may have several labels")

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Returns the rows' losses, (B,), multiplied by their weights."""
        options = self.label_smoothing, self.target_threshold
        if self.multi_label:
            return multi_label_cross_entropy(logits, labels, *options, self.class_weights)
        if LOSSES[self.name] == "softmax":
            return softmax_cross_entropy(logits, labels, self.label_smoothing, self.class_weights)
        losses, weights = binary_cross_entropy(logits, labels, *options), self.row_weights(logits, labels)
        return losses if weights is None else losses * weights

    @property
    def weighs_rows(self) -> bool:
        """True if rows weigh by their classes, not where an image has several labels, weighted among each other."""
        return bool(self.class_weights) and not self.multi_label

    def row_weights(self, logits: Array, labels: Array) -> Array | None:
        """Returns each row's weight in a mean, (B,): its class's, or the mean of those that are mixed by their shares.

        None where all weigh the same.
        """
        if not self.weighs_rows:
            return None
        return _targets(labels, logits) @ jnp.asarray(self.class_weights, logits.dtype)

    def accuracy(self, logits: Array, labels: Array) -> Array:
        """Returns each row's accuracy, (B,) in [0, 1]: `correct`, or the share of `correct_labels`."""
        if self.multi_label:
            return jnp.mean(correct_labels(logits, labels), axis=-1, dtype=logits.dtype)
        return correct(logits, labels).astype(logits.dtype)


def correct_labels(logits: Array, labels: Array) -> Array:
    """Returns of which labels it is rightly said that an image has them or not, (B, K) bool.

    A label counts as present if its probability, the logit's sigmoid, is above 1/2.

    Args:
      logits: (B, K).
      labels: (B, K); above 1/2 where the image has the label.
    """
    return (logits > 0) == (labels > 0.5)


def correct(logits: Array, labels: Array) -> Array:
    """Returns whether each row's largest logit is its label's, (B,) bool. logits (B, K); labels (B,) int, or (B, K)
    float, of which the largest counts.
    """
    labels = jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels
    return jnp.argmax(logits, axis=-1) == labels


def masked_mean(
    values: Array, mask: Array | None, axis_name: tuple[str, ...] = (), weights: Array | None = None
) -> Array:
    """Returns the mean of `values` (B,) over the rows whose mask (B,) is 1; over all rows if mask is None.

    Args:
      weights: (B,), by whose sum the sum is divided instead of by the number of rows; `values` hold them already.
      axis_name: mapped axes over which the rows are split: the result is then the share's part, to be averaged over
        them.
    """
    if mask is None and weights is None:
        return jnp.mean(values)
    mask = jnp.ones_like(values) if mask is None else mask.astype(values.dtype)
    count = jnp.sum(mask if weights is None else mask * weights)
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
