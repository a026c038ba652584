"""What routing tables knew, held against what they should know: a node's true k closest among those that are up. Pure.

From the looks at all tables (`tables.parquet`) and the samples taken at the same moments, which say who was up. Distances
are XOR's (Maymounkov and Mazières 2002, section 2.1); for a moment's table of N nodes they are one N x N matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.records import PlannedNode

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """All tables at one moment. ``knows[i, j]``: whether node i's table holds node j; ``up``: who answered; (N, N), (N,)."""

    t: float
    names: Sequence[str]
    knows: Mask
    up: Mask
    known_share: Floats  # of each node's true closest those that its table holds; NaN for nodes that are down

    @property
    def converged(self) -> bool:
        """Whether every node that is up knows all of its closest."""
        return bool(np.all(self.known_share[self.up] >= 1))

    @property
    def mean_share(self) -> float:
        """The mean over the nodes that are up; 1 if none is."""
        return float(self.known_share[self.up].mean()) if self.up.any() else 1.0

    @property
    def in_degree(self) -> NDArray[np.int64]:
        """In how many tables of nodes that are up each node is."""
        counts: NDArray[np.int64] = self.knows[self.up].sum(axis=0)
        return counts


def looks(contacts: pd.DataFrame, nodes: Sequence[PlannedNode], k: int) -> list[Look]:
    """All looks in the order of time. ``contacts`` has the columns of TABLE_COLUMNS; ``k`` is the nodes' bucket size."""
    return list(_looks(contacts, nodes, k))


def _looks(contacts: pd.DataFrame, nodes: Sequence[PlannedNode], k: int) -> Iterator[Look]:
    names = [node.name for node in nodes]
    place = {name: number for number, name in enumerate(names)}
    ranks = nearest([node.id for node in nodes])
    owners = contacts["name"].map(place).to_numpy(dtype=np.float64, na_value=np.nan)
    others = contacts["contact"].map(place).to_numpy(dtype=np.float64, na_value=np.nan)
    moments = contacts["t"].to_numpy()
    edges = np.flatnonzero(np.diff(moments)) + 1
    for rows in np.split(np.arange(len(moments)), edges) if len(moments) else []:
        knows, up = np.zeros((len(names), len(names)), dtype=np.bool_), np.zeros(len(names), dtype=np.bool_)
        here, there = owners[rows], others[rows]
        up[here[~np.isnan(here)].astype(int)] = True
        both = ~np.isnan(here) & ~np.isnan(there)
        knows[here[both].astype(int), there[both].astype(int)] = True
        yield Look(float(moments[rows[0]]), names, knows, up, shares(knows, up, ranks, k))


def nearest(ids: Sequence[str]) -> NDArray[np.int64]:
    """For each node all others by their distance, nearest first: (N, N - 1). ``ids``: hexadecimal."""
    numbers = [int(one, 16) for one in ids]
    everyone = range(len(numbers))
    ordered = [sorted((j for j in everyone if j != i), key=lambda j: numbers[i] ^ numbers[j]) for i in everyone]
    return np.array(ordered, dtype=np.int64).reshape(len(numbers), max(0, len(numbers) - 1))


def shares(knows: Mask, up: Mask, ranks: NDArray[np.int64], k: int) -> Floats:
    """Of each node's min(k, others that are up) closest, the share that its table holds; NaN for nodes that are down."""
    alive = up[ranks]
    wanted = alive & (np.cumsum(alive, axis=1) <= k)
    held = np.take_along_axis(knows, ranks, axis=1) & wanted
    count = wanted.sum(axis=1)
    found: Floats = np.where(count > 0, held.sum(axis=1) / np.maximum(count, 1), 1.0)
    found[~up] = np.nan
    return found
