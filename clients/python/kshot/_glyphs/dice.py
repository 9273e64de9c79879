"""Random numbers that are the same on every machine and in every release of numpy.

The raw blocks of a bit generator are promised never to change between numpy releases; the methods of
`numpy.random.Generator` are not, so the few distributions needed are made here. They, and all geometry that glyphs
are made of, use only +, -, *, / and square roots, which IEEE 754 defines to the last bit; sines, logarithms and
sums of arrays differ between processors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dice", "Points"]

Points = NDArray[np.float64]


class Dice:
    """Random numbers that are a function of (seed, stream, first, second) alone, whole numbers from 0.

    Args:
        seed: which world.
        stream: what the numbers are for; the numbers of different streams have nothing to do with each other.
        first: what they belong to.
        second: the same, finer.
    """

    def __init__(self, seed: int, stream: int, first: int, second: int = 0) -> None:
        key = np.array([seed, stream], np.uint64)
        self._bits = np.random.Philox(key=key, counter=np.array([0, first, second, 0], np.uint64))

    def uniform(self, low: float, high: float, *shape: int) -> Points:
        """Uniform in [low, high), of the given shape."""
        count = 1
        for length in shape:
            count *= length
        whole = self._bits.random_raw(count) >> np.uint64(11)
        unit: Points = whole.astype(np.float64) * 2.0**-53
        return np.asarray(low + (high - low) * unit).reshape(shape)

    def between(self, low: float, high: float) -> float:
        """One number, uniform in [low, high)."""
        return float(self.uniform(low, high, 1)[0])

    def below(self, limit: int) -> int:
        """One whole number, uniform in 0 .. limit - 1."""
        return int(self.between(0.0, float(limit)))

    def bell(self, *shape: int) -> Points:
        """Roughly normal, mean 0 and variance 1, never beyond 3.5: the sum of four uniform numbers."""
        a, b, c, d = self.uniform(-0.5, 0.5, 4, *shape)
        return np.asarray(((a + b) + (c + d)) * 1.7320508075688772)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.between(0.0, 1.0) < probability

    def sign(self) -> float:
        """One or minus one."""
        return 1.0 if self.chance(0.5) else -1.0
