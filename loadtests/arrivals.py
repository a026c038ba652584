"""When operations are due, in the open model: arrivals that do not wait for answers. Pure.

Due times are absolute, in seconds since the clock's start, so that a generator that falls behind does not drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Literal

Model = Literal["poisson", "constant"]


def arrivals(model: Model, rate: float, *, index: int, workers: int, rng: Random) -> Iterator[float]:
    """One worker's share of ``rate`` arrivals per second, for ever.

    Poisson: each worker has a process of rate/workers; together they are one of the whole rate. Constant: the workers take
    turns, so that together they are evenly spaced.
    """
    if model == "poisson":
        yield from _poisson(rate / workers, rng)
    else:
        yield from _constant(rate, index, workers)


def _poisson(rate: float, rng: Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += -math.log(1 - rng.random()) / rate
        yield due


def _constant(rate: float, index: int, workers: int) -> Iterator[float]:
    turn = index
    while True:
        yield turn / rate
        turn += workers
