"""Compares how mean and variance of a batch are computed, by their error against float64.

    python benchmarks/batch_statistics.py

The data are 32 images of 28 x 28 pixels and 16 channels in float32: a common mean, a mean of its own for each image
with 30 % of the standard deviation, and noise. "constant" are channels of one value, an error there is absolute.
Prints for each ratio of mean to standard deviation the largest error of the variance relative to it, and of the mean
relative to the standard deviation, by:

    two passes      `in_two_passes` of resnet_jax.models.layers, which runs on the CPU
    plain           E[x^2] - E[x]^2, in one pass
    running mean    E[(x - r)^2] - E[x - r]^2 with r half of the mean, as running means are in a run's first steps
    one pass        `in_one_pass`, which runs on other devices
"""

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models.batch_statistics import in_one_pass, in_two_passes

RATIOS = (0.0, 1.0, 10.0, 1e2, 1e3, 1e4)
SHAPE = (32, 28, 28, 16)


def plain(x):
    """The variance as the difference of two moments."""
    mean = jnp.mean(x, (0, 1, 2))
    return mean, jnp.mean(jnp.square(x), (0, 1, 2)) - jnp.square(mean)


def around_a_running_mean(x, running_mean):
    """Computes as `plain` does, of x less a mean that is known before."""
    mean, var = plain(x - running_mean)
    return mean + running_mean, var


def batch(ratio):
    """Activations whose mean is `ratio` standard deviations."""
    random = np.random.default_rng(0)
    images = 0.3 * random.normal(size=(SHAPE[0], 1, 1, SHAPE[3]))
    return (ratio + images + np.sqrt(0.91) * random.normal(size=SHAPE)).astype(np.float32)


def errors(x):
    """Returns each way's largest error of the mean and the variance, by the standard deviation where there is one."""
    mean, var = x.mean((0, 1, 2), dtype=np.float64), x.astype(np.float64).var((0, 1, 2))
    scale = np.where(var > 0, var, 1.0)
    ways = {
        "two passes": in_two_passes,
        "plain": plain,
        "running mean": lambda x: around_a_running_mean(x, (mean / 2).astype(np.float32)),
        "one pass": in_one_pass,
    }
    results = {name: jax.jit(way)(x) for name, way in ways.items()}
    return {
        name: (float(np.max(np.abs(m - mean) / np.sqrt(scale))), float(np.max(np.abs(v - var) / scale)))
        for name, (m, v) in results.items()
    }


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_platforms", "cpu")
    rows = {f"{ratio:g}": errors(batch(ratio)) for ratio in RATIOS}
    rows["constant"] = errors(np.broadcast_to(np.float32([0.1, 1e4] * (SHAPE[3] // 2)), SHAPE))
    names = tuple(rows["0"])
    for number, statistic in ((1, "variance"), (0, "mean")):
        print(f"{statistic:<10}" + "".join(f"{name:>14}" for name in names))
        for ratio, row in rows.items():
            print(f"{ratio:<10}" + "".join(f"{row[name][number]:14.1e}" for name in names))


if __name__ == "__main__":
    main()
