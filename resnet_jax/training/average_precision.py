"""Average precision: how well scores rank the images that have a label before those that have not."""

import numpy as np


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns each class's average precision, (K,) float64 in [0, 1], as scikit-learn's `average_precision_score`.

    The sum over thresholds of precision there times what recall gains there; images of equal scores pass a threshold
    together. NaN of a class that no image has, where it is undefined, and where a score is not a number.

    Args:
      labels: (N, K), 1 where the image has the label.
      scores: (N, K), the higher the more likely.
    """
    return np.array([_of_one(labels[:, k] > 0, scores[:, k]) for k in range(labels.shape[1])])


def mean_average_precision(values: np.ndarray) -> float:
    """Returns the mean of the classes' average precisions (K,), without those that are undefined; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _of_one(is_positive: np.ndarray, scores: np.ndarray) -> float:
    num_positives = int(is_positive.sum())
    if not num_positives or np.isnan(scores).any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(is_positive[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last image of each distinct score
    gains = np.diff(hits[ends], prepend=0)
    return float(np.sum(hits[ends] / (ends + 1) * gains) / num_positives)
