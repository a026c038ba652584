"""Figures of a run's operations, exact and from all rows: shares, quantiles, means, rates.

Rules:
- A failed operation counts in every quantile, with finished - intended, as in every share.
- Too little data gives no value but a reason. What is enough follows from the quantity: a quantile q needs three rows
  beyond it, a share or a mean needs fifty.
- Quantiles are numpy's, linear between the two nearest rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.expectations import Scope
from reports.windows import Windows

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
MEASURED = ["kind", "outcome", "latency", "hops", "rpcs"]  # the columns that figures are made of
BEYOND = 3  # rows that a quantile needs beyond it
ENOUGH = 50  # rows that a share or a mean needs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A value in SI units, or None and why there is none. ``rows`` is the number of operations that it is about."""

    value: float | None
    rows: int
    why: str = ""


def rows_for_quantile(q: float) -> int:
    """How many rows a quantile needs: the least n with n (1 - q) >= BEYOND."""
    return math.ceil(round(BEYOND / (1 - q), 6))


def scoped(load: pd.DataFrame, windows: Windows, scope: Scope, kind: str = "") -> pd.DataFrame:
    """Operations of one kind (or both) that a scope covers: the columns of MEASURED, since there may be millions."""
    inside = windows.covers(scope, load["intended"].to_numpy(), load["finished"].to_numpy())
    if kind:
        inside &= (load["kind"] == kind).to_numpy()
    return load.loc[inside, MEASURED]


def measure(name: str, rows: pd.DataFrame, seconds: float) -> Measured:
    """One metric of ``rows``, which were due within ``seconds``. ``name`` is one of expectations.OPERATION_METRICS.

    ``rows`` have the columns outcome, latency, hops and rpcs.
    """
    if name in QUANTILES:
        return _quantile(rows, QUANTILES[name])
    if name == "rate":
        return Measured(len(rows) / seconds, len(rows)) if seconds > 0 else Measured(None, 0, "the scope has no length")
    if name == "max":
        return Measured(float(rows["latency"].max()), len(rows)) if len(rows) else Measured(None, 0, "no operations")
    return MEANS[name](rows)


def success_share(rows: pd.DataFrame) -> Measured:
    """The share of ok among all that were due."""
    return _mean((rows["outcome"] == "ok").to_numpy().astype(np.float64), "operations")


def known_mean(rows: pd.DataFrame, column: str, enough: int = ENOUGH) -> Measured:
    """The mean of a column that is -1 where it is unknown."""
    values = rows[column].to_numpy(dtype=np.float64)
    return _mean(values[values >= 0], f"operations with known {column}", enough)


MEANS: dict[str, Callable[[pd.DataFrame], Measured]] = {
    "success": success_share,
    "mean": lambda rows: _mean(rows["latency"].to_numpy(), "operations"),
    "hops": lambda rows: known_mean(rows, "hops"),
    "rpcs": lambda rows: known_mean(rows, "rpcs"),
}


def _quantile(rows: pd.DataFrame, q: float) -> Measured:
    needed = rows_for_quantile(q)
    if len(rows) < needed:
        return Measured(None, len(rows), f"{len(rows)} operations, and this quantile needs {needed}")
    return Measured(float(np.quantile(rows["latency"].to_numpy(), q)), len(rows))


def _mean(values: Floats, what: str, enough: int = ENOUGH) -> Measured:
    if len(values) < enough:
        return Measured(None, len(values), f"{len(values)} {what}, and {enough} are needed")
    return Measured(float(values.mean()), len(values))
