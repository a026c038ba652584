"""Durability: every key whose store was acknowledged can still be read at the end.

After Jepsen's set-full: `reports/setfull.py` says what is known of a key by all reads of it, `reports/keys.py` what the
read-back at the end found. Lost keys fail the run, beyond what an expectation about `lost` allows. Keys that nobody could
be asked for, or that the read-back never came to, leave it unknown: they may be there or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.checkers import MOST_DETAILS, Case, Finding


class Durability:
    """Every acknowledged key can still be read at the end."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        fates = case.fates
        total = f"{fates.acknowledged:,} acknowledged keys"
        if not fates.acknowledged:
            return Finding("unknown", "no store was ever acknowledged", [])
        if len(fates.lost) > case.allowed.get("lost", 0):
            return Finding("fail", f"{len(fates.lost):,} of {total} are lost", _stories(case, fates.lost, "lost"))
        open_questions = []
        if len(fates.unreachable) > case.allowed.get("unreachable", 0):
            open_questions.append(f"{len(fates.unreachable):,} could not be reached")
        if fates.unread:
            open_questions.append(f"{len(fates.unread):,} were not read back")
        if open_questions:
            evidence = f"of {total}, {' and '.join(open_questions)}; {len(fates.lost):,} are known to be lost"
            return Finding("unknown", evidence, _stories(case, fates.unreachable, "unreachable"))
        return Finding("pass", f"{total} were read back, {len(fates.lost):,} are lost{_late(case)}", [])


def _late(case: Case) -> str:
    """How many keys reads still missed after they were acknowledged, and for how long."""
    stale = case.key_histories.stale
    late = stale[stale > 0]
    return (
        f"; reads missed {len(late):,} of them for a time, up to {late.max():.1f} s after they were acknowledged"
        if len(late)
        else ""
    )


def _stories(case: Case, keys: Sequence[str], fate: str) -> list[dict[str, Any]]:
    chosen = keys[:MOST_DETAILS]
    rows = case.history.frame
    rows = rows[rows["key"].isin(chosen)]
    return [_story(case, key, fate, rows[rows["key"] == key]) for key in chosen]


def _story(case: Case, key: str, fate: str, rows: pd.DataFrame) -> dict[str, Any]:
    """When the key was stored through whom, and when it was last seen."""
    stored = rows[(rows["kind"] == "store") & (rows["outcome"] == "ok")].iloc[-1]
    seen = rows[(rows["kind"] == "lookup") & (rows["outcome"] == "ok")]
    return {
        "key": key,
        "fate": fate,
        "stored_at": round(float(stored["finished"]), 3),
        "gateway": stored["gateway"],
        "acks": int(stored["acks"]),
        "during": case.windows.in_force(float(stored["intended"])),
        "last_seen": round(float(seen["finished"].max()), 3) if len(seen) else None,
    }
