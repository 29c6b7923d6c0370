"""Augmentation and normalisation inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.transforms.augment import (
    alternating_flips,
    augment,
    batch_key,
    cutout,
    erase,
    image_keys,
    mix,
    normalize,
    random_crop,
    random_flip,
)

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


def rectangles(images):
    """(top, left, height, width) of the zeros in each image of ones, None where there are none."""
    result = []
    for image in np.asarray(images)[..., 0]:
        rows, columns = np.nonzero((image == 0).any(1))[0], np.nonzero((image == 0).any(0))[0]
        if not len(rows):
            result.append(None)
            continue
        top, left, height, width = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (image[top : top + height, left : left + width] == 0).all()
        assert (image == 0).sum() == height * width
        result.append((top, left, height, width))
    return result


def test_erased_rectangles_are_distributed_as_torchvisions():
    ones = jnp.ones((1500, 60, 60, 3))
    found = rectangles(jax.jit(lambda keys: erase(keys, ones, 0.4))(keys(1500)))
    erased = np.array([rectangle for rectangle in found if rectangle is not None])
    assert abs(len(erased) / 1500 - 0.4) < 5 * np.sqrt(0.24 / 1500)
    top, left, height, width = erased.T
    area = height * width / 3600
    # Most drawn shapes fit in a square: the area's quantiles are nearly those of the uniform distribution.
    np.testing.assert_allclose(np.quantile(area, [0.1, 0.5, 0.9]), [0.05, 0.17, 0.29], atol=0.03)
    np.testing.assert_allclose(np.quantile(np.log(height / width), [0.1, 0.5, 0.9]), [-0.96, 0, 0.96], atol=0.25)
    assert (top + height).max() == (left + width).max() == 60
    assert top.min() == left.min() == 0


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_probability_of_erasing_is_kept_at_its_ends(probability):
    images = jax.jit(lambda keys: erase(keys, jnp.ones((50, 16, 16, 1)), probability))(keys(50))
    assert (np.asarray(images).min((1, 2, 3)) == 1 - probability).all()


def test_cutout_is_a_square_around_any_pixel_cut_at_the_border():
    found = rectangles(jax.jit(lambda keys: cutout(keys, jnp.ones((2000, 8, 8, 1)), 4))(keys(2000)))
    top, _, height, width = np.array(found).T
    assert set(height) == set(width) == {2, 3, 4}  # centred on the first row, half of the square is outside
    centre = np.where(top == 0, height - 2, top + 2)
    assert np.abs(np.bincount(centre, minlength=8) - 250).max() < 5 * np.sqrt(250 * 7 / 8)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_targets_are_mixed_as_the_images_are(mixup, cutmix):
    values = jnp.array([0.0, 1.0, 10.0, 100.0])
    images = jnp.broadcast_to(values[:, None, None, None], (4, 10, 10, 1))
    mixed_as = jax.jit(lambda key: mix(key, images, jnp.eye(4), mixup, cutmix))
    shares, patched = [], 0
    for key in keys(200):
        mixed, targets = map(np.asarray, mixed_as(key))
        # Each image's mean tells its parts; the target is what takes the values to that mean.
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), targets @ np.asarray(values), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(np.diagonal(targets, -1), targets[1, 0], rtol=1e-6)  # with the one before it
        shares.append(targets[0, 0])
        patched += set(np.unique(mixed[1]).tolist()) <= {0.0, 1.0}
    if mixup == cutmix == 0:
        assert shares == [1.0] * 200
    else:
        assert 0.3 < np.mean(shares) < 0.8
        assert {(0.4, 0.0): patched < 20, (0.0, 1.0): patched == 200, (0.4, 1.0): 60 < patched < 150}[mixup, cutmix]


def test_share_of_a_mixed_image_is_beta_distributed():
    images = jnp.zeros((2, 64, 64, 1))
    targets = jax.jit(jax.vmap(lambda key: mix(key, images, jnp.eye(2), mixup=2.0)[1]))(keys(1500))
    shares = np.asarray(targets)[:, 0, 0]
    # Beta(2, 2): x^2 (3 - 2 x) at the quantiles 0.25, 0.5, 0.75.
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.3264, 0.5, 0.6736], atol=0.04)


def test_keys_of_batches_and_images_differ():
    image = image_keys(0, jnp.arange(3), jnp.array([5, 5, 6]))
    batch = jnp.stack([batch_key(0, step) for step in (0, 5, 6)])
    data = np.concatenate([jax.random.key_data(image), jax.random.key_data(batch)])
    assert len({tuple(row) for row in data.tolist()}) == 6


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    sample = np.arange(1000)
    first, second, third = (alternating_flips(3, np.full(1000, epoch), sample) for epoch in range(3))
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    assert 450 < first.sum() < 550
    assert (alternating_flips(4, np.zeros(1000, int), sample) != first).any()
    images = np.stack([IMAGE, IMAGE])
    flipped = augment(keys(2), images, flip=True, flips=np.array([True, False]))
    np.testing.assert_array_equal(flipped, np.stack([IMAGE[:, ::-1], IMAGE]))
