"""Routing: tables know whom they should, and lookups take about as many hops as an ideal network would need.

The ideal for N nodes with buckets of k is log2(N / k) hops divided by the bits that one hop gains, log2(k) + 1.33, as
measured on full tables (docs/reports.md); hops are counted outside of faults only. Of every node's true closest, its
table should hold nearly all while no fault is in force.
"""

from __future__ import annotations

import math
from typing import Any

from harness.expectations import Scope
from reports.checkers import DEFAULT_K, MOST_DETAILS, Case, Finding
from reports.metrics import known_mean, scoped

GAINED = 1.33  # bits a hop gains beyond log2 k
FACTOR, SLACK = 2.0, 1.0  # mean hops may be twice the ideal and one more
LEAST_KNOWN = 0.9  # share of the true closest, mean over nodes and calm moments


class Routing:
    """Lookups take few hops, and nodes know their closest."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        rows = scoped(case.history.load, case.windows, Scope("outside_faults"), "lookup")
        hops, rpcs = known_mean(rows, "hops"), known_mean(rows, "rpcs")
        nodes, k = len(case.history.plan.nodes), bucket_size(case)
        ideal = ideal_hops(nodes, k)
        calm = [look for look in case.looks if not case.windows.in_force(look.t)]
        if hops.value is None and not calm:
            return Finding("unknown", f"hops: {hops.why}; no routing table was looked at outside faults either", [])
        told, problems = [], []
        if hops.value is not None:
            told.append(f"{hops.value:.2f} hops and {rpcs.value or 0:.1f} RPCs a lookup (ideal {ideal:.2f} hops)")
            problems += ["too many hops"] if hops.value > FACTOR * ideal + SLACK else []
        if calm:
            share = sum(look.mean_share for look in calm) / len(calm)
            told.append(f"tables held {share:.1%} of the true closest nodes in {len(calm)} looks outside faults")
            problems += ["tables miss close nodes"] if share < LEAST_KNOWN else []
        if problems:
            return Finding("fail", f"{' and '.join(problems)}: {'; '.join(told)}", _worst(case))
        return Finding("pass", "; ".join(told), [])


def ideal_hops(nodes: int, k: int) -> float:
    """Mean hops of a lookup among ``nodes`` with full tables."""
    return max(0.0, math.log2(max(nodes, 1) / k) / (math.log2(max(k, 2)) + GAINED))


def bucket_size(case: Case) -> int:
    """k of this experiment's nodes."""
    return int((case.history.experiment["cluster"].get("node") or {}).get("k") or DEFAULT_K)


def _worst(case: Case) -> list[dict[str, Any]]:
    calm = sorted((look for look in case.looks if not case.windows.in_force(look.t)), key=lambda look: look.mean_share)
    return [
        {"at": round(look.t, 3), "true_closest_known": round(look.mean_share, 4), "nodes_up": int(look.up.sum())}
        for look in calm[:MOST_DETAILS]
    ]
