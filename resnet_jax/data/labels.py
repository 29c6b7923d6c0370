"""Labels as arrays, before any image is read: how many images a class has, its weight, a share stratified by class.

One label an image: (N,) int32 in [0, K). Several: (N, K) uint8, 1 where the image has the label.
"""

import numpy as np

from resnet_jax.errors import UserError


def is_multi_label(labels: np.ndarray | None) -> bool:
    """Returns whether the images have several labels each; False where labels (None) are only known when read."""
    return labels is not None and labels.ndim == 2


def check_multi_label(labels: np.ndarray | None, num_classes: int) -> None:
    """Raises UserError (a ValueError) unless labels of several an image are (N, num_classes) zeros and ones."""
    if labels is None or labels.ndim == 1:
        return
    if labels.shape[1:] != (num_classes,):
        raise UserError(f"labels of shape {labels.shape} must be (N, {num_classes}), a column for each class name")
    if labels.size and (labels.min() < 0 or labels.max() > 1):
        raise UserError(f"labels from {labels.min()} to {labels.max()} must be 0 or 1 where an image may have several")


def check_one_known_label(option: str, labels: np.ndarray | None, remedy: str) -> np.ndarray:
    """Returns `labels` if they are known and one an image, as an option needs them.

    Raises:
      UserError: that says so, and the remedy, if they are not.
    """
    if labels is None:
        raise UserError(
            f"{option} needs labels that are known before images are read, as a folder's, a table's or those of a set "
            f"in memory: {remedy}"
        )
    if labels.ndim == 2:
        raise UserError(f"{option} needs images of one label each, and these have several: {remedy}")
    return labels


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many images each class has, (num_classes,) int64; of several labels an image counts for each."""
    if labels.ndim == 2:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=num_classes)


def relabelled(labels: np.ndarray, positions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the labels where class k is `positions[k]` of num_classes.

    Args:
      positions: (K,) int32, of the classes that the labels are of.
    """
    if labels.ndim == 1:
        return positions[labels]
    moved = np.zeros((len(labels), num_classes), np.uint8)
    moved[:, positions] = labels
    return moved


def balanced_class_weights(labels: np.ndarray, class_names: tuple[str, ...]) -> tuple[float, ...]:
    """Returns N / (K * count) of each class, as scikit-learn's class_weight="balanced".

    Raises:
      UserError: if a class has no image.
    """
    counts = class_counts(labels, len(class_names))
    if not counts.all():
        name = class_names[int(np.argmin(counts))]
        raise UserError(
            f"config.class_weights='balanced' needs a training image of every class, and {name} has none: add some, "
            "or give numbers"
        )
    return tuple((len(labels) / (len(class_names) * counts)).tolist())


def stratified_quotas(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Returns how many images of each class are held out, (K,) int64: fraction * count, rounded by largest remainder.

    Together they are round(fraction * N), fewer only where more would take the last image of a class, which stays.

    Args:
      counts: (K,) images of each class.
      fraction: in [0, 1).
    """
    exact = counts * fraction
    most = np.maximum(counts - 1, 0)
    quotas = np.minimum(np.floor(exact).astype(np.int64), most)
    missing = round(int(counts.sum()) * fraction) - int(quotas.sum())
    while missing > 0 and (quotas < most).any():
        remainders = np.where(quotas < most, exact - quotas, -np.inf)
        chosen = np.argsort(-remainders, kind="stable")[: min(missing, int((quotas < most).sum()))]
        quotas[chosen] += 1
        missing -= len(chosen)
    return quotas


def stratified_share(labels: np.ndarray, num_classes: int, fraction: float, order: np.ndarray) -> np.ndarray:
    """Returns which images are held out, (N,) bool: of each class the first of `order`, as its quota says.

    Args:
      labels: (N,) int.
      order: a permutation of range(N).
    """
    counts = class_counts(labels, num_classes)
    quotas = stratified_quotas(counts, fraction)
    held_out = np.zeros(len(labels), bool)
    by_class = order[np.argsort(labels[order], kind="stable")]  # each class's images, as they come in `order`
    starts = np.cumsum(counts) - counts
    for start, quota in zip(starts.tolist(), quotas.tolist(), strict=True):
        held_out[by_class[start : start + quota]] = True
    return held_out
