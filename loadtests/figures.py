"""A worker's figures while it works: for the live view and for telling whether the load was delivered. Pure.

These come from the same rows that are recorded, in windows. Verdicts never do: `reports/` computes those from the file.
A window is computed in one go over columns: row by row it costs as much as sending an operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests.recorder import Operation

SMALLEST_LAG = 1e-4  # s; what is below is counted as this
STEP = math.log(1.05)  # a histogram's bucket is 5% wide


class LagMeter:
    """How late operations were sent: maximum, and quantiles to 5% in constant memory. Seconds."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0
        self.largest = 0.0

    def add(self, lags: Sequence[float]) -> None:
        """Note the lags of some operations (from due to sent, s)."""
        if not len(lags):
            return
        values = np.maximum(np.asarray(lags, dtype=float), SMALLEST_LAG)
        buckets = np.maximum(np.ceil(np.log(values / SMALLEST_LAG) / STEP), 0).astype(int)
        for bucket, count in zip(*np.unique(buckets, return_counts=True), strict=True):
            self._buckets[int(bucket)] = self._buckets.get(int(bucket), 0) + int(count)
        self._count += len(lags)
        self.largest = max(self.largest, *lags) if len(lags) > 1 else max(self.largest, lags[0])

    def quantile(self, share: float) -> float:
        """A lag that at least ``share`` of all operations did not exceed; 0 without any."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self._count:
                return min(SMALLEST_LAG * math.exp(bucket * STEP), self.largest)
        return 0.0

    def told(self) -> dict[str, float]:
        """As the control protocol has it, in milliseconds."""
        return {"lag_ms": to_ms(self.quantile(0.99)), "lag_max_ms": to_ms(self.largest)}


class Window:
    """Collects the rows of phase load since it was last taken."""

    def __init__(self) -> None:
        self._rows: list[Operation] = []
        self.lag = LagMeter()  # over the whole load
        self.count = 0
        self.shed = 0  # of them, those that were never sent

    def add(self, row: Operation) -> None:
        """Take note of a row, if it is of phase load."""
        if row.phase == "load":
            self._rows.append(row)

    def take(self) -> dict[str, Any]:
        """Counts, quantiles and lag of the rows since the last call, as the `stats` event has them."""
        rows = self._rows.copy()
        self._rows.clear()
        self.count += len(rows)
        lags = [row.started - row.intended for row in rows if row.error != "shed"]
        self.shed += len(rows) - len(lags)
        recent = LagMeter()
        for meter in (recent, self.lag):
            meter.add(lags)
        return {kind: _figures(rows, kind) for kind in ("lookup", "store")} | recent.told()


def _figures(rows: Sequence[Operation], kind: str) -> dict[str, Any]:
    latencies = sorted(row.finished - row.intended for row in rows if row.kind == kind)
    ok = sum(row.outcome == "ok" for row in rows if row.kind == kind)
    return {
        "count": len(latencies),
        "ok": ok,
        "p50_ms": nearest_rank(latencies, 0.5),
        "p99_ms": nearest_rank(latencies, 0.99),
    }


def nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of them do not exceed, from seconds to milliseconds."""
    if not ordered:
        return None
    return to_ms(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def to_ms(seconds: float) -> float:
    """Milliseconds, to the microsecond."""
    return round(seconds * 1e3, 3)


# --- the page's, from Locust's own statistics ----------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """One kind's counts at one moment: requests, failures, and requests by their latency (ms, as Locust rounds it)."""

    count: int
    failed: int
    latencies: dict[int, int]


def recent(before: Look, after: Look, seconds: float) -> dict[str, Any]:
    """The figures of what came between two looks, so many seconds apart."""
    count, failed = after.count - before.count, after.failed - before.failed
    came = {ms: number - before.latencies.get(ms, 0) for ms, number in sorted(after.latencies.items())}
    return {
        "count": count,
        "rate": count / seconds if seconds > 0 else 0.0,
        "success": 1 - failed / count if count else None,
        "p50_ms": quantile(came, 0.5),
        "p99_ms": quantile(came, 0.99),
    }


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The smallest value (they ascend) that at least that share of all does not exceed; None if there are none."""
    wanted, seen = share * sum(counts.values()), 0
    for value, count in counts.items():
        seen += count
        if seen and seen >= wanted:
            return value
    return None
