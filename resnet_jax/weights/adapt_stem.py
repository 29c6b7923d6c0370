"""The first convolution of a network for RGB images, made one for images of another number of channels."""

import math

import numpy as np

RGB = 3  # channels


def adapt_kernel(kernel: np.ndarray, num_channels: int) -> np.ndarray:
    """Returns a kernel (kh, kw, 3, F) as (kh, kw, num_channels, F), as timm adapts it.

    For one channel it is summed over its three: a grey image gives what it gave in three equal channels. For n it is
    repeated, red, green, blue, red …, and scaled by 3 / n, so that outputs stay about as large.
    """
    if num_channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeats = math.ceil(num_channels / RGB)
    repeated = np.tile(kernel, (1, 1, repeats, 1))[:, :, :num_channels]
    return repeated * np.asarray(RGB / num_channels, kernel.dtype)


def adaptation(path: object, num_channels: int) -> str:
    """Returns the change that `adapt_kernel` makes to the stem of the weights at `path`, in words."""
    how = "summed over them" if num_channels == 1 else f"repeated and scaled by {RGB}/{num_channels}"
    return f"the first convolution of {path} is for images of {RGB} channels: for {num_channels} it is {how}"
