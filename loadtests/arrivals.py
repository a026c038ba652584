"""When operations are due in the open model. Pure: no clock, no sleeping; randomness is an argument.

An arrival process yields due times in seconds since the clock's start, ascending. Arrivals do not wait for answers, so a
server's stall cannot hide behind a client that politely stops asking (coordinated omission).

A process is first drawn at unit rate and then scaled: ``due = x / rate``. A rate that changes over time is the same
process seen through the inverse of its cumulative rate (`curves.along`), so that shapes need no other generator.

Workers share one load. Poisson: each draws its own process of rate / workers; independent Poisson processes superpose
to one of the summed rate. Constant: one grid, dealt round by index, so the union is as even as a single worker's. A
trace is dealt round likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Literal

from loadtests.curves import Point, along

Arrivals = Literal["poisson", "constant"]


def poisson(rate: float, rng: Random) -> Iterator[float]:
    """Exponential gaps of mean ``1 / rate`` seconds."""
    elapsed = 0.0
    while True:
        elapsed -= math.log(1.0 - rng.random())
        yield elapsed / rate


def constant(rate: float, *, index: int = 0, workers: int = 1) -> Iterator[float]:
    """Every ``workers``-th point of a grid of ``1 / rate`` seconds, from point ``index`` on.

    Each due time is computed from its number, not from the one before, so rounding errors do not add up.
    """
    for number in count(index, workers):
        yield number / rate


def arrivals(
    model: Arrivals,
    rate: float,
    *,
    seed: int,
    index: int = 0,
    workers: int = 1,
    curve: Sequence[Point] | None = None,
) -> Iterator[float]:
    """Worker ``index``'s share of a load of ``rate`` operations a second; the same for the same arguments, anywhere.

    With a ``curve`` of rates, of all workers together, the load follows that instead.
    """
    if model == "constant":
        unit = constant(1.0 if curve else rate, index=index, workers=workers)
    else:
        unit = poisson((1.0 if curve else rate) / workers, Random(f"arrivals/{seed}/{index}"))
    return along(curve, unit) if curve else unit


def traced(times: Sequence[float], *, index: int = 0, workers: int = 1) -> Iterator[float]:
    """Worker ``index``'s share of recorded due times (s, ascending)."""
    return iter(times[index::workers])
