"""Observers against a network that is made up: an inert fault is never called effective, a noisy machine never inert."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from chaos.faults.blackhole import Blackhole
from chaos.faults.kill import Kill
from chaos.faults.latency import Latency
from chaos.faults.partition import Partition
from chaos.faults.refuse import Refuse
from harness.backends import ProcessState
from harness.links import Topology
from harness.records import Action, PlannedNode
from harness.targets import Ping

NAMES = [f"node-{i}" for i in range(4)]
TOPOLOGY = Topology.build([PlannedNode(name, "", f"site-{i}") for i, name in enumerate(NAMES)], host="127.0.0.1")
Pair = tuple[str, str]


@dataclass
class MadeUp:
    """A probe on an imaginary network. ``tries`` measurements are left before the time is up."""

    delays: dict[Pair, float] = field(default_factory=dict)
    silent: set[Pair] = field(default_factory=set)
    refused: set[Pair] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    busy: set[Pair] = field(default_factory=set)
    noise: float = 0.0
    tries: int = 3
    topology: Topology = TOPOLOGY
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def ping(self, pairs: Sequence[Pair], *, timeout: float, padding: int = 0) -> list[Ping]:
        return [self._one(*pair) for pair in pairs]

    def _one(self, here: str, there: str) -> Ping:
        if here in self.down:
            return Ping(here, there, "unknown")
        if there in self.down:
            return Ping(here, there, "refused", arrived=None)
        if (here, there) in self.refused:
            return Ping(here, there, "refused", arrived=False)
        lost = (here, there) in self.silent
        if lost or (there, here) in self.silent:
            return Ping(here, there, "timeout", arrived=not lost)
        forward = 0.001 + self.delays.get((here, there), 0.0) + self.rng.random() * self.noise
        return Ping(here, there, "ok", forward, 0.001, arrived=True)

    def process_state(self, name: str) -> ProcessState:
        return "dead" if name in self.down else "running"

    def undisturbed(self, pairs: Sequence[Pair]) -> list[Pair]:
        return [pair for pair in pairs if pair not in self.busy]

    def remaining(self) -> float:
        self.tries -= 1
        return float(self.tries)


def action(fault: str, targets: list[str], **options: object) -> Action:
    return Action(at_us=0, until_us=1, fault=fault, name=fault, entry=0, targets=targets, options=dict(options))


SLOW = action(
    "latency",
    ["site-0"],
    latency_ms=100,
    jitter_ms=20,
    toxicity=1000,
    **{"from": ["site-0"], "to": ["site-1", "site-2"]},
)
HOLE = action("blackhole", ["site-0"], toxicity=1000, **{"from": ["site-0"], "to": ["site-1"]})
CUT = action(
    "partition",
    ["site-0", "site-1", "site-2", "site-3"],
    groups=[["site-0", "site-1"], ["site-2", "site-3"]],
    mode="blackhole",
    one_way=False,
)
ACROSS = {(a, b) for a in NAMES[:2] for b in NAMES[2:]} | {(b, a) for a in NAMES[:2] for b in NAMES[2:]}


@pytest.mark.parametrize(
    ("delay", "noise", "effective"),
    [
        (0.100, 0.0, True),
        (0.080, 0.0, True),  # latency − jitter
        (0.120, 0.01, True),
        (0.100, 0.15, True),  # a busy machine
        (0.070, 0.0, False),
        (0.0, 0.0, False),
        (0.0, 0.05, False),
        (0.9, 0.0, False),  # far more than was asked
    ],
)
def test_latency_is_effective_if_what_was_asked_is_felt(delay: float, noise: float, effective: bool) -> None:
    fault = Latency()
    before = fault.measure_before(SLOW, MadeUp())
    probe = MadeUp(delays={("node-0", other): delay for other in NAMES[1:]}, noise=noise)
    assert fault.observe(SLOW, probe, before).effective is effective


def test_latency_the_other_way_round_is_not_what_was_asked() -> None:
    fault = Latency()
    before = fault.measure_before(SLOW, MadeUp())
    probe = MadeUp(delays={(other, "node-0"): 0.1 for other in NAMES[1:]})
    assert fault.observe(SLOW, probe, before).effective is False


def test_a_link_that_stays_slow_after_its_heal_has_not_ended() -> None:
    fault = Latency()
    before = fault.measure_before(SLOW, MadeUp())
    slow = MadeUp(delays={("node-0", other): 0.1 for other in NAMES[1:]})
    assert fault.observe_healed(SLOW, slow, before).effective is False
    assert fault.observe_healed(SLOW, MadeUp(noise=0.01), before).effective is True


def test_a_one_way_black_hole_must_leave_the_way_back_open() -> None:
    fault = Blackhole()
    assert fault.observe(HOLE, MadeUp(silent={("node-0", "node-1")}), None).effective is True
    both = {("node-0", "node-1"), ("node-1", "node-0")}
    assert fault.observe(HOLE, MadeUp(silent=both), None).effective is False
    assert fault.observe(HOLE, MadeUp(silent={("node-1", "node-0")}), None).effective is False
    assert fault.observe(HOLE, MadeUp(), None).effective is False


def test_a_partition_must_cut_every_crossing_pair_and_no_other() -> None:
    fault = Partition()
    assert fault.observe(CUT, MadeUp(silent=ACROSS), None).effective is True
    assert fault.observe(CUT, MadeUp(silent=ACROSS - {("node-0", "node-2")}), None).effective is False
    assert fault.observe(CUT, MadeUp(silent=ACROSS | {("node-0", "node-1")}), None).effective is False
    assert fault.observe_healed(CUT, MadeUp(), None).effective is True
    assert fault.observe_healed(CUT, MadeUp(silent={("node-0", "node-2")}), None).effective is False


def test_a_refusal_that_only_times_out_is_none() -> None:
    fault = Refuse()
    refusal = action("refuse", ["site-0"], toxicity=1000, **{"from": ["site-0"], "to": ["site-1"]})
    assert fault.observe(refusal, MadeUp(refused={("node-0", "node-1")}), None).effective is True
    assert fault.observe(refusal, MadeUp(silent={("node-0", "node-1")}), None).effective is False


def test_what_cannot_be_known_is_neither_effective_nor_inert() -> None:
    fault = Blackhole()
    assert fault.observe(HOLE, MadeUp(down={"node-0", "node-1"}), None).effective is None
    busy = {("node-0", "node-1"), ("node-1", "node-0")}
    assert fault.observe(HOLE, MadeUp(busy=busy), None).effective is None


@pytest.mark.parametrize(("down", "effective"), [({"node-1", "node-2"}, True), ({"node-1"}, False), (set(), False)])
def test_a_kill_is_effective_if_no_such_process_is_there(down: set[str], effective: bool) -> None:
    kill = action("kill", ["node-1", "node-2"])
    assert Kill().observe(kill, MadeUp(down=down, tries=1), None).effective is effective


def test_a_member_that_another_fault_holds_down_is_not_a_heal_that_failed() -> None:
    kill = action("kill", ["node-1"])
    held = MadeUp(down={"node-1"}, busy={("node-1", "node-1")}, tries=1)
    assert Kill().observe_healed(kill, held, None).effective is None
    assert Kill().observe_healed(kill, MadeUp(down={"node-1"}, tries=1), None).effective is False
