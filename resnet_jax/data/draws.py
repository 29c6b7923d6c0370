"""Random numbers for what happens to an image on the host: a function of (seed, epoch, sample) alone."""

import numpy as np

# epoch_order draws from the counter 0 of the same generator.
_COUNTER_OF_SAMPLES = 1
_BLOCK = 32


class Draws:
    """A stream of random numbers keyed by (seed, epoch, sample): the same on every machine, thread and host.

    They come from the raw 64-bit output of Philox (Salmon et al. 2011), a stream that NumPy keeps fixed (those of
    `numpy.random.Generator` are not promised to be).
    """

    def __init__(self, seed: int, epoch: int, sample: int) -> None:
        """seed, epoch, sample: from 0 to 2**63 - 1; a sample is an image, or one of its repetitions."""
        key = np.array([seed, epoch], np.uint64)
        counter = np.array([0, 0, sample, _COUNTER_OF_SAMPLES], np.uint64)
        self._philox = np.random.Philox(key=key, counter=counter)
        self._numbers: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        if not self._numbers:
            raw = self._philox.random_raw(_BLOCK) >> np.uint64(11)
            self._numbers = (raw * 2.0**-53).tolist()[::-1]
        return low + (high - low) * self._numbers.pop()

    def integer(self, n: int) -> int:
        """Uniform in range(n), n >= 1."""
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def normal(self, mean: float, std: float) -> float:
        """Normally distributed (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform()))
        return float(mean + std * radius * np.cos(2.0 * np.pi * self.uniform()))
