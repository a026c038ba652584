"""A run over time in buckets: what charts and sparklines show. Aggregates only, so a page never holds a row.

Each bucket's figures are exact for the operations that were due in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.expectations import KINDS

MOST_BUCKETS = 90
NICE = (0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)  # s


def bucket_width(seconds: float) -> float:
    """The least nice width that needs no more than MOST_BUCKETS."""
    return next((width for width in NICE if seconds <= width * MOST_BUCKETS), float(NICE[-1]))


def buckets(load: pd.DataFrame, seconds: float, samples: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """One record per bucket of [0, seconds).

    `t0`, `t1` and their middle `t`; for each kind `<kind>_success`, `_p50`, `_p99` (ms) and `_rate`, None without
    operations; `ok` and `failed`, both kinds together, per s; `hops` and `rpcs`, means of lookups; `lag`, the p99 of how late
    operations were sent (ms). With ``samples`` of the nodes: `up`, how many answered, and `traffic`, RPCs they sent per s.
    """
    width = bucket_width(seconds)
    count = max(1, int(np.ceil(round(seconds / width, 9))))
    index = np.floor(load["intended"].to_numpy() / width).astype(np.int64)
    inside = (index >= 0) & (index < count)
    rows = load.loc[inside, ["kind", "latency", "hops", "rpcs"]]
    rows["bucket"], rows["good"] = index[inside], (load["outcome"] == "ok").to_numpy()[inside]
    rows["lag"] = _lag_ms(load)[inside]
    records: list[dict[str, Any]] = [
        {"t0": n * width, "t1": min((n + 1) * width, seconds), "t": (n * width + min((n + 1) * width, seconds)) / 2}
        for n in range(count)
    ]
    for kind in KINDS:
        _add_kind(records, kind, rows[rows["kind"] == kind])
    _add_means(records, rows)
    if samples is not None:
        _add_nodes(records, samples, width)
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


def _add_means(records: list[dict[str, Any]], rows: pd.DataFrame) -> None:
    lookup = rows["kind"] == "lookup"
    means = {
        name: rows.loc[lookup & (rows[name] >= 0), ["bucket", name]].groupby("bucket")[name].mean()
        for name in ("hops", "rpcs")
    }
    lag = rows.groupby("bucket")["lag"].quantile(0.99)
    for n, record in enumerate(records):
        record |= {name: _rounded(of.get(n)) for name, of in means.items()}
        record["lag"] = _rounded(lag.get(n))


def _add_nodes(records: list[dict[str, Any]], samples: pd.DataFrame, width: float) -> None:
    """How many nodes answered in a bucket's last sample, and what they sent since their samples before, per s."""
    inside = samples[(samples["t"] >= 0) & (samples["t"] < len(records) * width)]
    counts = inside.groupby("t")["up"].sum()
    places = (counts.index.to_numpy() // width).astype(int).tolist()
    up = dict(
        zip(places, counts.astype(int).tolist(), strict=True)
    )  # a bucket's later samples replace its earlier ones
    known = inside[inside["up"]].sort_values(["name", "t"], kind="stable")
    groups = known.groupby("name", observed=True)
    sent, seconds = groups["rpcs_out"].diff(), groups["t"].diff()
    sent = sent.where(sent >= 0, known["rpcs_out"])  # a node that was restarted counts from nothing again
    per_s = (sent / seconds)[seconds > 0].groupby(known["t"]).sum()
    traffic = per_s.groupby((per_s.index.to_numpy() // width).astype(int)).mean()
    seen: int | None = None
    for n, record in enumerate(records):
        seen = up.get(n, seen)
        record |= {"up": seen, "traffic": _rounded(traffic.get(n))}


def _lag_ms(load: pd.DataFrame) -> NDArray[np.float64]:
    """How late each operation was sent; NaN for those that never were."""
    lag: NDArray[np.float64] = (load["started"].to_numpy() - load["intended"].to_numpy()) * 1000
    lag[(load["error"] == "shed").to_numpy()] = np.nan
    return lag


def _rounded(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), 3)
