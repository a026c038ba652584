"""How a rate, or a number of users, changes over a load: named curves. Pure.

A curve is a list of points (t in s, value), ascending in t, linear between two of them and constant after the last; two
points with one t are a jump. One form for all of them, so that arrivals, Locust's shapes, the plan and the report read a
curve without knowing its name.

A curve's base value is the load's own `rate` (or `users`); what else it takes stands in ``options``. Curves are found by
the entry-point group ``kadstorm.shapes``, so that other packages can add theirs: a class with `summary`, `options` and
`points`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Protocol

Point = tuple[float, float]
Unit = Literal["rate", "time"]

MOST_POINTS = 100_000  # the plan holds them all
WAVE_PIECES = 96  # straight pieces a day: a quarter of an hour of a real one; off the cosine by 0.03% of its height


class Curve(Protocol):
    """What a curve has to be."""

    summary: ClassVar[str]
    options: ClassVar[dict[str, tuple[Unit, str]]]  # name -> unit, what it says; all are required

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> list[Point]:
        """The curve from 0 to ``duration`` (s); rates per second, times in s. Raises ValueError if there are too many."""
        ...


def _affordable(count: float, option: str, duration: float) -> None:
    """See that about so many points are not too many, before any is made. Raises ValueError."""
    if count > MOST_POINTS:
        raise ValueError(
            f"{option} makes {count:,.0f} points of {duration:g} s; a longer one is expected, for at most {MOST_POINTS:,}"
        )


class Ramp:
    """From the base value evenly up (or down) to another one, which then stays."""

    summary: ClassVar[str] = "from `rate` evenly to another rate, which then stays"
    options: ClassVar[dict[str, tuple[Unit, str]]] = {
        "to": ("rate", "the rate in the end"),
        "over": ("time", "how long"),
    }

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> list[Point]:
        """See `Curve.points`."""
        return [(0.0, base), (options["over"], options["to"])]


class Step:
    """By so much more every so often."""

    summary: ClassVar[str] = "from `rate` on by so much more every so often"
    options: ClassVar[dict[str, tuple[Unit, str]]] = {"by": ("rate", "each step"), "every": ("time", "its length")}

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> list[Point]:
        """See `Curve.points`."""
        by, every = options["by"], options["every"]
        points: list[Point] = []
        _affordable(2 * duration / every, "`step`: `every`", duration)
        for number in range(math.ceil(duration / every)):
            value = base + number * by
            points += [(number * every, value), ((number + 1) * every, value)]
        return points


class Spike:
    """A burst in the middle of an even load."""

    summary: ClassVar[str] = "an even `rate` with one burst in it"
    options: ClassVar[dict[str, tuple[Unit, str]]] = {
        "to": ("rate", "the rate of the burst"),
        "at": ("time", "when it comes"),
        "lasts": ("time", "how long it stays"),
    }

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> list[Point]:
        """See `Curve.points`."""
        at, to = options["at"], options["to"]
        end = at + options["lasts"]
        return [(0.0, base), (at, base), (at, to), (end, to), (end, base)]


class Wave:
    """A day's wave: from a low in the night to the base value at noon and back, again and again."""

    summary: ClassVar[str] = "a day's wave: lowest at night, where it begins, `rate` at noon, again and again"
    options: ClassVar[dict[str, tuple[Unit, str]]] = {
        "lowest": ("rate", "the rate at night"),
        "day": ("time", "from one night to the next"),
    }

    def points(self, base: float, duration: float, options: Mapping[str, float]) -> list[Point]:
        """See `Curve.points`."""
        lowest, day = options["lowest"], options["day"]
        _affordable(duration / day * WAVE_PIECES, "`wave`: `day`", duration)
        pieces = math.ceil(duration / day * WAVE_PIECES)
        half = (base - lowest) / 2
        return [
            (number * day / WAVE_PIECES, lowest + half * (1 - math.cos(2 * math.pi * number / WAVE_PIECES)))
            for number in range(pieces + 1)
        ]


OWN: dict[str, Curve] = {"ramp": Ramp(), "step": Step(), "spike": Spike(), "wave": Wave()}


def value_at(points: Sequence[Point], t: float) -> float:
    """The curve's value at ``t`` (s); at a jump the one after it."""
    after = bisect_right(points, t, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (start, low), (end, high) = points[after - 1], points[after]
    return low + (high - low) * (t - start) / (end - start)


def along(points: Sequence[Point], unit: Iterator[float]) -> Iterator[float]:
    """Arrivals of unit rate (ascending) put on the curve: the inverse of its cumulative rate, piece by piece. They end
    where the rate has become zero for good."""
    pieces = _pieces(points)
    start, low, end, high = next(pieces)
    before = 0.0  # arrivals expected up to this piece
    for wanted in unit:
        while wanted - before > (held := _held(start, low, end, high)):
            before += held
            following = next(pieces, None)
            if following is None:
                return
            start, low, end, high = following
        slope = 0.0 if math.isinf(end) or end <= start else (high - low) / (end - start)
        yield start + _time_to(wanted - before, low, slope)


def _held(start: float, low: float, end: float, high: float) -> float:
    """Arrivals that are expected in one piece."""
    return (low + high) / 2 * (end - start) if low or high else 0.0


def _time_to(wanted: float, rate: float, slope: float) -> float:
    """When a rate that begins at ``rate`` and grows by ``slope`` a second has brought so many. The form of the quadratic's
    solution that stays exact for small slopes."""
    return 2 * wanted / (rate + math.sqrt(max(0.0, rate * rate + 2 * slope * wanted))) if wanted > 0 else 0.0


def _pieces(points: Sequence[Point]) -> Iterator[tuple[float, float, float, float]]:
    """The curve's straight pieces: start, value, end, value. The last one goes on for ever."""
    for (start, low), (end, high) in pairwise(points):
        yield start, low, end, high
    last, value = points[-1]
    yield last, value, math.inf, value
