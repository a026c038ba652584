"""What is known of every acknowledged key by all that was ever read of it, after Jepsen's set-full (jepsen.checker). Pure.

A key is *known* from the moment on at which its first store was acknowledged. A read of it counts if it began (was sent)
at that moment or later, and if its answer is definite: the value came back (*present*), or a gateway said that there is
none (*absent*). Timeouts, refusals and errors say nothing, and neither does what a store without acknowledgement did.

    stable       the last definite read found it; stale for as long as reads still missed it after it was known
    lost         the last definite reads (those of the read-back, if it came so far) did not find it
    never read   no read counts

A read is placed at its start: what it tells was true at some moment from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class KeyHistories:
    """Arrays of one length, a place per acknowledged key, in the order of ``keys``; times in s, NaN where there is none.

    ``known``: the first acknowledgement. ``stale``: s from there to the start of the last read that missed it, 0 if none
    did; of lost keys, how long they were still found.
    """

    keys: Sequence[str]
    known: Floats
    last_present: Floats
    last_absent: Floats

    @property
    def never_read(self) -> Mask:
        """Keys of which no read counts."""
        unread: Mask = np.isnan(self.last_present) & np.isnan(self.last_absent)
        return unread

    @property
    def stable(self) -> Mask:
        """Keys that the last definite read found."""
        found: Mask = ~np.isnan(self.last_present) & ~(self.last_absent > self.last_present)
        return found

    @property
    def lost(self) -> Mask:
        """Keys that the last definite read missed."""
        missed: Mask = ~self.never_read & ~self.stable
        return missed

    @property
    def stale(self) -> Floats:
        """Of stable keys, s after they were known until which a read still missed them; 0 if none did."""
        late: Floats = np.where(self.stable & ~np.isnan(self.last_absent), self.last_absent - self.known, 0.0)
        return late


def key_histories(operations: pd.DataFrame) -> KeyHistories:
    """Of all acknowledged keys. ``operations`` has the columns kind, key, outcome, started, finished and version."""
    keys = operations["key"].astype("category")
    names, codes = keys.cat.categories, keys.cat.codes.to_numpy()
    outcome, started = operations["outcome"], operations["started"].to_numpy()
    stored = ((operations["kind"] == "store") & (outcome == "ok")).to_numpy()
    known = _per_key(np.minimum, np.inf, len(names), codes[stored], operations["finished"].to_numpy()[stored])
    counts = (operations["kind"] == "lookup").to_numpy() & (started >= known[codes])
    present, absent = (
        _per_key(np.maximum, -np.inf, len(names), codes[rows], started[rows])
        for rows in (counts & (outcome == "ok").to_numpy(), counts & (outcome == "not_found").to_numpy())
    )
    some = np.isfinite(known)
    return KeyHistories(
        keys=names[some].tolist(),
        known=known[some],
        last_present=_or_nan(present[some]),
        last_absent=_or_nan(absent[some]),
    )


def _per_key(best: np.ufunc, empty: float, keys: int, codes: NDArray[Any], moments: Floats) -> Floats:
    found = np.full(keys, empty)
    best.at(found, codes, moments)
    return found


def _or_nan(moments: Floats) -> Floats:
    return np.where(np.isfinite(moments), moments, np.nan)
