"""What became of every key whose store was acknowledged, by what the read-back at the end found.

- *lost*: all gateways that were asked said that there is no such key.
- *unreachable*: no gateway gave a definite answer (timeouts, refusals, errors); it may still be there.
- *stale*: an older version came back than the newest acknowledged one.
- *wrong*: bytes that were never stored under that key came back, in the read-back or in any lookup before it.
- *unread*: the read-back never came to it, because the run ended before.

A store that was not acknowledged may have been kept or not; its key is in none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Fates:
    """``acknowledged`` is how many keys there are; the others list keys (hexadecimal), sorted."""

    acknowledged: int
    lost: Sequence[str]
    unreachable: Sequence[str]
    stale: Sequence[str]
    wrong: Sequence[str]
    unread: Sequence[str]

    def found(self, name: str) -> Sequence[str]:
        """The keys of one of the metrics lost, stale, wrong, unreachable."""
        found: Sequence[str] = getattr(self, name)
        return found


def fates_of(operations: pd.DataFrame) -> Fates:
    """The fates of all acknowledged keys. ``operations`` has the columns kind, key, outcome, phase and version."""
    newest = _newest_versions(operations)
    read = operations[operations["phase"] == "readback"]
    outcomes = read["outcome"]
    answered = read[outcomes == "ok"]
    wrong = operations.loc[operations["outcome"] == "wrong_value", "key"]
    definite = pd.concat([answered["key"], wrong])
    missing = read.loc[outcomes == "not_found", "key"]
    silent = read.loc[~outcomes.isin(["ok", "not_found", "wrong_value"]), "key"]
    expected = answered["key"].map(newest).astype("float64")  # of no keys pandas would make strings
    old = answered.loc[(answered["version"] >= 0) & (answered["version"] < expected), "key"]
    return Fates(
        acknowledged=len(newest),
        lost=_listed(missing[~missing.isin(definite) & ~missing.isin(silent)]),
        unreachable=_listed(silent[~silent.isin(definite)]),
        stale=_listed(old),
        wrong=_listed(wrong),
        unread=_listed(newest.index[~newest.index.isin(read["key"])].to_series()),
    )


def _newest_versions(operations: pd.DataFrame) -> pd.Series:
    """Key -> the newest version that was acknowledged."""
    acknowledged = operations[(operations["kind"] == "store") & (operations["outcome"] == "ok")]
    newest: pd.Series = acknowledged.groupby("key", sort=False)["version"].max()
    return newest


def _listed(keys: pd.Series) -> list[str]:
    return sorted(keys.unique())
