"""Filters for a network's first convolution out of the training images, before the first step."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.data.source import Source

if TYPE_CHECKING:
    from resnet_jax.training.images import Normalization

NUM_IMAGES = 2000  # that the filters are made of
IMAGES_AT_A_TIME = 20  # of 224 x 224 their patches for a 7 x 7 convolution are 1.1 GB
SMALLEST = 1e-6  # variance of a component, by the largest: less is rounding


def whitening_filters(
    source: Source, normalization: "Normalization", kernel_size: tuple[int, int], num_filters: int
) -> np.ndarray:
    """Returns the principal components of the images' patches, the largest first, each also with the other sign.

    What they give is uncorrelated over the patches, and batch norm behind them makes its variances equal: whitened
    images (as arXiv:2404.00498 begins, there with the scale in the filters). Both signs, since a ReLU follows.

    Args:
      source: the training images; some 2,000 of them are read.
      normalization: what they are normalised by.
      kernel_size: (h, w) of the patches.
      num_filters: of the convolution.

    Returns:
      (h, w, C, K) float32 of norm sqrt(2), as He-normal filters have it on average; K is even and at most num_filters,
      or twice the components that there are.
    """
    num_parts = source.image_shape[-1] * kernel_size[0] * kernel_size[1]
    count, total, products = 0, np.zeros(num_parts), np.zeros((num_parts, num_parts))
    for indices in _evenly(len(source)):
        examples = source.read(indices)
        images = np.asarray(examples.image[examples.valid], np.float32) / 255
        images = (images - normalization.mean.astype(np.float32)) / normalization.std.astype(np.float32)
        patches = np.lib.stride_tricks.sliding_window_view(images, kernel_size, axis=(1, 2))  # (n, H', W', C, h, w)
        patches = patches.reshape(-1, num_parts).astype(np.float64)
        count, total, products = count + len(patches), total + patches.sum(axis=0), products + patches.T @ patches
    mean = total / count
    variances, components = np.linalg.eigh(products / count - np.outer(mean, mean))
    largest = np.argsort(variances)[::-1][: num_filters // 2]
    largest = largest[variances[largest] > SMALLEST * variances.max()]
    components = components[:, largest].T  # (K / 2, C * h * w)
    # An eigenvector's sign is the library's choice: its largest part is positive here.
    parts = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    components = components * np.sign(parts)
    filters = np.concatenate([components, -components]).reshape(-1, source.image_shape[-1], *kernel_size)
    return (np.sqrt(2.0) * filters).transpose(2, 3, 1, 0).astype(np.float32)


def _evenly(num_images: int) -> Iterator[np.ndarray]:
    """Yields the indices of at most NUM_IMAGES images from the whole set, some at a time: their patches are many."""
    indices = np.linspace(0, num_images - 1, min(NUM_IMAGES, num_images)).round().astype(int)
    yield from np.array_split(indices, -(-len(indices) // IMAGES_AT_A_TIME))
