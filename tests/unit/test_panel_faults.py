"""Faults from the page: what is refused leaves no trace, what failed is told as healed, and all of it can be played again."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import experiment, faults
from harness.document import parse
from harness.effects import Effect
from harness.errors import HarnessError, ToxiproxyFailed, UsageError
from harness.events import Events
from harness.injection import InertFault
from harness.links import Topology
from harness.observation import Observation
from harness.panel import ClusterPanel
from harness.plan import load_plan, make_plan, save_plan
from harness.records import Action, Event, Plan
from reports.windows import windows_of

ASKED = {  # one of each kind, as people write it
    "bandwidth": "bandwidth: 64KB/s",
    "blackhole": "blackhole",
    "join": "join: {nodes: 2, over: 5s}",
    "kill": "kill: {nodes: 1, restart_after: 2s}",
    "latency": "latency: {latency: 200ms, from: node-0}",
    "limit_data": "limit_data: 4KiB",
    "partition": "partition: halves",
    "pause": "pause: {nodes: 1}",
    "refuse": "refuse",
    "replace": "replace: {nodes: 1}",
    "reset": "reset: {after: 100ms}",
    "restart": "restart: {nodes: 2}",
    "slicer": "slicer: 64B",
    "slow_close": "slow_close: 500ms",
    "stop": "stop: {nodes: 1}",
}


class Rigged:
    """A real fault, but for its eyes: it sees what it is told to. ``breaks`` is the method that raises."""

    def __init__(self, key: str, *, effective: bool = True, ended: bool = True, breaks: str = "") -> None:
        self._real = faults.get(key)
        self._effective, self._ended, self._breaks = effective, ended, breaks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def measure_before(self, action: Action, probe: object) -> None:
        self._maybe_break("measure_before")

    def observe(self, action: Action, probe: object, before: object) -> Observation:
        self._maybe_break("observe")
        return Observation(dict.fromkeys(action.targets, self._effective))

    def observe_healed(self, action: Action, probe: object, before: object) -> Observation:
        return Observation(dict.fromkeys(action.targets, self._ended))

    def _maybe_break(self, method: str) -> None:
        if self._breaks == method:
            raise ZeroDivisionError("a defect of the fault")


class Remembering:
    """A cluster that only takes note; so many ``failures`` of its next releases fail, and it waits for ``gate``."""

    def __init__(self, plan: Plan) -> None:
        self.topology = Topology.build(plan.nodes, host="127.0.0.1")
        first = self.topology.names[:6]
        self.members = SimpleNamespace(
            unresponsive=lambda: set(self.topology.names) - set(first), joined=lambda name: name in first
        )
        self.addresses = {node.name: node for node in plan.nodes}
        self.bootstrap = ["node-0"]
        self.k = 4
        self.in_force: set[Hashable] = set()
        self.failures = 0
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def enforce(self, key: Hashable, effects: Sequence[Effect]) -> None:
        self.entered.set()
        self.gate.wait()
        self.in_force.add(key)

    def release(self, key: Hashable) -> None:
        if self.failures:
            self.failures -= 1
            raise ToxiproxyFailed("the API is away")
        self.in_force.discard(key)


class Desk:
    """A panel over a made-up cluster, its journal and its plan."""

    def __init__(self) -> None:
        text = "{name: desk, duration: 30s, cluster: {nodes: 6}, load: {rate: 10/s}}"
        self.plan = make_plan(experiment.check(parse(text, "desk")), spare=4)
        self.journal: list[Event] = []
        events = Events(self.journal.append)
        events.start_clock(0.0)
        self.cluster = Remembering(self.plan)
        self.panel = ClusterPanel(self.cluster, events, 1, self._note)  # type: ignore[arg-type]
        self.plan.experiment["duration_us"] = 10**15  # the session's clock is the machine's here

    def _note(self, index: int, action: Action) -> None:
        self.plan.actions[index : index + 1] = [action]

    def kinds(self) -> list[str]:
        return [event.event for event in self.journal]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def rig() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda key, **how: stack.enter_context(faults.added(Rigged(key, **how)))  # type: ignore[arg-type]


def test_every_kind_of_fault_is_asked_for_here_but_those_that_need_a_timeline() -> None:
    assert set(ASKED) == {key for key in faults.names() if faults.get(key).lasts != "required"}


@pytest.mark.parametrize("key", ASKED)
def test_the_plan_that_a_session_leaves_loads_again_with_every_kind_of_fault(
    key: str, desk: Desk, rig: Any, tmp_path: Path
) -> None:
    rig(key)
    first = desk.panel.inject(ASKED[key])
    desk.panel.heal(first)
    desk.panel.inject(ASKED[key])
    desk.panel.close()
    path = tmp_path / "plan.json"
    save_plan(desk.plan, path)
    actions = load_plan(path).actions
    assert {action.name for action in actions} == {key, f"{key}-2"}
    assert not desk.cluster.in_force
    for action in actions:
        assert action.until_us is not None
        assert action.until_us > action.at_us
    seen = {(event.event, event.action) for event in desk.journal if event.event in ("observe", "heal-observed")}
    assert seen == {(kind, index) for kind in ("observe", "heal-observed") for index in range(len(actions))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partition: {shape: halfs}", "shape"),
        ("partition: {groups: [node-0]}", "two groups or more"),
        (
            "churn: {nodes: 1, session: {exponential: {mean: 5s}}, downtime: {exponential: {mean: 5s}}}",
            "needs a timeline",
        ),
        ("join: {nodes: 5}", "4 spare ones"),
    ],
)
def test_what_is_refused_leaves_no_trace_and_takes_no_name(desk: Desk, rig: Any, text: str, words: str) -> None:
    rig("partition")
    with pytest.raises(UsageError) as caught:
        desk.panel.inject(text)
    assert words in str(caught.value)
    assert desk.journal == []
    assert desk.plan.actions == []
    assert desk.panel.inject("partition: halves") == "partition"


@pytest.mark.parametrize("how", [{"effective": False}, {"breaks": "observe"}])
def test_a_fault_that_failed_is_told_as_healed_and_without_effect(desk: Desk, rig: Any, how: dict[str, Any]) -> None:
    rig("partition", **how)
    with pytest.raises((InertFault, ZeroDivisionError)):
        desk.panel.inject("partition: halves")
    assert desk.kinds() == ["inject", "injected", "observe", "heal", "healed", "heal-observed"]
    assert desk.journal[2].effective is False
    assert desk.panel.faults() == []
    assert not desk.cluster.in_force
    [window] = windows_of(desk.journal, desk.plan.actions, 1e9).faults
    assert window.healed < 1e9


def test_a_fault_that_breaks_before_it_is_in_force_leaves_no_trace(desk: Desk, rig: Any) -> None:
    rig("partition", breaks="measure_before")
    with pytest.raises(ZeroDivisionError):
        desk.panel.inject("partition: halves")
    assert (desk.journal, desk.plan.actions) == ([], [])


def test_a_heal_that_failed_can_be_tried_again(desk: Desk, rig: Any) -> None:
    rig("partition")
    desk.panel.inject("partition: halves")
    desk.cluster.failures = 1
    with pytest.raises(ToxiproxyFailed):
        desk.panel.heal("partition")
    assert [fault["name"] for fault in desk.panel.faults()] == ["partition"]
    desk.panel.heal("partition")
    assert desk.panel.faults() == []
    assert not desk.cluster.in_force


def test_closing_heals_the_others_when_one_cannot_be_healed(desk: Desk, rig: Any) -> None:
    rig("partition")
    rig("latency")
    desk.panel.inject("partition: halves")
    desk.panel.inject("latency: 200ms")
    desk.cluster.failures = 1
    with pytest.raises(HarnessError, match="the API is away"):
        desk.panel.close()
    assert [fault["name"] for fault in desk.panel.faults()] == ["partition"]


def test_an_injection_on_its_way_when_the_session_ends_is_healed_and_none_comes_after_it(desk: Desk, rig: Any) -> None:
    rig("partition")
    desk.cluster.gate.clear()
    injecting = threading.Thread(target=desk.panel.inject, args=("partition: halves",))
    injecting.start()
    assert desk.cluster.entered.wait(10)
    closing = threading.Thread(target=desk.panel.close)
    closing.start()
    desk.cluster.gate.set()
    injecting.join(10)
    closing.join(10)
    assert not desk.cluster.in_force
    with pytest.raises(UsageError, match="the session is ending"):
        desk.panel.inject("partition: halves")
    assert not desk.cluster.in_force
