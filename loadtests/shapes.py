"""Kadstorm's curves as Locust's load shapes: how many users there are when, in the closed model.

Importing this imports Locust. The open model needs no such class: there the curve is of arrivals, not of users, and
`arrivals.py` follows it by itself.
"""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from loadtests import curves
from loadtests.curves import Curve, Point, value_at


class CurveShape(LoadTestShape):
    """A shape whose users follow a curve, from ``base`` on, for ``duration`` s."""

    abstract = True
    curve: ClassVar[Curve]

    def __init__(self, base: float, duration: float, options: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._duration = duration
        self._points: list[Point] = self.curve.points(base, duration, options)

    def tick(self) -> tuple[int, float] | None:
        """Users now, and so many at once that they are there at once; None when the load is over."""
        now: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if now >= self._duration:
            return None
        users = round(value_at(self._points, now))
        return users, max(1, users)


class RampShape(CurveShape):
    """Users that become more, or fewer, evenly."""

    curve = curves.Ramp()


class StepShape(CurveShape):
    """By so many users more every so often."""

    curve = curves.Step()


class SpikeShape(CurveShape):
    """A burst of users."""

    curve = curves.Spike()


class WaveShape(CurveShape):
    """Users that come by day and leave by night."""

    curve = curves.Wave()


SHAPES: dict[str, type[CurveShape]] = {"ramp": RampShape, "step": StepShape, "spike": SpikeShape, "wave": WaveShape}
