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

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).min  # the newest acknowledged version of a key that has none

Mask = NDArray[np.bool_]


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
    keys = operations["key"].astype("category")
    names, codes = keys.cat.categories, keys.cat.codes.to_numpy()
    outcome, versions = operations["outcome"], operations["version"].to_numpy()
    ok, read = (outcome == "ok").to_numpy(), (operations["phase"] == "readback").to_numpy()
    stored = (operations["kind"] == "store").to_numpy() & ok
    newest = np.full(len(names), NEVER)
    np.maximum.at(newest, codes[stored], versions[stored])

    def having(rows: Mask) -> Mask:
        """Which keys any of these rows is about."""
        found = np.zeros(len(names), dtype=np.bool_)
        found[codes[rows]] = True
        return found

    wrong = (outcome == "wrong_value").to_numpy()
    missing = (outcome == "not_found").to_numpy()
    definite = having((read & ok) | wrong)
    silent = having(read & ~(ok | wrong | missing))
    old = read & ok & (versions >= 0) & (versions < newest[codes])

    def listed(found: Mask) -> list[str]:
        return sorted(names[found])

    return Fates(
        acknowledged=int(np.count_nonzero(newest != NEVER)),
        lost=listed(having(read & missing) & ~definite & ~silent),
        unreachable=listed(silent & ~definite),
        stale=listed(having(old)),
        wrong=listed(having(wrong)),
        unread=listed((newest != NEVER) & ~having(read)),
    )
