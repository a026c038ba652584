"""The network as it was at chosen moments: before the first fault, late in each fault, after each, and at the end.

Tables, who is in how many of them, how many of a node's true closest it knew, and keys per node. From the looks at routing
tables and the samples of nodes nearest before each moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.analysis import Analysis
from reports.neighbours import Look

MOST_FAULTS = 8  # a run of many faults shows the first so many


def moments(analysis: Analysis) -> list[dict[str, Any]]:
    """A row per moment: `when`, `t`, `up`, and `table`, `in_degree`, `known`, `records` as (least, median, most) or None."""
    samples = analysis.history.samples
    if samples.empty:
        return []
    rows = [_moment(when, at, samples, analysis.case.looks) for when, at in _chosen(analysis)]
    return [row for row in rows if row]


def _chosen(analysis: Analysis) -> list[tuple[str, float]]:
    """What is shown and when: just before things change."""
    faults, windows = list(analysis.windows.faults)[:MOST_FAULTS], analysis.windows
    chosen = [("before any fault", windows.first_injection)] if faults else []
    for window in faults:
        if math.isfinite(window.healed):
            chosen.append((f"late in {window.name}", window.healed))
            chosen.append((f"after {window.name}", windows.next_injection(window.healed)))
        else:
            chosen.append((f"after {window.name}", windows.next_injection(window.start)))
    return [*chosen, ("at the end", math.inf)]


def _moment(when: str, at: float, samples: pd.DataFrame, looks: Sequence[Look]) -> dict[str, Any] | None:
    before = samples[samples["t"] < at]
    if before.empty:
        return None
    t = float(before["t"].max())
    nodes = before[(before["t"] == t) & before["up"]]
    look = next((one for one in reversed(looks) if one.t < at), None)
    return {
        "when": when,
        "t": t,
        "up": len(nodes),
        "table": _spread(nodes["table"].to_numpy(dtype=float)),
        "in_degree": None if look is None else _spread(look.in_degree[look.up].astype(float)),
        "known": None if look is None else _spread(look.known_share[look.up]),
        "records": _spread(nodes["records"].to_numpy(dtype=float)),
    }


def _spread(values: Any) -> tuple[float, float, float] | None:
    return (float(values.min()), float(np.median(values)), float(values.max())) if len(values) else None
