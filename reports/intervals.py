"""Simultaneous confidence intervals of what changed between two sets of runs. Pure.

The unit is the run: operations of one run share its network, its faults and its machine's mood, so millions of them are
still one observation. For every metric the difference of the sides' means, plus or minus ``c`` standard errors (Welch),
where ``c`` is one that all metrics together exceed by chance in ALPHA of all comparisons: the larger of

- Student's t with Welch's degrees of freedom at ALPHA / metrics (Bonferroni), which also holds for three runs a side;
- the (1 - ALPHA) quantile of the largest |t| of any metric when whole runs are dealt anew to the two sides, their
  sides' means taken out (Westfall and Young 1993, max-T): it knows of no normal distribution. Used where there are at
  least 1 / ALPHA ways to deal; a run's metrics stay together, so what they have in common is kept.

A spread is never taken to be smaller than ``floors`` says (what counting alone makes vary), so that runs which happen to
agree to the digit do not make certainty out of nothing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.01  # of all comparisons in which nothing changed, those in which any interval misses
LEAST_RUNS = 3  # a side
MOST_DEALS = 2_000  # ways to deal runs to sides that are looked at; drawn, if there are more

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Intervals:
    """Per metric: the difference of means (new - base), and the half-width of its interval; arrays of shape (metrics,)."""

    difference: Floats
    half_width: Floats


def intervals(base: Floats, new: Floats, floors: Floats, alpha: float = ALPHA) -> Intervals:
    """All metrics' intervals at once. ``base`` and ``new`` have the shape (runs, metrics), ``floors`` (metrics,).

    Raises:
        ValueError: fewer than LEAST_RUNS on a side.
    """
    if min(len(base), len(new)) < LEAST_RUNS:
        raise ValueError(f"{len(base)} and {len(new)} runs: at least {LEAST_RUNS} a side are needed")
    errors, freedom = _welch(base, new, floors)
    critical = np.maximum(_student(freedom, alpha, base.shape[1]), _dealt(base, new, floors, alpha))
    difference: Floats = new.mean(axis=0) - base.mean(axis=0)
    return Intervals(difference, critical * errors)


def _welch(base: Floats, new: Floats, floors: Floats) -> tuple[Floats, Floats]:
    """Standard errors of the differences, and their degrees of freedom (Welch 1947)."""
    parts = [np.maximum(side.var(axis=0, ddof=1), floors**2) / len(side) for side in (base, new)]
    total: Floats = parts[0] + parts[1]
    spread = parts[0] ** 2 / (len(base) - 1) + parts[1] ** 2 / (len(new) - 1)
    freedom = np.divide(total**2, spread, out=np.full_like(total, len(base) + len(new) - 2.0), where=spread > 0)
    return np.sqrt(total), freedom


def _student(freedom: Floats, alpha: float, metrics: int) -> Floats:
    from scipy.special import stdtrit

    critical: Floats = stdtrit(freedom, 1 - alpha / (2 * metrics))
    return critical


def _dealt(base: Floats, new: Floats, floors: Floats, alpha: float) -> float:
    """The (1 - alpha) quantile of the largest |t| over all ways to deal the runs to sides of these sizes; 0 if too few."""
    ways = math.comb(len(base) + len(new), len(base))
    if ways * alpha < 1:
        return 0.0
    runs = np.vstack([base - base.mean(axis=0), new - new.mean(axis=0)])
    masks = _deals(len(runs), len(base), ways).astype(np.float64)
    here, there = _moments(masks, runs), _moments(1 - masks, runs)
    errors = np.sqrt(np.maximum(here[1], floors**2) / len(base) + np.maximum(there[1], floors**2) / len(new))
    gap = np.abs(here[0] - there[0])
    largest = np.divide(gap, errors, out=np.zeros_like(gap), where=errors > 0).max(axis=1)
    return float(np.quantile(largest, 1 - alpha, method="higher"))


def _moments(masks: Floats, runs: Floats) -> tuple[Floats, Floats]:
    """Means and variances of the runs that each mask chooses, (ways, metrics)."""
    count = masks.sum(axis=1, keepdims=True)
    means: Floats = masks @ runs / count
    variances: Floats = np.maximum(masks @ runs**2 - count * means**2, 0.0) / (count - 1)
    return means, variances


def _deals(runs: int, chosen: int, ways: int) -> NDArray[np.bool_]:
    """Ways to choose so many of the runs, as masks: all of them, or MOST_DEALS drawn ones, always the same."""
    if ways <= MOST_DEALS:
        picks = np.array(list(itertools.combinations(range(runs), chosen)))
    else:
        picks = np.argsort(np.random.default_rng(0).random((MOST_DEALS, runs)), axis=1)[:, :chosen]
    masks = np.zeros((len(picks), runs), dtype=np.bool_)
    np.put_along_axis(masks, picks, values=True, axis=1)
    return masks
