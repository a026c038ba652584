"""Freshness: whoever reads a rewritten key gets the newest version that was acknowledged before, or a newer one.

A read is stale if it was sent after a newer version than the one it got had been acknowledged. A version of unknown fate
may have been kept or not, so it is never missed. Copies that a fault has cut off are told, and not held against the
network while the fault's window lasts; stale answers at any other time fail the run, beyond the keys that an expectation
about `stale` allows.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.expectations import Scope
from reports.checkers import MOST_DETAILS, Case, Finding


class Freshness:
    """No lookup returns an older version than one that was acknowledged before it began."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        reads = reads_of_rewritten(case.history.frame)
        if reads is None:
            return Finding("pass", "no key was rewritten", [])
        if reads.empty:
            return Finding("unknown", "keys were rewritten, and none of them was read afterwards", [])
        old = reads[reads["version"] < reads["newest"]]
        calm = case.windows.covers(Scope("outside_faults"), old["started"].to_numpy(), old["finished"].to_numpy())
        told = f"{len(old):,} of {len(reads):,} reads of rewritten keys were stale"
        if len(old):
            told += f", the worst by {float((old['started'] - old['since']).max()):.1f} s"
        if old.loc[calm, "key"].nunique() > case.allowed.get("stale", 0):
            return Finding("fail", f"{told}; {int(calm.sum()):,} of them outside all faults", _details(case, old[calm]))
        return Finding("pass", told, _details(case, old))


def reads_of_rewritten(operations: pd.DataFrame) -> pd.DataFrame | None:
    """Every answered read of a rewritten key, begun after an acknowledgement; None if no key was rewritten.

    With ``newest``, the newest version acknowledged before it was sent, and ``since``, when a newer version than the one
    that it got was first acknowledged (s; NaN if none was).
    """
    ok = (operations["outcome"] == "ok") & (operations["version"] >= 0)
    stores = operations.loc[ok & (operations["kind"] == "store"), ["key", "finished", "version"]]
    versions = stores.groupby("key", observed=True)["version"]
    rewritten = versions.transform("nunique") > 1
    if not rewritten.any():
        return None
    acked = stores[rewritten].sort_values("finished", kind="stable")
    acked = acked.assign(newest=acked.groupby("key", observed=True)["version"].cummax(), at=acked["finished"])
    reads = operations[ok & (operations["kind"] == "lookup") & operations["key"].isin(acked["key"])]
    reads = reads.sort_values("started", kind="stable")
    joined = pd.merge_asof(
        reads.assign(key=reads["key"].astype(str)),
        acked.assign(key=acked["key"].astype(str))[["key", "at", "newest"]],
        left_on="started",
        right_on="at",
        by="key",
    )
    joined = joined[joined["newest"].notna()]
    return _with_since(joined, acked)


def _with_since(reads: pd.DataFrame, acked: pd.DataFrame) -> pd.DataFrame:
    """When any version newer than the read's was first acknowledged: over versions backwards the least of their times."""
    newest_first = acked.assign(key=acked["key"].astype(str)).sort_values("version", ascending=False, kind="stable")
    first = newest_first.assign(since=newest_first.groupby("key")["finished"].cummin())
    first = first.drop_duplicates(["key", "version"], keep="last").sort_values("version", kind="stable")
    joined = pd.merge_asof(
        reads.sort_values("version", kind="stable"),
        first[["key", "version", "since"]],
        on="version",
        by="key",
        direction="forward",
        allow_exact_matches=False,
    )
    return joined.sort_values("started", kind="stable", ignore_index=True)


def _details(case: Case, old: pd.DataFrame) -> list[dict[str, Any]]:
    worst = old.assign(behind=old["started"] - old["since"]).nlargest(MOST_DETAILS, "behind")
    return [
        {
            "key": row["key"],
            "at": round(row["started"], 3),
            "gateway": row["gateway"],
            "version": int(row["version"]),
            "newest": int(row["newest"]),
            "behind_s": round(row["behind"], 3),
            "during": case.windows.in_force(row["started"]),
        }
        for row in worst.to_dict("records")
    ]
