"""Augmentation and normalisation of image batches, inside `jit`.

Random choices are keyed by (seed, epoch, index of the image), so they depend neither on the batch nor on the devices.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array

PADDING_MODES = {"zeros": "constant", "reflect": "reflect"}


def image_keys(seed: int, epoch: Array, index: Array) -> Array:
    """One random key an image, (B,): a function of seed, epoch (B,) int and index (B,) int."""
    key = jax.random.key(seed)
    return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i))(epoch, index)


def random_crop(key: Array, image: Array, padding: int, padding_mode: str = "zeros") -> Array:
    """`image` (H, W, C), padded by `padding` pixels on every side and cut back at a uniformly random place.

    padding_mode: "zeros" (black, before normalisation) or "reflect" (without repeating the border).
    """
    border = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, border, mode=PADDING_MODES[padding_mode])
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def random_flip(key: Array, image: Array) -> Array:
    """`image` (H, W, C), mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def augment(
    keys: Array, images: Array, *, crop_padding: int = 0, crop_padding_mode: str = "zeros", flip: bool = False
) -> Array:
    """`images` (B, H, W, C), each cropped (if crop_padding > 0) and flipped (if `flip`) by its own key (B,)."""

    def augment_one(key: Array, image: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        if crop_padding:
            image = random_crop(crop_key, image, crop_padding, crop_padding_mode)
        if flip:
            image = random_flip(flip_key, image)
        return image

    return jax.vmap(augment_one)(keys, images)


def normalize(images: Array, mean: ArrayLike, std: ArrayLike, dtype: str = "float32") -> Array:
    """(images / 255 - mean) / std in `dtype`: (B, H, W, C) uint8 -> (B, H, W, C) float.

    mean, std: in units of [0, 1]; per channel (C,) or, as He et al. do on CIFAR, per pixel (H, W, C).
    """
    scaled = images.astype(dtype) / 255
    return (scaled - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)
