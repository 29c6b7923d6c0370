"""Images as narrow as a pooling's window, in batches of any size."""

import jax
import numpy as np
import pytest

from resnet_jax.models.pooling import average_pool


@pytest.mark.parametrize("sides", [(5, 1), (1, 5), (9, 1), (1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (3, 3), (4, 5)])
@pytest.mark.parametrize("batch", [3, 37, 64, 256])
def test_the_mean_of_a_window_is_that_of_the_pixels_it_has(sides, batch):
    x = np.random.default_rng(0).standard_normal((batch, *sides, 64), np.float32)
    height, width = sides
    expected = np.empty((batch, -(-height // 2), -(-width // 2), 64))
    for i in range(expected.shape[1]):
        for j in range(expected.shape[2]):
            expected[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(jax.jit(lambda x: average_pool(x, 2))(x), expected, rtol=0, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: (average_pool(x, 2) ** 2).sum()))(x)
    counts = np.multiply.outer(*(np.minimum(2, side - np.arange(0, side, 2)) for side in sides))[None, :, :, None]
    spread = np.repeat(np.repeat(2 * expected / counts, 2, axis=1), 2, axis=2)[:, :height, :width]
    np.testing.assert_allclose(gradient, spread, rtol=0, atol=1e-5)
