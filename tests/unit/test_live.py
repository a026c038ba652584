"""What people are told while a run goes on."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.events import Events
from harness.live import LiveView, PlainLines, told
from harness.load import KindStats, LoadStats
from harness.records import EVENT_KINDS, Event, Plan
from harness.runner import Live

PLAN = Plan(schema=1, seed=1, experiment={"name": "x", "duration_us": 60_000_000}, nodes=[], actions=[])
FIGURES = KindStats(count=50, ok=49, rate=100.0, p50_ms=4.0, p99_ms=19.0)


class FakeLoad:
    def stats(self) -> LoadStats:
        return LoadStats(t=1.0, lookup=FIGURES, store=FIGURES, in_flight=3, lag_ms=1.0)


def live_on(events: Events) -> Live:
    live = Live(PLAN, Path(), events)
    live.load = FakeLoad()  # type: ignore[assignment]
    return live


def event(kind: str, **fields: Any) -> Event:
    return Event(t=1.0, wall="", event=kind, **fields)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (event("inject", name="split", fault="partition", targets=[f"site-{i}" for i in range(9)]), "and 5 more"),
        (event("observe", name="x", fault="latency", effective=False, targets=["site-1"]), "NO EFFECT on site-1"),
        (event("observe", name="x", fault="latency", effective=None), "effect unknown"),
        (event("observe", name="x", fault="latency", effective=True, observed={"delay_ms": 99.1}), "delay_ms 99.1"),
        (event("heal-observed", name="x", fault="latency", effective=False), "NOT HEALED"),
        (event("member-exit", name="node-3", detail={"exit": "exit code 1"}), "node-3 DIED UNASKED: exit code 1"),
        (event("error", detail={"message": "no disk"}), "ERROR no disk"),
        (event("interrupted", detail={"signal": "SIGINT"}), "SIGINT"),
    ],
)
def test_what_matters_is_told_in_words(seen: Event, words: str) -> None:
    assert words in str(told(seen))


def test_every_kind_of_event_can_be_told_or_left_out() -> None:
    for kind in EVENT_KINDS:
        detail = {"seconds": 1.0, "nodes": 2, "links": 2} if kind == "ready" else {}
        told(event(kind, detail=detail))


def test_plain_lines_carry_the_clock() -> None:
    out = StringIO()
    events = Events(lambda _: None)
    view = PlainLines(live_on(events), Console(file=out, width=200))
    events.subscribe(view)
    events.emit("heal", name="split", fault="partition", targets=["site-0"])
    view.close()
    assert out.getvalue() == "     -  heal split (partition): site-0\n"


def test_the_live_view_shows_phase_rates_success_latency_and_faults_in_force() -> None:
    out = StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    events = Events(lambda _: None)
    view = LiveView(live_on(events), console)
    events.subscribe(view)
    events.emit("phase", name="load")
    events.emit("inject", name="split", fault="partition", action=0, targets=["site-0"])
    console.print(view._render())
    for words in ("load and faults", "100/s", "98.0%", "19 ms", "faults in force: split"):
        assert words in out.getvalue()
    events.emit("healed", name="split", fault="partition", action=0)
    console.print(view._render())
    view.close()
    assert "faults in force: none" in out.getvalue()
