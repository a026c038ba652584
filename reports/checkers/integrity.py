"""Integrity: whoever looks a key up gets bytes that were stored under it, and the newest that were acknowledged.

Wrong bytes at any time fail the run, and so do stale ones in the read-back, beyond what an expectation allows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from reports.checkers import MOST_DETAILS, Case, Finding


class Integrity:
    """No lookup returns bytes that were never stored under its key, or outdated ones."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        bad = {name: case.fates.found(name) for name in ("wrong", "stale")}
        counts = ", ".join(f"{len(keys):,} keys with {name} values" for name, keys in bad.items() if keys)
        if any(len(keys) > case.allowed.get(name, 0) for name, keys in bad.items()):
            return Finding("fail", counts, _details(case, [*bad["wrong"], *bad["stale"]]))
        answers = case.history.frame
        answered = int(((answers["kind"] == "lookup") & (answers["outcome"] == "ok")).sum())
        if not answered:
            return Finding("unknown", "no lookup was ever answered", [])
        return Finding("pass", f"{answered:,} answers had the right bytes{'; ' + counts if counts else ''}", [])


def _details(case: Case, keys: Sequence[str]) -> list[dict[str, Any]]:
    rows = case.history.frame
    wrong = rows[rows["key"].isin(keys) & ((rows["outcome"] == "wrong_value") | (rows["phase"] == "readback"))]
    return [_detail(case, row) for row in wrong.head(MOST_DETAILS).to_dict("records")]


def _detail(case: Case, row: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {
        "key": row["key"],
        "at": round(row["finished"], 3),
        "gateway": row["gateway"],
        "version": row["version"],
        "outcome": row["outcome"],
        "during": case.windows.in_force(row["intended"]),
    }
