"""Injection: how long the parts of one fault take to take hold, and how late actions come while load runs.

Run: ``python benchmarks/injection.py [--quick] [--json FILE]`` (a Toxiproxy binary as `harness.toxiproxy.binary` finds it).

- *halves*: a partition of 50 sites into halves, 1,250 crossing links, both ways. Ours is the reconciler's work, from effects to
  the last answer; theirs is a bare loop that sends the same toxics, made beforehand, over four pipelined connections. The
  least of all rounds, each on a fresh server. Limit: twice.
- *lateness*: 20 actions a second through the player, on 50 sites, with four threads that keep the API busy beside it; the p99 of
  what the journal calls lateness. Limit: 100 ms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import links

from chaos import topologies
from harness.cluster import Enforced
from harness.effects import LinkEffect
from harness.events import Events
from harness.observation import Observation
from harness.player import Player
from harness.reconciler import LinkReconciler, ProxyState, desired_state, requests_for
from harness.records import Action, Event
from harness.toxiproxy import binary
from harness.toxiproxy.bulk import BulkWriter

SITES = links.TOPOLOGY.sites
HALVES = [LinkEffect(a, b, "blackhole") for a, b in topologies.crossing(
    topologies.halves(SITES, Random(1)), one_way=False
)]  # fmt: skip
RATIO_LIMIT, LATENESS_LIMIT_MS = 2.0, 100.0
RATE = 20  # actions a second
BUSY = 4  # threads that ask for all states, as a load on the API


def main() -> None:
    """Measure, print, and write the JSON if asked to."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds, shorter")
    options.add_argument("--json", type=Path, help="write the figures there")
    asked = options.parse_args()
    found = binary.find(progress=print)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "toxiproxy.log"
        figures = [halves(found, log, 2 if asked.quick else 5), lateness(found, log, 4 if asked.quick else 15)]
    for figure in figures:
        print(line(figure))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(figure["met"] for figure in figures) else 1)


def line(figure: dict[str, Any]) -> str:
    """One row of the table."""
    theirs = "-" if figure["theirs"] is None else f"{figure['theirs']:.1f}"
    ratio = "-" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
    met = "met" if figure["met"] else "MISSED"
    return (
        f"{figure['name']:44} ours {figure['ours']:8.1f} {figure['unit']}  theirs {theirs:>8}  ratio {ratio:>5}  "
        f"limit {figure['limit']:g}  {met}"
    )


def halves(found: Path, log: Path, rounds: int) -> dict[str, Any]:
    """See the module."""
    wanted = desired_state(links.TOPOLOGY, HALVES)
    requests = [each for proxy, state in wanted.items() for each in requests_for(proxy, ProxyState(), state)]
    original, links.PARTITION = links.PARTITION, HALVES
    try:
        bare, ours = links.least(rounds, lambda: links.time_toxics(found, log, requests))
    finally:
        links.PARTITION = original
    ratio = ours / bare
    return {
        "name": f"halves of {len(SITES)} sites, {len(requests)} toxics",
        "ours": ours * 1000,
        "theirs": bare * 1000,
        "unit": "ms",
        "ratio": ratio,
        "limit": RATIO_LIMIT,
        "met": ratio <= RATIO_LIMIT,
    }


class _Links:
    """As much of a cluster as a player needs: the links of 50 sites, on a real Toxiproxy."""

    topology = links.TOPOLOGY
    members = SimpleNamespace(lost=list, unresponsive=set)

    def __init__(self, reconciler: LinkReconciler) -> None:
        self._reconciler, self._lock = reconciler, threading.Lock()
        self._in_force: dict[Any, list[LinkEffect]] = {}

    def enforce(self, key: Any, effects: list[LinkEffect]) -> Enforced:
        self._in_force[key] = effects
        return self._apply()

    def release(self, key: Any) -> Enforced:
        self._in_force.pop(key, None)
        return self._apply()

    def in_force(self) -> list[Any]:
        return list(self._in_force)

    def _apply(self) -> Enforced:
        with self._lock:
            applied = self._reconciler.apply([e for effects in list(self._in_force.values()) for e in effects])
        return Enforced(applied.first_at, applied.last_at)


class _Slow:
    """A fault that slows one link, and that nobody observes."""

    key = "slow"

    def measure_before(self, action: Action, probe: Any) -> None:
        return None

    def effects(self, action: Action, topology: Any) -> list[LinkEffect]:
        here, there = action.targets
        return [LinkEffect(here, there, "latency", (("jitter", 0), ("latency", 50)))]

    def observe(self, action: Action, probe: Any, before: Any) -> Observation:
        return Observation({})

    observe_healed = observe


def lateness(found: Path, log: Path, seconds: int) -> dict[str, Any]:
    """See the module."""
    rng, journal, busy = Random(2), [], threading.Event()
    actions = []
    for number in range(RATE * seconds // 2):  # each is injected and healed: two steps
        at = 500_000 + round(number * 2e6 / RATE)
        pair = [SITES[int(rng.random() * 25)], SITES[25 + int(rng.random() * 25)]]
        actions.append(Action(at_us=at, until_us=at + 950_000, fault="slow", name="slow", entry=0, targets=pair))
    with links.fresh(found, log) as server:
        reconciler = LinkReconciler(links.TOPOLOGY, server.control, BulkWriter(links.HOST, links.API_PORT))
        reconciler.create()

        def ask() -> None:
            while not busy.wait(0.05):
                links.bare_pipeline([b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"])

        threads = [threading.Thread(target=ask) for _ in range(BUSY)]
        for thread in threads:
            thread.start()
        events = Events(journal.append)
        player = Player(_Links(reconciler), events, actions, lambda _: _Slow(), seed=1)  # type: ignore[arg-type, return-value]
        zero = time.monotonic()
        events.start_clock(zero)
        player.play(zero, seconds + 2.0)
        player.heal_all()
        player.close()
        busy.set()
        for thread in threads:
            thread.join()
        assert reconciler.verify() == []
    late = sorted(_lateness(journal))
    p99 = late[min(len(late) - 1, -(-len(late) * 99 // 100) - 1)] * 1000
    return {
        "name": f"p99 lateness of {len(late)} steps at {RATE}/s",
        "ours": p99,
        "theirs": None,
        "unit": "ms",
        "ratio": None,
        "limit": LATENESS_LIMIT_MS,
        "met": p99 <= LATENESS_LIMIT_MS,
    }


def _lateness(journal: list[Event]) -> list[float]:
    return [event.detail["lateness_s"] for event in journal if event.event in ("injected", "healed")]


if __name__ == "__main__":
    main()
