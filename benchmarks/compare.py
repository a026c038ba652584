"""How often comparing alarms falsely, how often it finds a slow-down, and what it costs.

Run: ``python benchmarks/compare.py [--quick] [--json FILE]``; exit code 1 if a limit is missed.

Simulated pairs of sets of runs, without any tolerance for false alarms (the hardest case), with the default tolerance for
the planted change of 20%. Both sides of a pair are drawn in one go from one generator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figure, write

from reports.compare import METRICS, differences_of, tolerances_of

QUICK, FULL = 300, 3_000  # pairs of each kind
NOISES = ("normal", "skewed", "heavy-tailed", "outliers")
SPREAD, SLOWER = 0.03, 1.2
MOST_FALSE, LEAST_FOUND, MOST_SECONDS = 0.01, 0.9, 0.1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How often comparing alarms falsely, and finds what is there.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} pairs of each kind instead of {FULL}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures = list(measure(QUICK if options.quick else FULL))
    print(f"{'':52} {'measured':>12} {'limit':>10} {'ratio':>7}")
    for one in figures:
        print(f"{one.name:52} {one.ours:12.4g} {one.theirs:10.4g} {one.ratio:7.3f}  {'met' if one.met else 'MISSED'}")
    write(options.json, figures)
    return int(not all(one.met for one in figures))


def measure(pairs: int) -> Iterator[Figure]:
    """All figures."""
    strict = tolerances_of(["0%", *(f"{m.name}=0%" for m in METRICS if m.scale == "points"), "recovery=0s"])
    for runs in (3, 5):
        for noise in NOISES:
            rng = np.random.default_rng([runs, NOISES.index(noise)])
            alarms = sum(alarmed(rng, runs, noise, 1.0, strict, ("worse", "better")) for _ in range(pairs))
            name = f"false alarms, {runs} runs a side, {noise}, {pairs} pairs"
            yield within(name, alarms / pairs, MOST_FALSE)
    rng = np.random.default_rng(7)
    began = time.perf_counter()
    found = sum(alarmed(rng, 5, "normal", SLOWER, tolerances_of([]), ("worse",)) for _ in range(pairs))
    seconds = (time.perf_counter() - began) / pairs
    share = found / pairs
    ratio = round(share / LEAST_FOUND, 6)
    yield Figure("20% slower found, 5 runs a side, 3% noise", share, LEAST_FOUND, "", ratio, 1.0, share >= LEAST_FOUND)
    yield within("seconds a comparison of 5 and 5 runs", seconds, MOST_SECONDS)


def within(name: str, ours: float, limit: float) -> Figure:
    """A figure that is to stay below its limit."""
    return Figure(name, round(ours, 6), limit, "", round(ours / limit, 6), 1.0, ours <= limit)


def alarmed(
    rng: np.random.Generator,
    runs: int,
    noise: str,
    slower: float,
    tolerances: dict[str, float],
    verdicts: tuple[str, ...],
) -> bool:
    """Whether one pair of sets has any metric with one of these verdicts."""
    base, new = drawn(rng, runs, noise, 1.0), drawn(rng, runs, noise, slower)
    return any(one.verdict in verdicts for one in differences_of(base, new, tolerances))


def drawn(rng: np.random.Generator, runs: int, noise: str, slower: float) -> list[dict[str, float]]:
    """Values of so many runs: what is common to a run, and what each metric has for itself."""
    z = 0.6 * rng.normal(size=(runs, 1)) + 0.8 * rng.normal(size=(runs, len(METRICS)))
    if noise == "skewed":
        z = (np.exp(z) - np.exp(0.5)) / 2.16
    elif noise == "heavy-tailed":
        z = z / np.sqrt(rng.chisquare(3, size=(runs, 1)) / 3)
    elif noise == "outliers":
        z = z + (rng.random((runs, 1)) < 0.15) * 4
    made: list[dict[str, float]] = []
    for row in z:
        values = {"lookup.count": 10_000.0, "store.count": 10_000.0}
        for metric, one in zip(METRICS, row.tolist(), strict=True):
            if metric.scale == "points":
                values[metric.name] = 1 - rng.binomial(10_000, min(0.5, max(0.0, 0.01 + 0.002 * one))) / 10_000
            elif metric.scale == "keys":
                values[metric.name] = float(rng.poisson(0.3))
            elif metric.scale == "seconds":
                values[metric.name] = max(0.0, round(1.0 + one, 1))
            else:
                values[metric.name] = 0.1 * float(np.exp(SPREAD * one)) * (slower if metric.dimension == "time" else 1)
        made.append(values)
    return made


if __name__ == "__main__":
    sys.exit(main())
