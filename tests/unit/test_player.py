"""The player against a cluster that only remembers: every action is journalled, healed, and told when something fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cluster import Enforced
from harness.effects import Effect, MemberClaim
from harness.errors import ToxiproxyFailed
from harness.events import Events
from harness.links import Topology
from harness.observation import Observation
from harness.player import Player
from harness.records import Action, Event, PlannedNode

TOPOLOGY = Topology.build([PlannedNode(f"node-{i}", "", f"site-{i}") for i in range(3)], host="127.0.0.1")


class RememberingCluster:
    """Takes note of what is put in force; ``failures`` of the next releases fail."""

    topology = TOPOLOGY

    def __init__(self, *, lost: Sequence[str] = (), failures: int = 0, hopeless: bool = False) -> None:
        self.hopeless = hopeless
        self.members = SimpleNamespace(lost=lambda: list(lost), unresponsive=set)
        self.done: list[tuple[str, Hashable]] = []
        self.failures = failures
        self._in_force: list[Hashable] = []

    def enforce(self, key: Hashable, effects: Sequence[Effect]) -> Enforced:
        self.done.append(("enforce", key))
        self._in_force.append(key)
        return Enforced(time.monotonic(), time.monotonic())

    def release(self, key: Hashable) -> Enforced:
        self.done.append(("release", key))
        if self.failures:
            self.failures -= 1
            raise ToxiproxyFailed("the API is away")
        self._in_force.remove(key)
        return Enforced(time.monotonic(), time.monotonic())

    def escalate(self, key: Hashable, error: Exception, *, since: float) -> str:
        self.done.append(("escalate", key))
        if self.hopeless:
            raise error
        self._in_force.remove(key)
        return "means"

    def in_force(self) -> list[Hashable]:
        return list(self._in_force)


class Plain:
    """A fault that does what it should; ``breaks`` is the method that raises."""

    key = "plain"

    def __init__(self, breaks: str = "", *, effective: bool = True) -> None:
        self._breaks, self._effective = breaks, effective

    def _maybe_break(self, method: str) -> None:
        if self._breaks == method:
            raise RuntimeError("a defect of the fault")

    def measure_before(self, action: Action, probe: Any) -> int:
        self._maybe_break("measure_before")
        return 7

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        self._maybe_break("effects")
        return [MemberClaim(name, "dead") for name in action.targets]

    def observe(self, action: Action, probe: Any, before: Any) -> Observation:
        self._maybe_break("observe")
        return Observation(dict.fromkeys(action.targets, self._effective), {"before": before})

    def observe_healed(self, action: Action, probe: Any, before: Any) -> Observation:
        return Observation(dict.fromkeys(action.targets, True))


def act(at_ms: int, until_ms: int | None, *targets: str) -> Action:
    return Action(
        at_us=at_ms * 1000,
        until_us=None if until_ms is None else until_ms * 1000,
        fault="plain",
        name="entry",
        entry=0,
        targets=list(targets) or ["node-0"],
    )


@pytest.fixture
def journal() -> list[Event]:
    return []


@pytest.fixture
def play(journal: list[Event]) -> Iterator[Any]:
    players: list[Player] = []

    def run(cluster: RememberingCluster, fault: Plain, *actions: Action, until: float = 0.25) -> Player:
        events = Events(journal.append)
        player = Player(cluster, events, actions, lambda _: fault, seed=1)  # type: ignore[arg-type, return-value]
        players.append(player)
        zero = time.monotonic()
        events.start_clock(zero)
        player.play(zero, until)
        player.heal_all()
        return player

    yield run
    for player in players:
        player.close()


def kinds(journal: list[Event]) -> list[str]:
    return [event.event for event in journal]


def test_an_action_is_journalled_injected_observed_healed_and_observed_again(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster()
    player = play(cluster, Plain(), act(20, 200))
    assert cluster.done == [("enforce", 0), ("release", 0)]
    assert kinds(journal) == ["inject", "injected", "observe", "heal", "healed", "heal-observed"]
    assert player.runs[0].state == "healed"
    assert player.problems == []


def test_steps_are_never_taken_before_their_time(play: Any, journal: list[Event]) -> None:
    play(RememberingCluster(), Plain(), act(60, 150), act(30, 90, "node-1"))
    times = {(event.event, event.action): event.t for event in journal}
    for kind, action, due in (("inject", 1, 0.03), ("inject", 0, 0.06), ("heal", 1, 0.09), ("heal", 0, 0.15)):
        assert times[kind, action] >= due


def test_what_the_value_was_before_is_measured_before(play: Any, journal: list[Event]) -> None:
    play(RememberingCluster(), Plain(), act(20, 200))
    assert next(event for event in journal if event.event == "observe").observed == {"before": 7}


def test_a_heal_that_fails_is_tried_again(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster(failures=2)
    player = play(cluster, Plain(), act(20, 60))
    assert cluster.done.count(("release", 0)) == 3
    assert cluster.in_force() == []
    assert player.problems == []


def test_a_heal_that_goes_on_failing_is_told(play: Any, journal: list[Event]) -> None:
    player = play(RememberingCluster(failures=99, hopeless=True), Plain(), act(20, 60))
    assert player.problems == ["entry: could not heal: the API is away"]
    assert player.runs[0].state == "failed"
    assert "error" in kinds(journal)


def test_a_heal_that_goes_on_failing_is_escalated_and_that_is_journalled(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster(failures=99)
    player = play(cluster, Plain(), act(20, 60))
    assert cluster.done == [("enforce", 0), *[("release", 0)] * 3, ("escalate", 0)]
    told = [event.detail for event in journal if event.event == "escalated"]
    assert told == [{"why": "the API is away"}, {"why": "the API is away", "means": "means"}]
    assert (player.problems, player.runs[0].state) == ([], "healed")


@pytest.mark.parametrize("method", ["measure_before", "effects", "observe"])
def test_a_fault_that_raises_is_named_and_healed_all_the_same(play: Any, journal: list[Event], method: str) -> None:
    cluster = RememberingCluster()
    player = play(cluster, Plain(method), act(20, 60))
    assert any("entry" in problem and "a defect of the fault" in problem for problem in player.problems)
    assert "heal" in kinds(journal)
    assert cluster.in_force() == []


def test_what_has_nothing_to_be_compared_with_is_unknown_and_no_defect_of_the_fault(
    play: Any, journal: list[Event]
) -> None:
    player = play(RememberingCluster(), Plain("measure_before"), act(20, 60))
    assert len(player.problems) == 1
    seen = [event for event in journal if event.event in ("observe", "heal-observed")]
    assert [event.effective for event in seen] == [None, None]
    assert all(event.observed == {"unknown": "what was before the fault could not be measured"} for event in seen)


def test_a_heal_is_not_observed_before_measuring_what_was_before_has_ended(play: Any, journal: list[Event]) -> None:
    begun = threading.Event()

    class Slow(Plain):
        def measure_before(self, action: Action, probe: Any) -> int:
            begun.wait(5.0)
            return 7

        def effects(self, action: Action, topology: Topology) -> list[Effect]:
            threading.Timer(1.2, begun.set).start()  # after the heal
            return []

        def observe_healed(self, action: Action, probe: Any, before: Any) -> Observation:
            return Observation(dict.fromkeys(action.targets, True), {"before": before})

    player = play(RememberingCluster(), Slow(), act(20, 60))
    player.close()
    assert player.problems == []
    assert [event.observed for event in journal if event.event == "heal-observed"] == [{"before": 7}]


def test_an_action_whose_targets_are_gone_is_skipped_and_said_so(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster(lost=["node-0"])
    player = play(cluster, Plain(), act(20, 60, "node-0"))
    assert kinds(journal) == ["skipped"]
    assert (player.runs[0].state, cluster.done) == ("skipped", [])


def test_one_of_two_targets_gone_leaves_the_other(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster(lost=["node-0"])
    play(cluster, Plain(), act(20, 200, "node-0", "node-1"))
    assert kinds(journal)[:2] == ["skipped", "inject"]
    assert ("enforce", 0) in cluster.done


def test_what_is_never_to_be_healed_is_left_alone(play: Any, journal: list[Event]) -> None:
    cluster = RememberingCluster()
    player = play(cluster, Plain(), act(20, None))
    assert cluster.done == [("enforce", 0)]
    assert "heal" not in kinds(journal)
    assert player.runs[0].state == "active"


@pytest.mark.parametrize(("state", "says_something"), [("running", True), ("dead", False), ("paused", False)])
def test_only_a_member_that_is_kept_from_running_is_disturbed_by_another_action(
    play: Any, state: Any, says_something: bool
) -> None:
    seen: list[bool] = []

    class Claims(Plain):
        def effects(self, action: Action, topology: Topology) -> list[Effect]:
            return [MemberClaim(name, state) for name in action.targets]

        def observe(self, action: Action, probe: Any, before: Any) -> Observation:
            if action.targets == ["node-2"]:
                seen.append(probe.undisturbed([("node-1", "node-0")]) != [])
            return super().observe(action, probe, before)

    play(RememberingCluster(), Claims(), act(10, None, "node-1"), act(60, 200, "node-2"))
    assert seen == [says_something]


def test_an_interrupted_play_heals_what_is_in_force(journal: list[Event]) -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        if "injected" in kinds(journal):
            raise Stop

    cluster, events = RememberingCluster(), Events(journal.append)
    player = Player(cluster, events, [act(10, 60_000)], lambda _: Plain(), seed=1, check=check)  # type: ignore[arg-type, return-value]
    zero = time.monotonic()
    events.start_clock(zero)
    with pytest.raises(Stop):
        player.play(zero, 100.0)
    player.heal_all()
    player.close()
    assert cluster.done == [("enforce", 0), ("release", 0)]
