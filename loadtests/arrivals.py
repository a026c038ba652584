"""When operations are due in the open model. Pure: no clock, no sleeping; randomness is an argument.

An arrival process yields due times in seconds since the clock's start, ascending and without end. Arrivals do not wait
for answers, so a server's stall cannot hide behind a client that politely stops asking (coordinated omission).

A process is first drawn at unit rate and then scaled: ``due = x / rate``. A rate that changes over time is the same
process seen through the inverse of its cumulative rate, so that shapes need no other generator.

Workers share one load. Poisson: each draws its own process of rate / workers; independent Poisson processes superpose
to one of the summed rate. Constant: one grid, dealt round by index, so the union is as even as a single worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Literal

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


def arrivals(model: Arrivals, rate: float, *, seed: int, index: int = 0, workers: int = 1) -> Iterator[float]:
    """Worker ``index``'s share of a load of ``rate`` operations a second; the same for the same arguments, anywhere."""
    if model == "constant":
        return constant(rate, index=index, workers=workers)
    return poisson(rate / workers, Random(f"arrivals/{seed}/{index}"))
