"""Augmentation and normalisation inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import augment, image_keys, normalize, random_crop, random_flip

IMAGE = jnp.arange(1, 5 * 5 * 2 + 1, dtype=jnp.uint8).reshape(5, 5, 2)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_crops_are_every_window_of_the_padded_image_equally_often(mode, numpy_mode):
    crops = np.asarray(jax.jit(jax.vmap(lambda key: random_crop(key, IMAGE, 1, mode)))(keys(1800)))
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)), mode=numpy_mode)
    windows = [padded[i : i + 5, j : j + 5].tobytes() for i in range(3) for j in range(3)]
    counts = np.array([sum(crop.tobytes() == window for crop in crops) for window in windows])
    assert counts.sum() == 1800
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)


def test_half_of_the_images_are_mirrored():
    flipped = np.asarray(jax.jit(jax.vmap(lambda key: random_flip(key, IMAGE)))(keys(1000)))
    mirrored = (flipped == IMAGE[:, ::-1]).all((1, 2, 3))
    assert ((flipped == IMAGE).all((1, 2, 3)) | mirrored).all()
    assert abs(mirrored.sum() - 500) < 5 * np.sqrt(250)


def test_an_image_is_augmented_alike_in_any_batch():
    images = jax.random.randint(jax.random.key(1), (6, 8, 8, 3), 0, 256).astype(jnp.uint8)
    index, epoch = jnp.arange(6), jnp.full(6, 3)

    @jax.jit
    def run(rows):
        return augment(image_keys(5, epoch[rows], index[rows]), images[rows], crop_padding=2, flip=True)

    whole = run(jnp.arange(6))
    np.testing.assert_array_equal(run(jnp.array([4, 1])), whole[jnp.array([4, 1])])


def test_keys_depend_on_seed_epoch_and_index():
    def key(seed, epoch, index):
        return jax.random.key_data(image_keys(seed, jnp.array([epoch]), jnp.array([index])))[0].tolist()

    assert len({tuple(key(s, e, i)) for s in (0, 1) for e in (0, 1) for i in (0, 1)}) == 8


def test_without_options_images_stay():
    images = jnp.stack([IMAGE, IMAGE])
    np.testing.assert_array_equal(augment(keys(2), images), images)


def test_normalisation_by_channel_and_by_pixel():
    images = jnp.array([[[[0, 51, 255]]]], jnp.uint8)
    by_channel = normalize(images, jnp.array([0.0, 0.1, 0.5]), jnp.array([1.0, 0.5, 0.25]))
    np.testing.assert_allclose(by_channel[0, 0, 0], [0.0, 0.2, 2.0], rtol=1e-6)
    assert by_channel.dtype == jnp.float32
    by_pixel = normalize(images, images[0] / 255, jnp.ones(3))
    np.testing.assert_allclose(by_pixel, np.zeros((1, 1, 1, 3)), atol=1e-6)
