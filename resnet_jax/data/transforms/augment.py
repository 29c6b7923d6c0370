"""Augmentation and normalisation of image batches, inside `jit`.

Random choices are keyed by (seed, epoch, image), so they depend neither on the batch nor on the devices; what mixes the
images of a batch is keyed by (seed, step).
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array

PADDING_MODES = {"zeros": "constant", "reflect": "reflect"}
ERASING_ATTEMPTS = 10
# Folded into a run's key, where an image's has its epoch; and into an image's, whose crop and flip are 0 and 1.
_BATCH, _FLIP, _ERASE, _CUTOUT = 2**31 - 1, 2**31 - 2, 2, 3


def image_keys(seed: int, epoch: Array, sample: Array) -> Array:
    """Returns one random key an image, (B,): a function of seed, epoch (B,) int and sample (B,) int."""
    key = jax.random.key(seed)
    return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i))(epoch, sample)


def batch_key(seed: int, step: Array) -> Array:
    """Returns the random key of choices that are made once for a batch: a function of seed and step () int."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _BATCH), step)


def alternating_flips(seed: int, epoch: Array, sample: Array) -> Array:
    """Returns which images are mirrored, (B,) bool, if each is in every second epoch (Jordan 2024, arXiv:2404.00498).

    In the first epoch an image's own coin decides; so two epochs in succession hold every image both ways.

    Args:
      seed: the run's.
      epoch, sample: (B,) int.
    """
    key = jax.random.fold_in(jax.random.key(seed), _FLIP)
    first = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(sample)
    return first ^ (epoch % 2 == 1)


def random_crop(key: Array, image: Array, padding: int, padding_mode: str = "zeros") -> Array:
    """Returns `image` (H, W, C), padded by `padding` pixels on every side and cut back at a uniformly random place.

    Args:
      padding_mode: "zeros" (black, before normalisation) or "reflect" (without repeating the border).
    """
    border = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, border, mode=PADDING_MODES[padding_mode])
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def random_flip(key: Array, image: Array) -> Array:
    """Returns `image` (H, W, C), mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def augment(
    keys: Array,
    images: Array,
    *,
    crop_padding: int = 0,
    crop_padding_mode: str = "zeros",
    flip: bool = False,
    flips: Array | None = None,
) -> Array:
    """Returns `images` (B, H, W, C), each cropped (if crop_padding > 0) and flipped (if `flip`) by its own key (B,).

    flips: (B,) bool, which are flipped, instead of by their keys.
    """

    def augment_one(key: Array, image: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        if crop_padding:
            image = random_crop(crop_key, image, crop_padding, crop_padding_mode)
        if flip and flips is None:
            image = random_flip(flip_key, image)
        return image

    images = jax.vmap(augment_one)(keys, images)
    if flip and flips is not None:
        images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
    return images


def normalize(images: Array, mean: ArrayLike, std: ArrayLike, dtype: str = "float32") -> Array:
    """Returns (images / 255 - mean) / std in `dtype`: (B, H, W, C) uint8 -> (B, H, W, C) float.

    Args:
      mean, std: in units of [0, 1]; per channel (C,) or, as He et al. do on CIFAR, per pixel (H, W, C).
    """
    scaled = images.astype(dtype) / 255
    return (scaled - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


def erase(
    keys: Array,
    images: Array,
    probability: float,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Array:
    """Returns random erasing (Zhong et al. 2017, arXiv:1708.04896) as torchvision's: a rectangle becomes 0.

    Args:
      images: (B, H, W, C), normalised, so that 0 is the mean; each by its own key (B,) with the given probability.
        The rectangle's share of the area is uniform in `scale`, its height by its width log-uniform in `ratio`, and it
        lies wholly inside; if none of ten drawn ones does, the image stays.
    """
    height, width = images.shape[1:3]

    def erase_one(key: Array, image: Array) -> Array:
        chance_key, area_key, ratio_key, place_key = jax.random.split(jax.random.fold_in(key, _ERASE), 4)
        attempts = (ERASING_ATTEMPTS,)
        area = height * width * jax.random.uniform(area_key, attempts, minval=scale[0], maxval=scale[1])
        shape = jnp.exp(jax.random.uniform(ratio_key, attempts, minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
        h, w = jnp.round(jnp.sqrt(area * shape)).astype(int), jnp.round(jnp.sqrt(area / shape)).astype(int)
        fits = (h < height) & (w < width)
        h, w = h[jnp.argmax(fits)], w[jnp.argmax(fits)]
        chosen = jax.random.bernoulli(chance_key, probability) & fits.any()
        place = jax.random.uniform(place_key, (2,))
        top, left = (place * jnp.stack([height - h + 1, width - w + 1])).astype(int)
        return jnp.where(chosen & _rectangle(height, width, top, left, h, w), 0, image)

    return jax.vmap(erase_one)(keys, images)


def cutout(keys: Array, images: Array, size: int) -> Array:
    """Applies cutout (DeVries & Taylor 2017, arXiv:1708.04552): a square around a uniformly drawn pixel becomes 0.

    Args:
      images: (B, H, W, C), normalised; each by its own key (B,).
      size: of the square in pixels a side; its part outside the image is lost.
    """
    height, width = images.shape[1:3]

    def cut_one(key: Array, image: Array) -> Array:
        row, column = jax.random.randint(jax.random.fold_in(key, _CUTOUT), (2,), 0, jnp.array([height, width]))
        return jnp.where(_rectangle(height, width, row - size // 2, column - size // 2, size, size), 0, image)

    return jax.vmap(cut_one)(keys, images)


def mix(
    key: Array, images: Array, targets: Array, mixup: float = 0.0, cutmix: float = 0.0, distance: int = 1
) -> tuple[Array, Array]:
    """Returns each image and its target mixed with the image and target `distance` places before, by one draw for the
    batch.

    Args:
      images: (B, H, W, C);
      targets: (B, K), each of sum 1, or of several labels an image 0 or 1 each.
      mixup: > 0: the parameter of Beta(mixup, mixup), which gives both images' shares
        (Zhang et al. 2017, arXiv:1710.09412). cutmix > 0: the parameter for the share of the area that is kept; the
        rest is a rectangle of the other image (Yun et al. 2019, arXiv:1905.04899). With both, a coin chooses.
    """
    if not mixup and not cutmix:
        return images, targets
    coin_key, mixup_key, cutmix_key, place_key = jax.random.split(key, 4)
    other, other_targets = jnp.roll(images, distance, axis=0), jnp.roll(targets, distance, axis=0)
    height, width = images.shape[1:3]
    results = []
    if mixup:
        share = jax.random.beta(mixup_key, mixup, mixup, dtype=images.dtype)
        results.append((images * share + other * (1 - share), share))
    if cutmix:
        area = jax.random.beta(cutmix_key, cutmix, cutmix, dtype=images.dtype)
        row, column = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]))
        half = 0.5 * jnp.sqrt(1 - area)
        half_height, half_width = (half * height).astype(int), (half * width).astype(int)
        inside = _rectangle(
            height, width, row - half_height, column - half_width, 2 * half_height, 2 * half_width
        )  # (H, W, 1)
        results.append((jnp.where(inside, other, images), 1 - jnp.mean(inside, dtype=images.dtype)))
    if len(results) == 1:
        mixed, share = results[0]
    else:
        coin = jax.random.bernoulli(coin_key)
        mixed, share = (jnp.where(coin, one, two) for one, two in zip(*results, strict=True))
    share = share.astype(targets.dtype)
    return mixed, targets * share + other_targets * (1 - share)


def _rectangle(height: int, width: int, top: Array, left: Array, h: Array | int, w: Array | int) -> Array:
    """Returns where a rectangle of h x w pixels from (top, left) on covers an image: (height, width, 1) bool."""
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    return (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
