"""The random numbers of images: fixed for ever, independent of each other, and distributed as they say."""

import numpy as np
import pytest

from resnet_jax.data.batches import epoch_order
from resnet_jax.data.transforms.keyed_random import KeyedRandom

FIRST = [0.0405796555440866, 0.6359908703930329, 0.592954746868984, 0.9840532930704893]


def numbers(*key, n=4):
    rng = KeyedRandom(*key)
    return [rng.uniform() for _ in range(n)]


def test_numbers_are_the_same_everywhere_for_ever():
    # Runs are resumed by them: they must never change. Computed once from BLAKE2b.
    np.testing.assert_allclose(numbers(0, 0, 0), FIRST, rtol=1e-15)


def test_each_key_has_numbers_of_its_own():
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in (0, 1, 2**40)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)
    assert numbers(3, 4, 5, n=100) == numbers(3, 4, 5, n=100)


def test_numbers_are_none_of_the_orders():
    raw = np.random.Philox(key=np.array([0, 0], np.uint64)).random_raw(1000) >> np.uint64(11)
    assert not set(numbers(0, 0, 0, n=100)) & set((raw * 2.0**-53).tolist())
    assert sorted(epoch_order(0, 0, 8)) == list(range(8))


def test_uniform_numbers_fill_their_range():
    values = np.array([KeyedRandom(1, 2, sample).uniform(-2.0, 6.0) for sample in range(2000)])
    assert values.min() >= -2.0
    assert values.max() < 6.0
    np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), [0, 2, 4], atol=0.35)


def test_integers_are_all_chosen_equally_often():
    rng = KeyedRandom(0, 0, 7)
    counts = np.bincount([rng.integer(5) for _ in range(5000)], minlength=5)
    assert counts.shape == (5,)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(800)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_chance_is_as_likely_as_it_says(probability):
    rng = KeyedRandom(0, 1, 7)
    share = np.mean([rng.chance(probability) for _ in range(4000)])
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / 4000)


def test_normal_numbers_have_their_mean_and_spread():
    rng = KeyedRandom(0, 2, 7)
    values = np.array([rng.normal(3.0, 0.5) for _ in range(4000)])
    assert abs(values.mean() - 3.0) < 0.04
    assert abs(values.std() - 0.5) < 0.03
    assert abs(np.mean(np.abs(values - 3.0) < 0.5) - 0.6827) < 0.04
