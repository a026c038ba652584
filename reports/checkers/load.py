"""Load delivered: what the experiment asked for was due, and was sent when it was due.

An experiment whose load did not come proves nothing: the verdict is `unknown` then, which makes the run inconclusive. A
load worker that dies is a failure of the harness, and told as one by `verdict.py`; here it is evidence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from reports.checkers import Case, Finding

COLUMNS = ["intended", "started", "error", "worker"]
SLACK = 0.01  # share of the planned operations that may be missing,
SIGMAS = 4.5  # beside what chance explains: standard deviations of a Poisson count
MOST_SHED = 0.01  # share of operations that may be shed because too many were in flight
MOST_LAG = 1.0  # s; p99 of how late operations may be sent


class LoadDelivered:
    """The planned load was really sent, and in time."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        load, options = case.history.load, case.history.experiment["load"]
        due = load.loc[(load["intended"] >= 0) & (load["intended"] < case.windows.end), COLUMNS]
        shed = int((due["error"] == "shed").sum())
        details = _per_worker(due)
        problems = [*_died(case), *_too_few(len(due), options, case.windows.end), *_idle_workers(case, due)]
        if shed > MOST_SHED * len(due):
            problems.append(f"{shed:,} of {len(due):,} operations were shed, because too many were in flight")
        lag = _lag(due)
        if lag > MOST_LAG:
            problems.append(
                f"one in a hundred operations was sent {lag:.1f} s late or more: the generator was too slow"
            )
        if problems:
            return Finding("unknown", "; ".join(problems), details)
        planned = f" of {_expected(options, case.windows.end):,.0f} planned" if options.get("rate_per_1000s") else ""
        return Finding(
            "pass", f"{len(due):,} operations were due{planned}, p99 of their lag {lag * 1000:.0f} ms", details
        )


def _expected(options: dict[str, Any], seconds: float) -> float:
    """How many operations should be due; in the closed model, how many at the very least."""
    if options.get("rate_per_1000s"):
        return float(options["rate_per_1000s"]) / 1000 * seconds
    turn = (float(options.get("timeout_us") or 0) + float(options.get("think_us") or 0)) / 1e6
    return float(options.get("users") or 0) * math.floor(seconds / turn) if turn else 1.0


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
