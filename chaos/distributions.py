"""How long members stay and stay away: distributions with a given mean, by inverse functions of our own.

Pure. Draws use `random()` alone, so a plan does not depend on how a version of Python samples. Each distribution has a
`draw` and a `draw_residual`. The first session of a member that is already up is a residual one: at a fixed time, a
renewal process in equilibrium is inside an interval whose length has the density x f(x) / mean, and the time is uniform
in it (Cox 1962, Renewal Theory, chapter 5; Feller vol. II, XI.4). So the residual is uniform times length-biased. With
a fresh session instead, all members would be young at once, which churn never looks like. Weibull: Stutzbach and
Rejaie 2006 (shape 0.34 to 0.59).

Numbers are floats in seconds; the caller rounds to µs, far above the last digits in which maths libraries differ.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, Protocol

from harness.fields import Block, PositiveDuration, decimal_between
from harness.quantities import seconds

STEPS = 200  # of a bisection; 60 are enough for a double


class Distribution(Protocol):
    """Lengths of time in seconds."""

    def draw(self, rng: random.Random) -> float:
        """One length."""
        ...

    def draw_residual(self, rng: random.Random) -> float:
        """What is left of the length that is under way at a random time."""
        ...


@dataclass(frozen=True)
class Exponential:
    """Without memory: the residual is distributed like the whole."""

    mean: float

    def draw(self, rng: random.Random) -> float:
        return -self.mean * math.log1p(-rng.random())

    def draw_residual(self, rng: random.Random) -> float:
        return self.draw(rng)


@dataclass(frozen=True)
class Weibull:
    """Shape below 1: many short sessions, few very long ones."""

    shape: float
    mean: float

    @property
    def scale(self) -> float:
        """The scale that gives the mean."""
        return self.mean / math.gamma(1 + 1 / self.shape)

    def draw(self, rng: random.Random) -> float:
        return self.scale * float((-math.log1p(-rng.random())) ** (1 / self.shape))

    def draw_residual(self, rng: random.Random) -> float:
        # Length-biased: (x / scale)^shape has a gamma distribution of 1 + 1/shape.
        biased = self.scale * float(inverse_gamma_cdf(1 + 1 / self.shape, rng.random()) ** (1 / self.shape))
        return rng.random() * biased


@dataclass(frozen=True)
class Pareto:
    """Type I: at least ``least``, heavy tail; the mean is finite for a shape above 1."""

    shape: float
    mean: float

    @property
    def least(self) -> float:
        """The shortest length there is, which gives the mean."""
        return self.mean * (self.shape - 1) / self.shape

    def draw(self, rng: random.Random) -> float:
        return self.least * float((1 - rng.random()) ** (-1 / self.shape))

    def draw_residual(self, rng: random.Random) -> float:
        # Length-biased: a Pareto of shape - 1. Its tail is capped where a plan would end anyway.
        exponent = min(1 / (self.shape - 1), 1e3)
        biased = self.least * math.exp(min(600.0, -math.log1p(-rng.random()) * exponent))
        return rng.random() * biased


@dataclass(frozen=True)
class Lognormal:
    """``sigma`` is the standard deviation of the logarithm."""

    mean: float
    sigma: float

    @property
    def mu(self) -> float:
        """Mean of the logarithm, which gives the mean."""
        return math.log(self.mean) - self.sigma**2 / 2

    def draw(self, rng: random.Random) -> float:
        return math.exp(self.mu + self.sigma * standard_normal(rng))

    def draw_residual(self, rng: random.Random) -> float:
        # Length-biased: the same with mu + sigma squared.
        return rng.random() * math.exp(self.mu + self.sigma**2 + self.sigma * standard_normal(rng))


def standard_normal(rng: random.Random) -> float:
    """By inversion; a draw of exactly 0 is moved to the middle of its step."""
    return NormalDist().inv_cdf(rng.random() or 2.0**-54)


def gamma_cdf(a: float, x: float) -> float:
    """Regularised lower incomplete gamma function P(a, x): series below a + 1, continued fraction above.

    After Numerical Recipes 6.2 (the continued fraction by Lentz's method).
    """
    if x <= 0:
        return 0.0
    front = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-17:
            n += 1
            term *= x / n
            total += term
        return total * front
    return 1 - front * _upper_fraction(a, x)


def _upper_fraction(a: float, x: float) -> float:
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    h = d
    for i in range(1, 10_000):
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b or tiny)
        c = b + an / c or tiny
        step = d * c
        h *= step
        if abs(step - 1) < 1e-16:
            break
    return h


def inverse_gamma_cdf(a: float, p: float) -> float:
    """x with P(a, x) = p, by bisection: slow, simple and the same everywhere."""
    low, high = 0.0, max(1.0, a)
    while gamma_cdf(a, high) < p and high < 1e6:
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gamma_cdf(a, middle) < p else (low, middle)
    return high


# --- as an experiment has them --------------------------------------------------------------------------------------


class ExponentialOptions(Block):
    """`exponential: {mean: 3s}`."""

    mean: PositiveDuration

    def distribution(self) -> Distribution:
        """The distribution in seconds."""
        return Exponential(seconds(self.mean))


class WeibullOptions(Block):
    """`weibull: {shape: 0.5, mean: 20s}`."""

    shape: Annotated[float, decimal_between(0.1, 20)]
    mean: PositiveDuration

    def distribution(self) -> Distribution:
        """The distribution in seconds."""
        return Weibull(self.shape, seconds(self.mean))


class ParetoOptions(Block):
    """`pareto: {shape: 1.5, mean: 15s}`."""

    shape: Annotated[float, decimal_between(1.01, 100)]
    mean: PositiveDuration

    def distribution(self) -> Distribution:
        """The distribution in seconds."""
        return Pareto(self.shape, seconds(self.mean))


class LognormalOptions(Block):
    """`lognormal: {mean: 20s, sigma: 1.5}`."""

    mean: PositiveDuration
    sigma: Annotated[float, decimal_between(0.01, 5)]

    def distribution(self) -> Distribution:
        """The distribution in seconds."""
        return Lognormal(seconds(self.mean), self.sigma)


class Lengths(Block):
    """One of the distributions, named by its key."""

    exponential: ExponentialOptions | None = None
    weibull: WeibullOptions | None = None
    pareto: ParetoOptions | None = None
    lognormal: LognormalOptions | None = None

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Exactly one."""
        known = [key for key in given if key in cls.known_keys()]
        if not given:
            yield (
                "",
                f"a distribution is missing: one of {', '.join(cls.known_keys())}, as in {{exponential: {{mean: 3s}}}}",
            )
        for extra in known[1:]:
            yield extra, f"two distributions, `{known[0]}` and `{extra}`: keep one"

    def distribution(self) -> Distribution:
        """The one that was given."""
        options = self.exponential or self.weibull or self.pareto or self.lognormal
        assert options is not None
        return options.distribution()
