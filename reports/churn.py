"""Churn as asked for and as it was: sessions and downtimes of the members, by their quartiles.

What was realised comes from the journal: a member's downtime lasts from the moment it was gone to the moment it served again,
a session from there to its next leave. Times that the end of the fault cut short count as longer than they were seen
(the product-limit estimate: Kaplan and Meier 1958), so that a short fault does not make sessions look short. The session in
which a member is when the fault begins is left out: what is left of it is distributed otherwise (the inspection paradox).

What was asked for are quartiles of the distribution, of which the fault's bounds know nothing: no session is shorter than a
second, no downtime shorter than 0.3 s (docs/faults.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final, Literal

from harness.expectations import quantity
from harness.records import Event
from reports.summary import Realised

QUARTILES: Final = (0.25, 0.5, 0.75)

Seen = tuple[float, bool]  # s, and whether that is all of it; if not, it was cut there


def realised(asked: Mapping[str, Any], events: Sequence[Event], end: float | None) -> list[Realised]:
    """Sessions and downtimes of one churn: of its options as written, its events, and when it was over (s)."""
    if "session" not in asked:
        return []
    sessions, downtimes = _times(events, end)
    told = [_compared("sessions", asked["session"], sessions)]
    if asked.get("downtime") is not None:
        told.append(_compared("downtimes", asked["downtime"], downtimes))
    return told


def _times(events: Sequence[Event], end: float | None) -> tuple[list[Seen], list[Seen]]:
    """Of all members together. What the end of the fault took back was not over by itself: it is cut."""
    sessions: list[Seen] = []
    downtimes: list[Seen] = []
    back_at: dict[str, float] = {}
    gone_at: dict[str, float] = {}
    for event in events:
        if event.t is None or event.event not in ("injected", "healed"):
            continue
        for member in event.targets:
            if event.event == "injected":
                if member in back_at:
                    sessions.append((event.t - back_at.pop(member), True))
                gone_at[member] = event.t
            elif member in gone_at:
                downtimes.append((event.t - gone_at.pop(member), end is None or event.t < end))
                back_at[member] = event.t
    if end is not None:
        sessions += [(end - since, False) for since in back_at.values() if since < end]
        downtimes += [(end - since, False) for since in gone_at.values() if since < end]
    return sessions, downtimes


def _compared(what: Literal["sessions", "downtimes"], written: Mapping[str, Any], seen: Sequence[Seen]) -> Realised:
    name, options = next(iter(written.items()))
    whole = sum(over for _, over in seen)
    return Realised(
        what=what,
        asked=" ".join([str(name), *(f"{key} {value}" for key, value in dict(options or {}).items())]),
        asked_quartiles_s=[_rounded(quantile(str(name), dict(options or {}), share)) for share in QUARTILES],
        quartiles_s=[_rounded(value) for value in product_limit(seen)],
        whole=whole,
        cut=len(seen) - whole,
    )


def quantile(name: str, options: Mapping[str, Any], share: float) -> float | None:
    """The time (s) that so large a share of draws does not exceed; None for what has no formula, such as a trace."""
    mean = quantity("time", str(options["mean"])) if "mean" in options else 0.0
    match name:
        case "exponential":
            return -math.log1p(-share) * mean
        case "weibull":
            shape = float(options["shape"])
            return float(mean / math.gamma(1 + 1 / shape) * (-math.log1p(-share)) ** (1 / shape))
        case "pareto":
            shape = float(options["shape"])
            return float(mean * (shape - 1) / shape * (1 - share) ** (-1 / shape))
        case "lognormal":
            sigma = float(options["sigma"])
            return mean * math.exp(sigma * NormalDist().inv_cdf(share) - sigma**2 / 2)
    return None


def product_limit(seen: Sequence[Seen]) -> list[float | None]:
    """The quartiles of times of which some were cut; None where too many were to tell."""
    left, survive, found = len(seen), 1.0, list[float | None]()
    for time, over in sorted(seen, key=lambda one: (one[0], not one[1])):  # at the same time those that were over first
        if over:
            survive *= 1 - 1 / left
        left -= 1
        while len(found) < len(QUARTILES) and survive <= 1 - QUARTILES[len(found)] + 1e-12:
            found.append(time)
    return found + [None] * (len(QUARTILES) - len(found))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
