"""Load delivered: what the experiment asked for was due, and was sent when it was due.

An experiment whose load did not come proves nothing: the verdict is `unknown` then, which makes the run inconclusive. A
load worker that dies is a failure of the harness, and told as one by `verdict.py`; here it is evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from reports.checkers import Case, Finding
from reports.history import patience

COLUMNS = ["intended", "started", "error", "worker"]
SLACK = 0.01  # share of the planned operations that may be missing,
SIGMAS = 4.5  # beside what chance explains: standard deviations of a Poisson count
MOST_SHED = 0.01  # share of operations that may be shed because too many were in flight
MOST_LAG = 0.05  # s; p99 of how late operations may be sent: beyond it latencies are partly the generator's own


class LoadDelivered:
    """The planned load was really sent, and in time."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        load, options = case.history.load, case.history.experiment["load"]
        due = load.loc[(load["intended"] >= 0) & (load["intended"] < case.windows.end), COLUMNS]
        shed = int((due["error"] == "shed").sum())
        details = _per_worker(due)
        by_hand = case.history.experiment.get("interactive")  # people start and stop the load as they please
        short = [] if by_hand else _too_few(len(due), options, case.windows.end)
        problems = [*_died(case), *short, *_idle_workers(case, due)]
        search = case.history.experiment.get(
            "limit"
        )  # goes on until the load is too much, and judges each step by itself
        if shed > MOST_SHED * len(due) and not search:
            problems.append(f"{shed:,} of {len(due):,} operations were shed, because too many were in flight")
        lag = _lag(due)
        if lag > MOST_LAG and not search:
            problems.append(
                f"the load was not delivered: one in a hundred operations was sent {lag * 1000:,.0f} ms late or more "
                f"(limit {MOST_LAG * 1000:.0f} ms), so the generator was too slow: lower the rate, or raise load.processes"
            )
        if problems:
            return Finding("unknown", "; ".join(problems), details)
        planned = (
            f" of {_expected(options, case.windows.end):,.0f} planned" if _is_open(options) and not by_hand else ""
        )
        return Finding(
            "pass", f"{len(due):,} operations were due{planned}, p99 of their lag {lag * 1000:.0f} ms", details
        )


def _expected(options: dict[str, Any], seconds: float) -> float:
    """How many operations should be due; in the closed model, how many at the very least."""
    if options.get("trace_us") is not None:
        return float(sum(at < seconds * 1e6 for at in options["trace_us"]))
    if options.get("points"):
        return _area([(at / 1e6, rate / 1000) for at, rate in options["points"]], seconds)
    if options.get("rate_per_1000s"):
        return float(options["rate_per_1000s"]) / 1000 * seconds
    turn = patience(options) + float(options.get("think_us") or 0) / 1e6
    return float(options.get("users") or 0) * math.floor(seconds / turn) if turn else 1.0


def _is_open(options: dict[str, Any]) -> bool:
    return bool(options.get("rate_per_1000s")) or options.get("trace_us") is not None


def _area(points: Sequence[tuple[float, float]], until: float) -> float:
    """What a curve of rates (linear between its points, constant after the last) brings up to ``until`` s."""
    ends = [*points, (max(until, points[-1][0]), points[-1][1])]
    area = 0.0
    for (start, low), (end, high) in pairwise(ends):
        if start < min(end, until):
            cut = min(end, until)
            area += (low + low + (high - low) * (cut - start) / (end - start)) / 2 * (cut - start)
    return area


def _too_few(count: int, options: dict[str, Any], seconds: float) -> list[str]:
    expected = _expected(options, seconds)
    least = expected * (1 - SLACK) - SIGMAS * math.sqrt(expected)
    if count and count >= least:
        return []
    return [f"{count:,} operations were due in {seconds:.0f} s, and {expected:,.0f} were planned"]


def _died(case: Case) -> list[str]:
    return [f"load worker {event.name} died" for event in case.history.of_kind("worker-exit")]


def _idle_workers(case: Case, due: pd.DataFrame) -> list[str]:
    """Workers that opened a file, or recorded something, but no load."""
    working = set(due["worker"].unique())
    known = sorted({*case.history.workers, *case.history.frame["worker"].unique()})
    return [f"load worker {name} sent nothing" for name in known if name not in working]


def _lag(due: pd.DataFrame) -> float:
    lags = (due["started"] - due["intended"]).to_numpy()
    return float(np.quantile(lags, 0.99)) if len(lags) else 0.0


def _per_worker(due: pd.DataFrame) -> list[dict[str, Any]]:
    groups = due.groupby("worker", observed=True, sort=True)
    return [
        {"worker": str(name), "operations": len(rows), "lag_p99_ms": round(_lag(rows) * 1000, 1)}
        for name, rows in groups
    ]
