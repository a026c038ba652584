"""A run over time in buckets: what charts and sparklines show. Aggregates only, so a page never holds a row.

Each bucket's figures are exact for the operations that were due in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.expectations import KINDS

MOST_BUCKETS = 90
NICE = (0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)  # s


def bucket_width(seconds: float) -> float:
    """The least nice width that needs no more than MOST_BUCKETS."""
    return next((width for width in NICE if seconds <= width * MOST_BUCKETS), float(NICE[-1]))


def buckets(load: pd.DataFrame, seconds: float) -> list[dict[str, Any]]:
    """One record per bucket of [0, seconds).

    `t0`, `t1` and their middle `t`; for each kind `<kind>_success`, `_p50`, `_p99` (ms) and `_rate`, None without
    operations; `ok` and `failed`, both kinds together, per s.
    """
    width = bucket_width(seconds)
    count = max(1, int(np.ceil(round(seconds / width, 9))))
    index = np.floor(load["intended"].to_numpy() / width).astype(np.int64)
    inside = (index >= 0) & (index < count)
    good_rows = (load["outcome"] == "ok").to_numpy()
    rows = load[inside].assign(bucket=index[inside], good=good_rows[inside])
    records: list[dict[str, Any]] = [
        {"t0": n * width, "t1": min((n + 1) * width, seconds), "t": (n * width + min((n + 1) * width, seconds)) / 2}
        for n in range(count)
    ]
    for kind in KINDS:
        _add_kind(records, kind, rows[rows["kind"] == kind])
    due, good = (np.bincount(rows["bucket"][mask], minlength=count) for mask in (rows["bucket"] >= 0, rows["good"]))
    for n, record in enumerate(records):
        length = record["t1"] - record["t0"]
        record |= {"ok": round(float(good[n]) / length, 3), "failed": round(float(due[n] - good[n]) / length, 3)}
    return records


def _add_kind(records: list[dict[str, Any]], kind: str, rows: pd.DataFrame) -> None:
    latencies = {int(str(n)): part.to_numpy() * 1000 for n, part in rows.groupby("bucket")["latency"]}
    shares = rows.groupby("bucket")["good"].mean()
    for n, record in enumerate(records):
        some = latencies.get(n)
        p50, p99 = (None, None) if some is None else np.quantile(some, [0.5, 0.99]).round(3).tolist()
        success = None if some is None else round(float(shares[n]), 6)
        rate = 0.0 if some is None else round(len(some) / (record["t1"] - record["t0"]), 3)
        record |= {f"{kind}_success": success, f"{kind}_p50": p50, f"{kind}_p99": p99, f"{kind}_rate": rate}
