"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere.

Both are consumers of events and look at the load's last figures; neither can slow down or break a run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from harness.records import Event

if TYPE_CHECKING:
    from harness.runner import Live

REFRESH = 4  # redraws a second
LINE_EVERY = 10.0  # s between two plain lines of figures

PHASES = {
    "boot": "starting nodes and links",
    "ready": "waiting for full routing tables",
    "preload": "storing the first keys",
    "load": "load and faults",
    "settle": "settling",
    "readback": "reading every acknowledged key back",
    "teardown": "taking everything down",
}


PROGRESS_FROM = 32  # nodes; fewer are there before anybody wonders


def told(event: Event) -> str | None:
    """One line for people about an event; None for those that only the journal needs."""
    if event.event == "phase":
        return PHASES.get(event.name, event.name)
    if event.event == "started":
        started, of = event.detail.get("nodes", 0), event.detail.get("of", 0)
        return f"{started} of {of} nodes serve" if of > PROGRESS_FROM else None
    if event.event == "ready":
        d = event.detail
        return f"ready after {d['seconds']:.1f} s: {d['nodes']} nodes, {d['links']} links"
    teller = _TELLERS.get(event.event)
    return None if teller is None else teller(event)


def _title(event: Event) -> str:
    return event.name if event.name == event.fault else f"{event.name} ({event.fault})"


def _targets(event: Event, shown: int = 4) -> str:
    names = event.targets[:shown]
    more = len(event.targets) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _observed(event: Event) -> str:
    seen = ", ".join(f"{name} {value}" for name, value in event.observed.items() if not isinstance(value, dict))
    return f": {seen}" if seen else ""


def _effect(event: Event) -> str | None:
    if event.effective is False:
        return f"{_title(event)}: NO EFFECT on {', '.join(event.detail.get('missed', event.targets))}{_observed(event)}"
    if event.effective is None:
        return f"{_title(event)}: effect unknown{_observed(event)}"
    return f"{_title(event)}: effective{_observed(event)}"


def _ended(event: Event) -> str | None:
    if event.effective is False:
        return f"{_title(event)}: NOT HEALED{_observed(event)}"
    return None


_TELLERS: dict[str, Callable[[Event], str | None]] = {
    "inject": lambda event: f"inject {_title(event)}: {_targets(event)}",
    "heal": lambda event: f"heal {_title(event)}: {_targets(event)}",
    "observe": _effect,
    "heal-observed": _ended,
    "skipped": lambda event: f"skipped {_title(event)}: {_targets(event)} {event.detail.get('why', 'absent')}",
    "member-exit": lambda event: f"{event.name} DIED UNASKED: {event.detail.get('exit')}",
    "worker-exit": lambda event: str(event.detail.get("exit")),
    "expectation": lambda event: str(event.detail.get("message")),
    "error": lambda event: f"ERROR {event.detail.get('message', '')}",
    "interrupted": lambda event: f"{event.detail.get('signal')}: healing, taking down, writing what there is",
}


def figures(live: Live) -> dict[str, Any]:
    """The load's last figures by kind of operation; empty before there are any."""
    stats = live.stats()
    return {} if stats is None else stats.kinds()


class PlainLines:
    """A line for each thing that happens, and a line of figures now and then."""

    def __init__(self, live: Live, console: Console) -> None:
        self._live = live
        self._console = console
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell_figures, name="kadstorm-lines", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        line = told(event)
        if line is not None:
            self._say(line)

    def close(self) -> None:
        """Say nothing more."""
        self._stop.set()
        self._thread.join()

    def _say(self, line: str) -> None:
        now = self._live.events.now()
        stamp = "     -" if now is None else f"{now:6.1f}"
        self._console.print(f"{stamp}  {line}", highlight=False, soft_wrap=True, markup=False)

    def _tell_figures(self) -> None:
        while not self._stop.wait(LINE_EVERY):
            seen = figures(self._live)
            if seen:
                self._say("; ".join(f"{kind} {_figures_text(row)}" for kind, row in seen.items()))


def _figures_text(row: Any) -> str:
    p99 = "-" if row.p99_ms is None else f"{row.p99_ms:.0f} ms"
    success = "-" if not row.count else f"{row.ok / row.count:.1%}"
    return f"{row.rate:.0f}/s, ok {success}, p99 {p99}"


class LiveView:
    """Phase, time left, rates, success, p99 and faults in force, redrawn in place; what happened scrolls above it."""

    def __init__(self, live: Live, console: Console) -> None:
        self._live = live
        self._console = console
        self._phase = "boot"
        self._faults: dict[int, str] = {}
        self._duration = live.plan.experiment["duration_us"] / 1e6
        self._view = RichLive(get_renderable=self._render, console=console, refresh_per_second=REFRESH, transient=True)
        self._view.start()

    def __call__(self, event: Event) -> None:
        if event.event == "phase":
            self._phase = event.name
        if event.event == "inject" and event.action is not None:
            self._faults[event.action] = event.name
        if event.event == "healed" and event.action is not None:
            self._faults.pop(event.action, None)
        line = told(event)
        if line is not None and event.event != "phase":
            now = self._live.events.now()
            stamp = "     -" if now is None else f"{now:6.1f}"
            self._console.print(Text(f"{stamp}  {line}", style=_style(event)))

    def close(self) -> None:
        """Take the view off the screen."""
        self._view.stop()

    def _render(self) -> RenderableType:
        now = self._live.events.now()
        head = Text(PHASES.get(self._phase, self._phase), style="bold")
        if now is not None and self._phase == "load":
            left = max(0.0, self._duration - now)
            head.append(f"   {max(now, 0.0):.0f} s of {self._duration:.0f} s, {left:.0f} s left", style="")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", "rate", "success", "p50", "p99"):
            table.add_column(title, justify="right")
        for kind, row in figures(self._live).items():
            table.add_row(kind, *_cells(row))
        names = list(dict.fromkeys(self._faults.values()))
        faults = Text("faults in force: " + (", ".join(names) or "none"), style="red" if names else "dim")
        alive = self._live.sampler.alive if self._live.sampler else 0
        nodes = Text(f"nodes answering: {alive}" if alive else "", style="dim")
        return Group(Text(""), head, table, faults, nodes)


def _cells(row: Any) -> tuple[str, str, str, str]:
    return (
        f"{row.rate:.0f}/s",
        "-" if not row.count else f"{row.ok / row.count:.1%}",
        "-" if row.p50_ms is None else f"{row.p50_ms:.0f} ms",
        "-" if row.p99_ms is None else f"{row.p99_ms:.0f} ms",
    )


def _style(event: Event) -> str:
    if event.event in ("error", "member-exit", "worker-exit") or event.effective is False:
        return "bold red"
    return "green" if event.event in ("healed", "heal") else ""
