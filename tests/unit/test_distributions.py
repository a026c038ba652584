"""What is drawn is distributed as asked: Kolmogorov-Smirnov tests against scipy, over the planner's own seeds."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from chaos.distributions import (
    Distribution,
    Exponential,
    LogNormal,
    Pareto,
    Weibull,
    incomplete_gamma,
    inverse_gamma,
)
from chaos.faults.churn import SHORTEST_SESSION, ChurnOptions, downtimes
from harness.plan import derived

MEAN = 8.0  # s
SEEDS = 2000


def exponential(mean: str) -> Exponential:
    return Exponential.model_validate({"mean": mean})


def weibull(shape: float, mean: str) -> Weibull:
    return Weibull.model_validate({"shape": shape, "mean": mean})


def weibull_law(shape: float) -> tuple[Weibull, object, object]:
    """Ours, and scipy's distribution functions of the whole and of what is left at a random moment."""
    scale = MEAN / math.gamma(1 + 1 / shape)
    whole = stats.weibull_min(shape, scale=scale)
    return weibull(shape, "8s"), whole.cdf, lambda x: special.gammainc(1 / shape, (x / scale) ** shape)


def pareto_law(shape: float) -> tuple[Pareto, object, object]:
    """The residual is the integral of the survival function over the mean."""
    least = MEAN * (shape - 1) / shape
    whole = stats.pareto(shape, scale=least)

    def residual(x: np.ndarray) -> np.ndarray:
        return np.where(x < least, x / MEAN, 1 - (least / np.maximum(x, least)) ** (shape - 1) / shape)

    return Pareto.model_validate({"shape": shape, "mean": "8s"}), whole.cdf, residual


def lognormal_law(sigma: float) -> tuple[LogNormal, object, object]:
    """F(x) of the residual is (x·S(x) + E[X; X ≤ x])/mean."""
    mu = math.log(MEAN) - sigma**2 / 2
    whole = stats.lognorm(sigma, scale=math.exp(mu))

    def residual(x: np.ndarray) -> np.ndarray:
        below = stats.norm.cdf((np.log(x) - mu) / sigma - sigma)
        return np.asarray(x * whole.sf(x) / MEAN + below)

    return LogNormal.model_validate({"mean": "8s", "sigma": sigma}), whole.cdf, residual


LAWS = {
    "pareto 1.5": pareto_law(1.5),
    "pareto 4": pareto_law(4.0),
    "lognormal .5": lognormal_law(0.5),
    "lognormal 2": lognormal_law(2.0),
    "exponential": (exponential("8s"), stats.expon(scale=MEAN).cdf, stats.expon(scale=MEAN).cdf),
    "weibull .34": weibull_law(0.34),
    "weibull .5": weibull_law(0.5),
    "weibull 2": weibull_law(2.0),
}


def rng(seed: int) -> random.Random:
    """As the planner makes it."""
    return random.Random(derived(seed, "entry", 0))


@pytest.mark.parametrize("name", LAWS)
def test_draws_of_many_seeds_follow_the_distribution(name: str) -> None:
    ours, whole, _ = LAWS[name]
    drawn = [ours.draw(rng(seed)) / 1e6 for seed in range(SEEDS)]
    assert stats.kstest(drawn, whole).pvalue > 0.01


@pytest.mark.parametrize("name", LAWS)
def test_residuals_of_many_seeds_follow_the_equilibrium_distribution(name: str) -> None:
    ours, _, residual = LAWS[name]
    drawn = [ours.residual(rng(seed)) / 1e6 for seed in range(SEEDS)]
    assert stats.kstest(drawn, residual).pvalue > 0.01


def test_residuals_are_what_an_observer_meets() -> None:
    """Not the formula but the thing itself: renewals one after the other, looked at long after their beginning."""
    session, looks = weibull(0.5, "8s"), []
    for seed in range(400):
        source, now = rng(seed), 0
        while now < 1_000_000_000:
            now += session.draw(source)
        looks.append(now - 1_000_000_000)
    drawn = [session.residual(rng(10_000 + seed)) for seed in range(400)]
    assert stats.ks_2samp(looks, drawn).pvalue > 0.01


@given(st.floats(0.1, 12), st.floats(0.0, 60))
def test_the_gamma_function_is_scipys(a: float, x: float) -> None:
    assert incomplete_gamma(a, x) == pytest.approx(float(special.gammainc(a, x)), abs=1e-9)


@given(st.floats(0.1, 12), st.floats(1e-6, 1.0, exclude_max=True))
def test_the_inverse_is_inverse(a: float, p: float) -> None:
    assert incomplete_gamma(a, inverse_gamma(a, p)) == pytest.approx(p, abs=1e-6)


class Fixed(random.Random):
    """Draws the same number for ever."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(
    "ours", [exponential("8s"), weibull(0.06, "1s"), weibull(0.5, "8s"), weibull(20, "1s")], ids=repr
)
@pytest.mark.parametrize("value", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
@pytest.mark.timeout(20)
def test_the_extremes_of_random_are_finite_lengths(ours: Distribution, value: float) -> None:
    assert ours.draw(Fixed(value)) >= 0
    assert ours.residual(Fixed(value)) >= 0


SESSIONS: dict[str, tuple[dict[str, object], Any]] = {
    "exponential": ({"exponential": {"mean": "40s"}}, stats.expon(scale=40)),
    "weibull": ({"weibull": {"shape": 0.5, "mean": "40s"}}, stats.weibull_min(0.5, scale=20)),
    "pareto": ({"pareto": {"shape": 2.5, "mean": "40s"}}, stats.pareto(2.5, scale=24)),
    "lognormal": ({"lognormal": {"mean": "40s", "sigma": 1.0}}, stats.lognorm(1.0, scale=40 * math.exp(-0.5))),
}


@pytest.mark.parametrize("law", SESSIONS)
def test_sessions_of_planned_churn_follow_what_was_asked_over_many_seeds(law: str) -> None:
    session, asked = SESSIONS[law]
    options = ChurnOptions.model_validate({"nodes": 1, "session": session, "downtime": {"exponential": {"mean": "5s"}}})
    day = 86_400_000_000  # µs: so long that the end cuts hardly any session off
    seen = []
    for seed in range(SEEDS):
        away = list(itertools.islice(downtimes(options, 0, day, rng(seed)), 2))
        if len(away) == 2:
            seen.append((away[1][0] - away[0][1]) / 1e6)
    assert len(seen) > 0.98 * SEEDS
    shortest = SHORTEST_SESSION / 1e6  # shorter ones are lengthened to that; of the others the whole law holds
    whole = [length for length in seen if length > shortest]
    assert stats.kstest(whole, lambda x: (asked.cdf(x) - asked.cdf(shortest)) / asked.sf(shortest)).pvalue > 0.01
    assert abs(len(whole) / len(seen) - asked.sf(shortest)) < 0.05
