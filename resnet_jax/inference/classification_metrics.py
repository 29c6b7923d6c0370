"""Evaluates a network on labelled images, row by row: accuracies, confusions, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

TOP = 5  # classes, among which top-5 accuracy looks for the label
NUM_BINS = 15  # of the calibration error, as Guo et al. 2017 have it


@dataclass(frozen=True)
class ClassificationMetrics:
    """N images with their labels and a network's answers, in the order of their source.

    index (N,) int64: which images of the source; those that could not be read are left out. label, predicted, rank (N,)
    int32, confidence and loss (N,) float: as `per_example_eval_step` gives them.

    Attributes:
      class_names: of labels 0, 1, ...
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of_rows(cls, rows: Sequence[dict[str, np.ndarray]], class_names: tuple[str, ...]) -> "ClassificationMetrics":
        """Returns the metrics of the "rows" of each batch of `per_example_eval_step`, in order."""
        joined = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
        index = np.flatnonzero(joined.pop("counted"))
        return cls(index=index, **{name: values[index] for name, values in joined.items()}, class_names=class_names)

    @cached_property
    def confusion(self) -> np.ndarray:
        """(K, K) int64: how often an image of the row's class was taken for the column's."""
        num_classes = len(self.class_names)
        pairs = self.label.astype(np.int64) * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    @property
    def top5_accuracy(self) -> float | None:
        """Share of images whose label is among the five largest logits, in [0, 1]; None of five classes or fewer."""
        return float(np.mean(self.rank < TOP)) if len(self.class_names) > TOP else None

    @property
    def balanced_accuracy(self) -> float:
        """The mean, over the classes that occur, of the share of a class's images that are recognised, in [0, 1]."""
        counts, hits = (np.bincount(labels) for labels in (self.label, self.label[self.label == self.predicted]))
        occurs = counts > 0
        return float(np.mean(np.pad(hits, (0, len(counts) - len(hits)))[occurs] / counts[occurs]))

    @cached_property
    def calibration(self) -> list[dict[str, float]]:
        """{"from", "to", "count", "confidence", "accuracy"} of each of 15 bins of the largest probability.

        The bins (from, to] are equally wide; confidence and accuracy are their means, 0 in an empty bin.
        """
        confidence = self.confidence.astype(np.float64)
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
        counts = np.bincount(bins, minlength=NUM_BINS)
        divisors = np.maximum(counts, 1)
        confidences = np.bincount(bins, confidence, minlength=NUM_BINS) / divisors
        accuracies = np.bincount(bins, self.rank == 0, minlength=NUM_BINS) / divisors
        return [
            {"from": i / NUM_BINS, "to": (i + 1) / NUM_BINS, "count": int(count), "confidence": mean, "accuracy": share}
            for i, (count, mean, share) in enumerate(
                zip(counts, confidences.tolist(), accuracies.tolist(), strict=True)
            )
        ]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1]: how far confidence and accuracy are apart in a bin, averaged over
        the images (Guo et al. 2017, arXiv:1706.04599).
        """
        gaps = (bin["count"] * abs(bin["confidence"] - bin["accuracy"]) for bin in self.calibration)
        return sum(gaps) / len(self.label)

    def classes(self) -> list[dict[str, Any]]:
        """Returns {"class", "count", "correct", "accuracy", "precision", "confusion"} of each class, in the order of
        labels.

        accuracy: the share of its images that were recognised (recall); precision: the share of those taken for it that
        are of it; None where there are none. confusion: the class that it was taken for most often, None if never.
        """
        num_classes = len(self.class_names)
        counts, taken, right = (
            np.bincount(labels, minlength=num_classes).tolist()
            for labels in (self.label, self.predicted, self.label[self.rank == 0])
        )
        confusions: dict[int, str] = {}
        for label, predicted, _ in self.confused_pairs():
            confusions.setdefault(label, self.class_names[predicted])
        return [
            {
                "class": name,
                "count": counts[i],
                "correct": right[i],
                "accuracy": right[i] / counts[i] if counts[i] else None,
                "precision": right[i] / taken[i] if taken[i] else None,
                "confusion": confusions.get(i),
            }
            for i, name in enumerate(self.class_names)
        ]

    def confused_pairs(self) -> list[tuple[int, int, int]]:
        """Returns (label, predicted, count) of every confusion, the most frequent first."""
        wrong = self.rank > 0
        pairs = self.label[wrong].astype(np.int64) * len(self.class_names) + self.predicted[wrong]
        places, counts = np.unique(pairs, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*divmod(int(places[i]), len(self.class_names)), int(counts[i])) for i in order]

    def mistakes(self, num_mistakes: int) -> np.ndarray:
        """Returns the rows (n,) int64 that were classified wrongly, the most confident first."""
        wrong = np.flatnonzero(self.rank > 0)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:num_mistakes]

    def summary(self, sums: dict[str, float | int]) -> dict[str, Any]:
        """Returns {"loss", "accuracy", "balanced_accuracy", "top5_accuracy", "count", "calibration_error", "classes"}.

        See the properties.

        Args:
          sums: loss, accuracy and count as `evaluate` has summed them up. top5_accuracy is left out where it is None.
        """
        top5 = {} if self.top5_accuracy is None else {"top5_accuracy": self.top5_accuracy}
        return {
            "loss": sums["loss"],
            "accuracy": sums["accuracy"],
            "balanced_accuracy": self.balanced_accuracy,
            **top5,
            "count": sums["count"],
            "calibration_error": self.calibration_error,
            "classes": [
                {key: row[key] for key in ("class", "count", "accuracy", "precision")} for row in self.classes()
            ],
        }
