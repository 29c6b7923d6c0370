"""Random numbers for transforming an image on the host: a function of (seed, epoch, sample) alone."""

import hashlib
import math
import struct


class KeyedRandom:
    """A stream of random numbers keyed by (seed, epoch, sample): the same on every machine, thread and host.

    They are the output of BLAKE2b over the key and a counter, which no version of any library changes; a generator of
    NumPy's takes ten times as long to set up.
    """

    def __init__(self, seed: int, epoch: int, sample: int) -> None:
        """seed, epoch, sample: from 0 to 2**63 - 1; a sample is an image, or one of its repetitions."""
        self._key = seed, epoch, sample
        self._blocks = 0
        self._numbers: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Returns a number, uniform in [low, high)."""
        if not self._numbers:
            self._numbers.extend(
                struct.unpack("<8Q", hashlib.blake2b(struct.pack("<4Q", *self._key, self._blocks)).digest())
            )
            self._blocks += 1
        return low + (high - low) * ((self._numbers.pop() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """Returns uniform in range(n), n >= 1."""
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return self.uniform() < probability

    def normal(self, mean: float, std: float) -> float:
        """Returns a number, normally distributed (Box and Muller 1958)."""
        radius = math.sqrt(-2.0 * math.log1p(-self.uniform()))
        return mean + std * radius * math.cos(2.0 * math.pi * self.uniform())
