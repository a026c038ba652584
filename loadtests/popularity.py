"""Which of so many keys is asked for: uniformly, by Zipf's law, or by it with the latest first. Pure.

Zipf's law gives rank r of n the weight r^-s. Ranks are drawn by rejection-inversion (W. Hörmann, G. Derflinger: Rejection-
inversion to generate variates from monotone discrete distributions, ACM TOMACS 6(3), 1996): no table, so that the number
of keys may grow with every draw, and on average hardly more than one try.
"""

from __future__ import annotations

import math
from random import Random


class Uniform:
    """All alike."""

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def index(self, count: int) -> int:
        """One of 0 … count − 1; ``count`` must be positive."""
        return int(self._random() * count)


class Zipf:
    """The first is the most popular: index i has the weight (i + 1)^-exponent. ``exponent`` must be positive."""

    def __init__(self, rng: Random, exponent: float) -> None:
        self._random = rng.random
        self._exponent = exponent
        self._first = self._integral(1.5) - 1.0
        self._sure = 2.0 - self._inverse(self._integral(2.5) - self._weight(2.0))

    def index(self, count: int) -> int:
        """One of 0 … count − 1; ``count`` must be positive."""
        last = self._integral(count + 0.5)
        while True:
            drawn = last + self._random() * (self._first - last)
            near = self._inverse(drawn)
            rank = min(max(int(near + 0.5), 1), count)
            if rank - near <= self._sure or drawn >= self._integral(rank + 0.5) - self._weight(rank):
                return rank - 1

    def _weight(self, x: float) -> float:
        return math.exp(-self._exponent * math.log(x))

    def _integral(self, x: float) -> float:
        """Of the weight from 1 to x, also where the exponent is 1 or next to it."""
        logarithm = math.log(x)
        power = (1.0 - self._exponent) * logarithm
        return logarithm * (math.expm1(power) / power if abs(power) > 1e-8 else 1.0 + power / 2)

    def _inverse(self, y: float) -> float:
        scaled = max(y * (1.0 - self._exponent), -1.0 + 1e-15)
        return math.exp(y * (math.log1p(scaled) / scaled if abs(scaled) > 1e-8 else 1.0 - scaled / 2))


class Latest:
    """The last is the most popular, by Zipf's law."""

    def __init__(self, rng: Random, exponent: float) -> None:
        self._zipf = Zipf(rng, exponent)

    def index(self, count: int) -> int:
        """One of 0 … count − 1; ``count`` must be positive."""
        return count - 1 - self._zipf.index(count)


Popularity = Uniform | Zipf | Latest
