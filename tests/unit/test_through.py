"""Faults seen through fresh connections, on links that are made up: no inert fault is effective, none that ended is felt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from chaos.faults.blackhole import Blackhole
from chaos.faults.latency import Latency
from chaos.faults.limit_data import LimitData
from chaos.faults.reset import Reset
from chaos.faults.slicer import Slicer
from chaos.faults.slow_close import SlowClose
from chaos.through import LOOKS, connections
from harness.links import Topology
from harness.records import Action, PlannedNode
from harness.transfers import Transfer

TOPOLOGY = Topology.build([PlannedNode(f"node-{i}", "", f"site-{i}") for i in range(3)], host="127.0.0.1")
Link = tuple[str, str]
PLAIN = Transfer("answered", 0.002, 4096, 1, 0.001)
A_TO_B = {("site-0", "node-1"), ("site-1", "node-0")}  # what from site-0 to site-1 touches


@dataclass
class MadeUp:
    """A probe whose links answer plainly, but for those that are hit, and of those every ``every``-th connection."""

    hit: set[Link] = field(default_factory=set)
    how: Transfer = PLAIN
    every: int = 1
    looks: Callable[[int], bool] = lambda _: True  # at which of them, from 0 on, the effect is to be seen
    tries: int = 9
    looked: int = -1
    asked: int = 0
    topology: Topology = TOPOLOGY
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def transfers(self, links: Sequence[Link], *, size: int, timeout: float) -> list[Transfer]:
        self.asked += len(links)
        self.looked += 1
        hit = self.hit if self.looks(self.looked) else ()
        return [self.how if link in hit and index % self.every == 0 else PLAIN for index, link in enumerate(links)]

    def undisturbed(self, pairs: Sequence[Link]) -> list[Link]:
        return list(pairs)

    def remaining(self) -> float:
        self.tries -= 1
        return float(self.tries)


def action(toxicity: int = 1000, **options: int) -> Action:
    ends = {"from": ["site-0"], "to": ["site-1"], "toxicity": toxicity}
    return Action(at_us=0, until_us=1, fault="x", name="x", entry=0, targets=["site-0"], options={**ends, **options})


SLICES = {"average_size": 64, "size_variation": 0, "delay_us": 2000}
CASES: dict[str, tuple[Any, Action, Transfer, Transfer]] = {  # fault, action, an effect that counts, one that does not
    "slow_close": (
        SlowClose(), action(delay_ms=500),
        Transfer("answered", 0.002, 4096, 1, 0.51), Transfer("answered", 0.002, 4096, 1, 0.4),
    ),
    "limit_data": (
        LimitData(), action(bytes=4096), Transfer("closed", 0.01, 4096, 1), Transfer("closed", 0.01, 5000, 2),
    ),
    "reset": (Reset(), action(after_ms=100), Transfer("reset", 0.11, 0, 0), Transfer("reset", 0.01, 0, 0)),
    "slicer, late": (
        Slicer(), action(**SLICES), Transfer("answered", 0.14, 4096, 60, 0.0), Transfer("answered", 0.03, 4096, 60, 0.0),
    ),
    "slicer, in pieces": (
        Slicer(), action(**{**SLICES, "delay_us": 0}),
        Transfer("answered", 0.002, 4096, 9, 0.0), Transfer("answered", 0.9, 4096, 2, 0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_effect_on_every_link_of_that_direction_is_seen(case: str) -> None:
    fault, asked, counts, _ = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    assert fault.observe(asked, MadeUp(A_TO_B, counts), before).effective is True


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["nothing", "too little", "the other direction"])
def test_what_was_not_asked_for_is_no_effect(case: str, what: str) -> None:
    fault, asked, counts, too_little = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    probes = {
        "nothing": MadeUp(),
        "too little": MadeUp(A_TO_B, too_little),
        "the other direction": MadeUp({("site-1", "node-2"), ("site-2", "node-0")}, counts),
    }
    assert fault.observe(asked, probes[what], before).effective is False


@pytest.mark.parametrize("case", [case for case in CASES if case != "reset"])
def test_one_of_the_two_links_of_a_direction_is_not_enough(case: str) -> None:
    fault, asked, counts, _ = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    assert fault.observe(asked, MadeUp({("site-0", "node-1")}, counts), before).effective is False


@pytest.mark.parametrize("case", CASES)
def test_a_machine_that_stalls_now_and_then_is_no_effect(case: str) -> None:
    fault, asked, counts, _ = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    assert (
        fault.observe(asked, MadeUp(A_TO_B, counts, looks=lambda n: n % LOOKS < LOOKS - 1), before).effective is False
    )


@pytest.mark.parametrize("case", CASES)
def test_an_effect_that_can_be_looked_at_only_once_more_counts(case: str) -> None:
    fault, asked, counts, _ = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    assert fault.observe(asked, MadeUp(A_TO_B, counts, tries=1), before).effective is True


@pytest.mark.parametrize("case", CASES)
def test_a_link_that_is_still_hit_after_its_heal_has_not_ended(case: str) -> None:
    fault, asked, counts, _ = CASES[case]
    before = fault.measure_before(asked, MadeUp())
    assert fault.observe_healed(asked, MadeUp(), before).effective is True
    assert fault.observe_healed(asked, MadeUp(A_TO_B, counts), before).effective is False


SOME: dict[str, tuple[Callable[[], Any], Action, Transfer]] = {
    "latency": (Latency, action(500, latency_ms=100, jitter_ms=0), Transfer("answered", 0.11, 1024, 1, 0.0)),
    "blackhole": (Blackhole, action(500), Transfer("silent", 1.0, 0, 0)),
}


@pytest.mark.parametrize("case", SOME)
def test_an_effect_on_a_share_of_the_connections_is_seen_on_one_of_many(case: str) -> None:
    fault, asked, counts = SOME[case]
    before = fault().measure_before(asked, MadeUp())
    seen = MadeUp(A_TO_B, counts, every=3)
    assert fault().observe(asked, seen, before).effective is True
    assert seen.asked == LOOKS * 2 * connections(500)
    assert fault().observe(asked, MadeUp(), before).effective is False
    assert fault().observe_healed(asked, MadeUp(A_TO_B, counts, every=3), before).effective is False


def test_so_many_connections_are_opened_that_one_is_hit() -> None:
    assert connections(1000) == 1
    assert (1 - 0.5) ** connections(500) <= 1e-6
    assert connections(50) == 200  # the chance that none is hit: 0.95 ** 200, one in 28,000
    assert connections(10) == 0  # 0.99 ** 200 is 13%: nothing could be said


def test_a_share_that_is_too_small_to_be_seen_is_unknown_and_not_inert() -> None:
    asked = action(10, latency_ms=100, jitter_ms=0)
    before = Latency().measure_before(asked, MadeUp())
    assert Latency().observe(asked, MadeUp(), before).effective is None
