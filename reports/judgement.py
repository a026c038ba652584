"""Holds what was measured against the expectations: pass, fail, or unknown where too little is known to tell.

An expectation may be decided before a value is: what is only known to lie between two bounds passes or fails if it does
so at every value between them. So three lost keys fail `lost == 0` whatever the rest of an unfinished read-back would
have found, and a network that had not recovered after 12 s fails `recovery <= 10s`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.expectations import Expectation, Scope, parse
from harness.records import Verdict
from reports.keys import Fates
from reports.metrics import measure, scoped
from reports.recovery import Recovery
from reports.summary import ExpectationResult
from reports.windows import Windows

UNITS = {"share": "share", "time": "s", "rate": "1/s", "count": ""}


@dataclass(frozen=True)
class Evidence:
    """All that expectations are judged by. ``recoveries``: by name, of every fault that was injected."""

    load: pd.DataFrame
    windows: Windows
    fates: Fates
    recoveries: dict[str, Recovery]


@dataclass(frozen=True)
class Bounds:
    """A value is known to lie in [low, high]; nothing is known if low is above high."""

    low: float
    high: float
    rows: int = 0
    note: str = ""

    @property
    def value(self) -> float | None:
        """The value, where it is known."""
        return self.low if self.low == self.high else None


def unknown(note: str, rows: int = 0) -> Bounds:
    """Nothing is known, and why."""
    return Bounds(math.inf, -math.inf, rows, note)


def judge(text: str, evidence: Evidence) -> ExpectationResult:
    """One expectation against the evidence."""
    expectation = parse(text)
    bounds = _bounds(expectation, evidence)
    return ExpectationResult(
        text=text,
        verdict=verdict_over(expectation, bounds),
        measured=bounds.value,
        limit=expectation.value,
        unit=UNITS[expectation.dimension],
        rows=bounds.rows,
        note=bounds.note,
    )


def verdict_over(expectation: Expectation, bounds: Bounds) -> Verdict:
    """Whether the expectation holds at every value within the bounds, at none, or at some only (unknown)."""
    if bounds.low > bounds.high:
        return "unknown"
    candidates = {bounds.low, bounds.high, min(max(expectation.value, bounds.low), bounds.high)}
    held = {expectation.holds(value) for value in candidates}
    if len(held) == 2:
        return "unknown"
    return "pass" if held == {True} else "fail"


def _bounds(expectation: Expectation, evidence: Evidence) -> Bounds:
    if expectation.measure == "recovery":
        return _recovery_bounds(expectation.scope, evidence)
    if not expectation.kind:
        return _key_bounds(expectation.measure, evidence.fates)
    scope = expectation.scope
    if scope.name and evidence.windows.named(scope.name) is None:
        return unknown(f"{scope.name} was never injected")
    rows = scoped(evidence.load, evidence.windows, scope, expectation.kind)
    found = measure(expectation.measure, rows, evidence.windows.seconds(scope))
    return unknown(found.why, found.rows) if found.value is None else Bounds(found.value, found.value, found.rows)


def _key_bounds(name: str, fates: Fates) -> Bounds:
    if not fates.acknowledged:
        return unknown("no store was ever acknowledged")
    found, unread = len(fates.found(name)), len(fates.unread)
    note = f"{found} so far; {unread} of {fates.acknowledged} keys were not read back" if unread else ""
    return Bounds(found, found + unread, fates.acknowledged, note)


def _recovery_bounds(scope: Scope, evidence: Evidence) -> Bounds:
    """Of one fault, or of the one that took longest."""
    names = [scope.name] if scope.name else [window.name for window in evidence.windows.faults]
    missing = [name for name in names if name not in evidence.recoveries]
    if missing or not names:
        return unknown(f"{missing[0]} was never injected" if missing else "no fault was injected")
    return _slowest([_recovery(name, evidence.recoveries[name]) for name in names])


def _recovery(name: str, recovery: Recovery) -> Bounds:
    if not recovery.known:
        return Bounds(0.0, math.inf, note=f"{name}: {recovery.why}")
    if recovery.seconds is None:
        return Bounds(
            math.nextafter(recovery.seen, math.inf), math.inf, note=f"{name}: not within {recovery.seen:.1f} s"
        )
    return Bounds(recovery.seconds, recovery.seconds)


def _slowest(several: Sequence[Bounds]) -> Bounds:
    notes = "; ".join(bounds.note for bounds in several if bounds.note)
    return Bounds(max(b.low for b in several), max(b.high for b in several), note=notes)
