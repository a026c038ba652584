"""What a lookup costs in 100, 1,000 and 10,000 nodes, in virtual time, against the ideal node.

Run: ``python benchmarks/virtual.py [--quick] [--json FILE]``.

The bed's tables are full, k = 20, alpha = 3: the costs to compare with were simulated on such tables. A round trip is
4 ms on average. ``theirs`` is the ideal; a ratio of 1 is as good.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry) != HERE]  # a file there is called node.py

from node.ids import random_id  # noqa: E402
from node.settings import Settings  # noqa: E402
from node.virtual import Converged  # noqa: E402
from node.wire import Get, GetResult  # noqa: E402

IDEAL = {  # by nodes: hops, RPCs of FIND_NODE, its round trips; RPCs of FIND_VALUE, its round trips
    100: (0.33, 20.0, 2.8, 2.4, 0.7),
    1_000: (0.90, 21.5, 3.3, 4.0, 1.2),
    10_000: (1.44, 23.0, 4.0, 5.7, 1.7),
}
FIGURES = ("FIND_NODE hops", "FIND_NODE RPCs", "FIND_NODE round trips", "FIND_VALUE RPCs", "FIND_VALUE round trips")
JUDGED = ("FIND_NODE hops", "FIND_NODE RPCs", "FIND_VALUE RPCs")
ROUND_TRIP = 0.004  # s
SLACK = 1.15


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 nodes only, fewer lookups")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'':36} {'ours':>8} {'ideal':>8} {'ratio':>6} {'limit':>8}")
    for count, ideal in IDEAL.items():
        if options.quick and count > 1_000:
            continue
        began = time.perf_counter()
        measured = costs(count, lookups=100 if options.quick else 300)
        for name, ours, theirs in zip(FIGURES, measured, ideal, strict=True):
            rows.append(row(f"{name}, {count:,} nodes", ours, theirs, judged=name in JUDGED))
            told = {True: "met", False: "MISSED", None: ""}[rows[-1]["met"]]
            limit = rows[-1]["limit"] or ""
            print(f"{rows[-1]['name']:36} {ours:8.2f} {theirs:8.2f} {ours / theirs:6.2f} {limit:>8}  {told}")
        print(f"  ({time.perf_counter() - began:.1f} s)")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def row(name: str, ours: float, theirs: float, *, judged: bool) -> dict[str, Any]:
    """One figure. Round trips are told, not judged: they depend on how latencies are spread."""
    unit = name.partition(",")[0].partition(" ")[2]
    ratio = ours / theirs
    limit, met = (f"<= {SLACK}", ratio <= SLACK) if judged else (None, None)
    return {"name": name, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio, "limit": limit, "met": met}


def costs(count: int, lookups: int) -> tuple[float, ...]:
    """The five figures, means over so many lookups of random keys through random nodes."""
    network, rng = Converged(settings=Settings(k=20, alpha=3)), Random(7)
    network.populate(count)
    nodes, values = [], []
    for _ in range(lookups):
        before = network.clock.now
        search = network.look_up(rng.randint(1, count), random_id(rng))
        nodes.append((search.hops, search.rpcs, (network.clock.now - before) / ROUND_TRIP))
    for _ in range(lookups):
        key, port = random_id(rng), rng.randint(1, count)
        network.hold(key)
        network.at(port)
        result, took = network.ask(port, Get(key), GetResult)
        assert result.found
        values.append((result.rpcs, took / ROUND_TRIP))
    return tuple(mean(column) for each in (nodes, values) for column in zip(*each, strict=True))


if __name__ == "__main__":
    main()
