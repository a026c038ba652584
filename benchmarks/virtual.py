"""What a lookup costs in 100, 1,000 and 10,000 nodes against the ideal node, and how many succeed under churn.

Run: ``python benchmarks/virtual.py [--quick] [--json FILE]``. All of it in virtual time.

The bed's tables are full, k = 20, alpha = 3: the costs to compare with were simulated on such tables. Then the same in
nodes that joined by themselves, all at once, two seconds ago and a quarter of a minute ago: far buckets fill in between. A
round trip is 4 ms on average. ``theirs`` is the ideal; a ratio of 1 is as good.

The churn is that of `node.virtual.Churn`, for seven minutes, five median sessions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry) != HERE]  # a file there is called node.py

from node.ids import random_id  # noqa: E402
from node.settings import Settings  # noqa: E402
from node.virtual import MEDIAN_SESSION, Churn, Clients, Converged, Network  # noqa: E402
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
SETTLED = 15.0  # s after which the far buckets of nodes that joined are full
FOUND = 0.99  # of gets under churn


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 nodes only, fewer lookups")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'':46} {'ours':>8} {'ideal':>8} {'ratio':>6} {'limit':>8}")
    lookups = 100 if options.quick else 300
    for bed, which, count in BEDS[:4] if options.quick else BEDS:
        began = time.perf_counter()
        measured = costs(bed(count), count, lookups)
        for name, ours, theirs in zip(FIGURES, measured, IDEAL[count], strict=True):
            rows.append(row(f"{name}, {count:,} nodes{which}", ours, theirs, judged=name in JUDGED))
            tell(rows[-1])
        print(f"  ({time.perf_counter() - began:.1f} s)")
    for mute in (False, True):
        began = time.perf_counter()
        rows.append(churn(80, 8, mute=mute) if options.quick else churn(200, 20, mute=mute))
        tell(rows[-1])
        print(f"  ({time.perf_counter() - began:.1f} s)")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def tell(figure: dict[str, Any]) -> None:
    """One line of the table."""
    told = {True: "met", False: "MISSED", None: ""}[figure["met"]]
    numbers = f"{figure['ours']:8.2f} {figure['theirs']:8.2f} {figure['ratio']:6.2f} {figure['limit'] or '':>8}"
    print(f"{figure['name']:46} {numbers}  {told}", flush=True)


def row(name: str, ours: float, theirs: float, *, judged: bool) -> dict[str, Any]:
    """One figure. Round trips are told, not judged: they depend on how latencies are spread."""
    unit = name.partition(",")[0].partition(" ")[2]
    ratio = ours / theirs
    limit, met = (f"<= {SLACK}", ratio <= SLACK) if judged else (None, None)
    return {"name": name, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio, "limit": limit, "met": met}


def full(count: int) -> Network:
    network = Converged(settings=Settings(k=20, alpha=3), record=False)
    network.populate(count)
    return network


def joined(count: int) -> Network:
    return Network.of(count, settings=Settings(k=20, alpha=3), record=False)


def settled(count: int) -> Network:
    network = joined(count)
    network.clock.run(SETTLED - 2.0)
    return network


# What the nodes of each bed are beside their number.
BEDS: tuple[tuple[Callable[[int], Network], str, int], ...] = (
    (full, "", 100),
    (joined, ", 2 s old", 100),
    (settled, ", 15 s old", 100),
    (full, "", 1_000),
    (joined, ", 2 s old", 1_000),
    (settled, ", 15 s old", 1_000),
    (full, "", 10_000),
)


def costs(network: Network, count: int, lookups: int) -> tuple[float, ...]:
    """The five figures, means over so many lookups of random keys through random nodes."""
    rng = Random(7)
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


def churn(count: int, k: int, *, mute: bool) -> dict[str, Any]:
    """The share of gets of stored keys that found them."""
    network = Network.of(count, settings=Settings(k=k), record=False, mute=mute)
    clients = Clients(network, seed=4, names=[f"key {n}" for n in range(300)])
    network.store_all(clients.names)
    Churn(network, seed=3)
    clients.work(5 * MEDIAN_SESSION, pause=0.5)
    ours, dead = mean(clients.found), "swallow" if mute else "refuse"
    name = f"gets under churn, {count} nodes; the dead {dead}"
    limit, met = f">= {FOUND}", ours >= FOUND
    return {"name": name, "ours": ours, "theirs": 1.0, "unit": "", "ratio": ours, "limit": limit, "met": met}


if __name__ == "__main__":
    main()
