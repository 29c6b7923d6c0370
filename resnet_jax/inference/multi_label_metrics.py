"""Evaluates a network on images with several labels, row by row: average precision, and the counts at a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.training.average_precision import average_precision, mean_average_precision

THRESHOLD = 0.5


def check_threshold(threshold: float | None) -> None:
    """Raises UserError (a ValueError) unless `threshold` is None or in (0, 1)."""
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise UserError(f"threshold={threshold} must be in (0, 1): a label is there where its probability is above it")


@dataclass(frozen=True)
class MultiLabelMetrics:
    """N images with their labels and a network's answers, in the order of their source.

    index (N,) int64: which images of the source; those that could not be read are left out. label (N, K) bool: which
    labels an image has. logit (N, K) and loss (N,) float: as `multi_label_eval_step` gives them.

    Attributes:
      class_names: of the labels.
      threshold: in (0, 1): a label counts as present if its probability, the logit's sigmoid, is above it.
    """

    index: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    loss: np.ndarray
    class_names: tuple[str, ...]
    threshold: float = THRESHOLD

    @classmethod
    def of_rows(
        cls, rows: Sequence[dict[str, np.ndarray]], class_names: tuple[str, ...], threshold: float = THRESHOLD
    ) -> "MultiLabelMetrics":
        """Returns the metrics of the "rows" of each batch of `multi_label_eval_step`, in order."""
        joined = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
        index = np.flatnonzero(joined["counted"])
        label, logit, loss = (joined[name][index] for name in ("label", "logit", "loss"))
        return cls(index, label > 0, logit, loss, class_names, threshold)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N, K) bool: which labels count as present."""
        return self.logit.astype(np.float64) > np.log(self.threshold) - np.log1p(-self.threshold)

    @cached_property
    def average_precision(self) -> np.ndarray:
        """(K,) float64 in [0, 1], by the logits; NaN of a label that no image has."""
        return average_precision(self.label, self.logit)

    @property
    def accuracy(self) -> float:
        """Share of (image, label) pairs of which it is rightly said whether the image has the label."""
        return float(np.mean(self.predicted == self.label))

    @property
    def exact_match_accuracy(self) -> float:
        """Share of images for which exactly their labels count as present."""
        return float(np.mean((self.predicted == self.label).all(axis=1)))

    def classes(self) -> list[dict[str, Any]]:
        """Returns {"class", "count", "average_precision", "precision", "recall", "f1"} of each label, in their order.

        count: images that have the label. precision: among images for which it counts as present, the share that have
        it. recall: among images that have it, the share for which it counts as present. f1: their harmonic mean, 0 if
        no decision that it is present is right. All at `threshold`; None if there is no image to take the share of.
        """
        counts, taken = self.label.sum(axis=0).tolist(), self.predicted.sum(axis=0).tolist()
        right = (self.label & self.predicted).sum(axis=0).tolist()
        return [
            {
                "class": name,
                "count": counts[k],
                "average_precision": float(self.average_precision[k]) if counts[k] else None,
                "precision": right[k] / taken[k] if taken[k] else None,
                "recall": right[k] / counts[k] if counts[k] else None,
                "f1": 2 * right[k] / (counts[k] + taken[k]) if counts[k] + taken[k] else None,
            }
            for k, name in enumerate(self.class_names)
        ]

    def summary(self, sums: dict[str, float | int]) -> dict[str, Any]:
        """Returns {"loss", "accuracy", "exact_match_accuracy", "map", "count", "threshold", "classes"}.

        map is the mean of the labels' average precisions, without labels that no image has; None if no label is left.

        Args:
          sums: loss and count as `evaluate` has summed them up.
        """
        return {
            "loss": sums["loss"],
            "accuracy": self.accuracy,
            "exact_match_accuracy": self.exact_match_accuracy,
            "map": mean_average_precision(self.average_precision) if self.label.any() else None,
            "count": sums["count"],
            "threshold": self.threshold,
            "classes": self.classes(),
        }

    def without_positives(self) -> list[str]:
        """Returns the labels that no image has, whose average precision is undefined."""
        return [self.class_names[k] for k in np.flatnonzero(~self.label.any(axis=0))]
