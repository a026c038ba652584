"""Session and downtime distributions, drawn by inverting their distribution functions with `random()` alone. Pure.

Every distribution is given by its mean, as people know it. A *residual* session is what is left of one that is met
at a random moment, as those are that begin before the fault does: its distribution function is the integral of the
survival function over the mean (the inspection paradox; Cox, Renewal Theory, 1962, section 5.2).
"""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist
from typing import Protocol

from pydantic import Field, model_validator

from chaos.traces import Trace
from harness.options import PositiveTime, Section

LONGEST = 2**53  # µs; what heavier tails give is cut there


class Distribution(Protocol):
    """A distribution of times in µs."""

    def draw(self, rng: Random) -> int:
        """One time."""
        ...

    def residual(self, rng: Random) -> int:
        """What is left of one that is met at a random moment."""
        ...


class Exponential(Section):
    """Without memory: what is left is distributed as the whole."""

    mean: PositiveTime

    def draw(self, rng: Random) -> int:
        """See `Distribution.draw`."""
        return round(-math.log(1 - rng.random()) * self.mean)

    def residual(self, rng: Random) -> int:
        """See `Distribution.residual`."""
        return self.draw(rng)


class Weibull(Section):
    """Shapes of .34 to .59 fit sessions of deployed networks (Stutzbach and Rejaie 2006, section 5)."""

    shape: float = Field(gt=0.05, le=20)
    mean: PositiveTime

    @property
    def scale(self) -> float:
        """The scale parameter in µs: mean / Γ(1 + 1/shape)."""
        return self.mean / math.gamma(1 + 1 / self.shape)

    def draw(self, rng: Random) -> int:
        """See `Distribution.draw`."""
        return round(float(self.scale * (-math.log(1 - rng.random())) ** (1 / self.shape)))

    def residual(self, rng: Random) -> int:
        """See `Distribution.residual`; F(x) = P(1/shape, (x/scale)^shape), with P the regularised incomplete gamma."""
        return round(float(self.scale * inverse_gamma(1 / self.shape, rng.random()) ** (1 / self.shape)))


class Pareto(Section):
    """Heavy-tailed: F(x) = 1 − (least/x)^shape from the least on. Shapes above 1 alone have a mean."""

    shape: float = Field(gt=1, le=100)
    mean: PositiveTime

    @property
    def least(self) -> float:
        """The shortest time in µs: mean · (shape − 1)/shape."""
        return self.mean * (self.shape - 1) / self.shape

    def draw(self, rng: Random) -> int:
        """See `Distribution.draw`."""
        return _rounded(math.log(self.least) - math.log(1 - rng.random()) / self.shape)

    def residual(self, rng: Random) -> int:
        """See `Distribution.residual`. F(x) = x/mean up to the least, and 1 − (least/x)^(shape − 1)/shape from there on."""
        left = 1 - rng.random()
        if left >= 1 / self.shape:
            return round((1 - left) * self.mean)
        return _rounded(math.log(self.least) - math.log(self.shape * left) / (self.shape - 1))


class LogNormal(Section):
    """The logarithm is normal with standard deviation ``sigma``."""

    mean: PositiveTime
    sigma: float = Field(gt=0, le=10)

    @property
    def mu(self) -> float:
        """The mean of the logarithm of a time in µs: ln mean − sigma²/2."""
        return math.log(self.mean) - self.sigma**2 / 2

    def draw(self, rng: Random) -> int:
        """See `Distribution.draw`."""
        return _rounded(self.mu + self.sigma * _normal(rng))

    def residual(self, rng: Random) -> int:
        """See `Distribution.residual`. A random share of a session that is met with a chance in proportion to its length:
        that one is lognormal again, with mu + sigma²."""
        return round(rng.random() * _rounded(self.mu + self.sigma**2 + self.sigma * _normal(rng)))


def _normal(rng: Random) -> float:
    """A standard normal number, by the inverse of its distribution function; 0 is drawn anew, it has none."""
    drawn = rng.random()
    while not drawn:
        drawn = rng.random()
    return NormalDist().inv_cdf(drawn)


def _rounded(logarithm: float) -> int:
    """e to the power of that in whole µs, LONGEST at most."""
    return round(math.exp(min(logarithm, math.log(LONGEST))))


def incomplete_gamma(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(a, x), by its power series (DLMF 8.11.4); a > 0, x ≥ 0."""
    if x <= 0:
        return 0.0
    term = total = 1.0
    n = 0
    while term > total * 1e-17:
        n += 1
        term *= x / (a + n)
        total += term
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a + 1)))


def inverse_gamma(a: float, p: float) -> float:
    """The x at which P(a, x) = p, by bisection: the same steps on any machine."""
    low, high = 0.0, 1.0
    while incomplete_gamma(a, high) < p:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if incomplete_gamma(a, middle) < p:
            low = middle
        else:
            high = middle
    return high


class OneDistribution(Section):
    """Exactly one distribution, named by its key: ``{weibull: {shape: 0.5, mean: 20s}}``."""

    exponential: Exponential | None = None
    weibull: Weibull | None = None
    pareto: Pareto | None = None
    lognormal: LogNormal | None = None
    trace: Trace | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> OneDistribution:
        there = [value for value in self._all if value is not None]
        if len(there) != 1:
            raise ValueError(
                "exactly one of exponential {mean}, weibull {shape, mean}, pareto {shape, mean}, lognormal {mean, sigma}, "
                "trace {file} is expected"
            )
        return self

    @property
    def _all(self) -> tuple[Exponential | Weibull | Pareto | LogNormal | Trace | None, ...]:
        return self.exponential, self.weibull, self.pareto, self.lognormal, self.trace

    @property
    def chosen(self) -> Distribution:
        """The one that is there; of a trace, see `churn.py`."""
        chosen = next(value for value in self._all if value is not None)
        assert not isinstance(chosen, Trace), "a trace is replayed, not drawn from"
        return chosen
