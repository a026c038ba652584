"""Availability: outside of faults there is no outage.

An *outage* is a stretch in which operations were due and none succeeded: at least FEWEST in a row that failed, from the
first one's due time to the due time of the next that succeeds (or to the end). It counts against the network if it
lasts for LONGEST or more outside all faults' windows. Told besides: the longest outage of all, and the share of seconds in
which at least TARGET of what was due succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.checkers import MOST_DETAILS, Case, Finding

FEWEST = 5  # failures in a row
LONGEST = 1.0  # s outside faults
TARGET = 0.99  # of the operations of a second


@dataclass(frozen=True)
class Outage:
    """[start, end], s, and how many operations in a row failed."""

    start: float
    end: float
    failures: int


class Availability:
    """Clients are served all the time, but for what faults do."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        load = case.history.load
        rows = load.loc[(load["intended"] >= 0) & (load["intended"] < case.windows.end), ["intended", "outcome"]]
        if rows.empty:
            return Finding("unknown", "no operation was due", [])
        found = outages(rows, case.windows.end)
        told = f"{seconds_served(rows):.1%} of the seconds had {TARGET:.0%} success or more; {_longest(found)}"
        bad = [one for one in found if _outside(one, case) >= LONGEST]
        details = [_detail(one, case) for one in sorted(bad or found, key=lambda one: one.start - one.end)]
        if bad:
            return Finding("fail", f"{len(bad)} outages outside faults; {told}", details[:MOST_DETAILS])
        return Finding("pass", told, details[:MOST_DETAILS])


def outages(rows: pd.DataFrame, end: float) -> list[Outage]:
    """All of them, by time. ``rows`` have the columns intended and outcome and are sorted by ``intended``."""
    failed = (rows["outcome"] != "ok").to_numpy()
    due = np.append(rows["intended"].to_numpy(), end)
    steps = np.diff(np.concatenate([[0], failed.astype(np.int8), [0]]))
    firsts, beyonds = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    long = beyonds - firsts >= FEWEST
    return [Outage(float(due[a]), float(due[b]), int(b - a)) for a, b in zip(firsts[long], beyonds[long], strict=True)]


def seconds_served(rows: pd.DataFrame) -> float:
    """The share of seconds with operations in which at least TARGET of them succeeded."""
    second = np.floor(rows["intended"].to_numpy()).astype(np.int64)
    second -= second.min()
    due = np.bincount(second)
    good = np.bincount(second, weights=(rows["outcome"] == "ok").to_numpy())
    some = due > 0
    return float(np.mean(good[some] >= TARGET * due[some]))


def _outside(outage: Outage, case: Case) -> float:
    """Seconds of it that lie in no fault's window."""
    covered = sum(max(0.0, min(outage.end, b) - max(outage.start, a)) for a, b in case.windows.merged)
    return outage.end - outage.start - covered


def _longest(found: list[Outage]) -> str:
    if not found:
        return "no outage"
    longest = max(found, key=lambda one: one.end - one.start)
    return f"the longest outage took {longest.end - longest.start:.1f} s from {longest.start:.1f} s on"


def _detail(outage: Outage, case: Case) -> dict[str, Any]:
    return {
        "from": round(outage.start, 3),
        "to": round(outage.end, 3),
        "failures": outage.failures,
        "during": case.windows.in_force(outage.start),
    }
