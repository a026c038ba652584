"""Balance: no node holds or answers far more than its share.

A node's fair share of the records follows from its identifier: among the nodes that are up it is one of the k closest of so
many acknowledged keys (of SAMPLE of them, drawn evenly, if there are more). Records are kept until they expire, so the largest
share counts that it had of three networks: of the first nodes (newcomers take no record away), of the fewest that there were at
a time (survivors take over what the dead held), and of the last. It fails to be fair if a node that ran to the end holds more
than FACTOR times that, beyond SLACK records. Traffic is told: who answered how many RPCs, against the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.checkers import MOST_DETAILS, Case, Finding
from reports.checkers.routing import bucket_size

SAMPLE = 5_000  # keys
FACTOR, SLACK = 3.0, 50


class Balance:
    """No node holds far more than its share."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        samples = case.history.samples
        last = samples[samples["up"] & (samples["t"] == samples["t"].max())].set_index("name")
        ids = {node.name: node.id for node in case.history.plan.nodes}
        keys = case.key_histories.keys
        if last.empty or not keys:
            return Finding("unknown", "no node was sampled" if last.empty else "no store was ever acknowledged", [])
        drawn = keys[:: max(1, len(keys) // SAMPLE)]
        shares = pd.Series(0.0, index=pd.Index(list(ids), name="name"))
        for names in networks(samples):
            there = [name for name in ids if name in names]
            fair = fair_shares(drawn, [ids[name] for name in there], bucket_size(case)) * len(keys) / len(drawn)
            shares[there] = np.maximum(shares[there], fair)
        table = shares.to_frame("fair").join(last, how="inner")
        over = table[table["records"] > FACTOR * table["fair"] + SLACK]
        told = f"records per node {_spread(table['records'])}, RPCs answered {_spread(table['rpcs_in'])}"
        if len(over):
            return Finding("fail", f"{len(over)} nodes hold far more than their share; {told}", _details(over))
        return Finding("pass", told, [])


def networks(samples: pd.DataFrame) -> list[set[str]]:
    """Who was up in the first sample, in the one of the fewest, and in the last; each network once."""
    up = [frozenset(group) for _, group in samples[samples["up"]].groupby("t")["name"]]
    return [set(names) for names in dict.fromkeys((up[0], min(up, key=len), up[-1]))] if up else []


def fair_shares(keys: Sequence[str], ids: Sequence[str], k: int) -> NDArray[np.float64]:
    """For each node of how many keys it is among the k closest; keys and ids in hexadecimal, of one length."""
    numbers = [int(one, 16) for one in ids]
    counts = np.zeros(len(ids))
    for key in keys:
        here = int(key, 16)
        for place in sorted(range(len(numbers)), key=lambda n: numbers[n] ^ here)[:k]:
            counts[place] += 1
    return counts


def _spread(values: pd.Series) -> str:
    mean = float(values.mean())
    most = f", the most {float(values.max()) / mean:.1f} times the mean" if mean > 0 else ""
    return f"{values.min():,.0f} to {values.max():,.0f}{most}"


def _details(over: pd.DataFrame) -> list[dict[str, Any]]:
    rows = over.reset_index().nlargest(MOST_DETAILS, "records").to_dict("records")
    return [{"node": row["name"], "records": int(row["records"]), "fair_share": round(row["fair"], 1)} for row in rows]
