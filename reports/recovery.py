"""How long after a fault the network was as good again as before any.

Recovery is the time from a fault's heal to the first moment from which every sliding window, for lookups and for
stores, is no worse than before any fault, up to the next injection or the end of the rows:

- Windows are WIDTH long and start every STEP from the heal on; an operation is in one by its intended start.
- Before: operations that were due and had finished before the first injection. Their success and p99 are what a
  window is held against: success not lower by more than MARGIN, p99 at most twice or SLACK more, whichever is larger.
- A window is bad only if chance does not explain it: if its failures (or its operations slower than that p99 may be)
  are so many that a network exactly at the limit would show as many with a probability below ALPHA. That is the exact
  binomial bound, and it holds for few operations as for many.
- The last window ends so long before the next injection as an operation may take to be no slow one: who still waits
  when the next fault begins, waits for that.
- A window without a single operation shows nothing: then recovery is unknown. So it is if there are too few operations
  before the first fault, or no whole window after the heal.

`seen` says how long one could look; a network that had not recovered by then took longer than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.metrics import ENOUGH
from reports.windows import Window, Windows

WIDTH = 3.0  # s
STEP = 0.1  # s
MARGIN = 0.01  # by how much the share of ok may be lower
FACTOR, SLACK = 2.0, 0.050  # p99 may be twice what it was, or 50 ms more
QUANTILE = 0.99
COLUMNS = ["intended", "finished", "latency", "outcome"]
ALPHA = 0.001  # small, since hundreds of windows are looked at

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Recovery:
    """``seconds`` from the heal; None if it did not recover (``why`` is empty) or if that is unknown (``why`` says so).

    ``seen``: s from the heal to the next injection or the end.
    """

    seconds: float | None
    seen: float
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there was enough to tell."""
        return not self.why


@dataclass(frozen=True)
class Baseline:
    """One kind of operation before any fault: share of failures, and the latency that 99% may not exceed (s)."""

    failures: float
    limit: float


@dataclass(frozen=True)
class _Series:
    """One kind of operation, sorted by ``intended``, with the flags that are counted."""

    intended: Floats
    failed: Bools
    slow: Bools
    baseline: Baseline


def recovery_after(window: Window, windows: Windows, load: pd.DataFrame) -> Recovery:
    """Recovery from one fault. ``load`` has the columns kind, intended, finished, latency, outcome."""
    horizon = windows.next_injection(window.healed)
    if not math.isfinite(window.healed):
        return Recovery(None, 0.0, "it was never healed")
    seen = max(0.0, horizon - window.healed)
    series: list[_Series] = []
    for kind in ("lookup", "store"):
        rows = load.loc[load["kind"] == kind, COLUMNS].sort_values("intended", kind="stable")
        if len(rows):
            baseline = baseline_of(rows, windows.first_injection)
            if baseline is None:
                return Recovery(None, seen, f"there are fewer than {ENOUGH} {kind}s before the first fault")
            series.append(_flagged(rows, baseline))
    waiting = max((one.baseline.limit for one in series), default=0.0)
    until = horizon - waiting if horizon < windows.end else horizon  # after the end nothing is injected
    return _first_good(series, window.healed, seen, until)


def baseline_of(rows: pd.DataFrame, first_injection: float) -> Baseline | None:
    """What operations of one kind were like before any fault; None if they are too few."""
    before = rows[rows["finished"] < first_injection]
    if len(before) < ENOUGH:
        return None
    p99 = float(np.quantile(before["latency"].to_numpy(), QUANTILE))
    return Baseline(float((before["outcome"] != "ok").mean()), max(FACTOR * p99, p99 + SLACK))


def is_bad(count: NDArray[np.int64], of: NDArray[np.int64], share: float) -> Bools:
    """Whether ``count`` events among ``of`` are too many for a true share of ``share``: P(X >= count) < ALPHA."""
    from scipy.special import bdtrc  # a tenth of a second of import

    if share >= 1:
        return np.zeros(len(count), dtype=np.bool_)
    tail = np.ones(len(count))
    some = count > 0
    tail[some] = bdtrc((count[some] - 1).astype(float), of[some], share)
    bad: Bools = tail < ALPHA
    return bad


def _flagged(rows: pd.DataFrame, baseline: Baseline) -> _Series:
    return _Series(
        intended=rows["intended"].to_numpy(),
        failed=(rows["outcome"] != "ok").to_numpy(),
        slow=(rows["latency"] > baseline.limit).to_numpy(),
        baseline=baseline,
    )


def _first_good(series: Sequence[_Series], healed: float, seen: float, until: float) -> Recovery:
    """The first of the windows up to ``until`` from which on all are good."""
    count = math.floor((until - healed - WIDTH) / STEP + 1e-9) + 1
    if count < 1:
        return Recovery(None, seen, f"less than {WIDTH:g} s were left to look at")
    starts: Floats = healed + STEP * np.arange(count, dtype=np.float64)
    bad = np.zeros(count, dtype=np.bool_)
    rows = np.zeros(count, dtype=np.int64)
    for one in series:
        bad |= _bad_windows(one, starts)
        rows += _within(one.intended, np.ones(len(one.intended), dtype=np.bool_), starts)
    if not rows.all():
        return Recovery(None, seen, "there are moments after the heal without any operation")
    last_bad = int(np.flatnonzero(bad)[-1]) if bad.any() else -1
    if last_bad == count - 1:
        return Recovery(None, seen)
    return Recovery(round((last_bad + 1) * STEP, 6), seen)


def _bad_windows(series: _Series, starts: Floats) -> Bools:
    rows = _within(series.intended, np.ones(len(series.intended), dtype=np.bool_), starts)
    failed = _within(series.intended, series.failed, starts)
    slow = _within(series.intended, series.slow, starts)
    return is_bad(failed, rows, series.baseline.failures + MARGIN) | is_bad(slow, rows, 1 - QUANTILE)


def _within(intended: Floats, flags: Bools, starts: Floats) -> NDArray[np.int64]:
    """How many flagged operations each window [start, start + WIDTH) holds."""
    before = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    first, beyond = (np.searchsorted(intended, edge, side="left") for edge in (starts, starts + WIDTH))
    counts: NDArray[np.int64] = before[beyond] - before[first]
    return counts
