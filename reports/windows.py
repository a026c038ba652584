"""When faults were in force, by the journal, and which operations a scope covers. Pure: events in, masks out.

    inject        heal          heal + TAIL      next inject
      ├─────────────┤╌╌╌╌╌╌╌╌╌╌╌╌╌┤                 │
      └──── during NAME ──────────┘                 │
                    └──────── after NAME ───────────┘

- A fault here is one entry of the timeline: from the first injection of any of its actions to the last heal of any.
- An action that is never healed because it has no end (kill, stop, join, replace) counts as healed when its effect was
  observed. One that should have been healed and was not is in force to the end.
- An operation is in a scope by its intended start; it is `outside faults` only if no moment of [intended, finished]
  lies in any window. So a window is never stretched by how bad things are, and an operation that a fault has delayed is
  not held against the time before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.expectations import Scope
from harness.records import Action, Event

TAIL = 5.0  # s after a heal that still belong to the fault's window

Times = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """One timeline entry in force: [start, healed] and its tail. ``healed`` is infinite if it never was."""

    name: str
    fault: str
    start: float
    healed: float

    @property
    def until(self) -> float:
        """The end of the window."""
        return self.healed + TAIL


@dataclass(frozen=True)
class Windows:
    """All windows of a run, in the order of their starts; ``injections`` are the times of all actions'; ``end`` is the
    moment up to which rows are complete."""

    faults: Sequence[Window]
    injections: Sequence[float]
    end: float

    def named(self, name: str) -> Window | None:
        """The window of a timeline entry; None if it was never injected."""
        return next((window for window in self.faults if window.name == name), None)

    @property
    def first_injection(self) -> float:
        """When the first fault began; infinite if none did."""
        return min(self.injections, default=math.inf)

    def next_injection(self, moment: float) -> float:
        """The first injection after a moment, or the end of the rows."""
        return min([at for at in self.injections if at > moment] + [self.end])

    def in_force(self, moment: float) -> list[str]:
        """Names of the faults whose windows hold a moment."""
        return [window.name for window in self.faults if window.start <= moment <= window.until]

    @cached_property
    def merged(self) -> list[tuple[float, float]]:
        """The union of all windows as disjoint intervals, in order."""
        union: list[tuple[float, float]] = []
        for window in sorted(self.faults, key=lambda window: window.start):
            if union and window.start <= union[-1][1]:
                union[-1] = (union[-1][0], max(union[-1][1], window.until))
            else:
                union.append((window.start, window.until))
        return union

    def covers(self, scope: Scope, intended: Times, finished: Times) -> Mask:
        """Which operations belong to a scope. A scope whose fault was never injected covers none."""
        if scope.kind == "outside_faults":
            starts, untils = self._edges()
            begun: Mask = np.searchsorted(starts, finished, side="right") == np.searchsorted(
                untils, intended, side="left"
            )
            return begun
        bounds = self.bounds(scope)
        if bounds is None:
            return np.zeros(len(intended), dtype=np.bool_)
        closed = scope.kind in ("during", "all")
        inside: Mask = (intended >= bounds[0]) & ((intended <= bounds[1]) if closed else (intended < bounds[1]))
        return inside

    def _edges(self) -> tuple[Times, Times]:
        edges = np.array(self.merged, dtype=np.float64).reshape(-1, 2)
        return edges[:, 0], edges[:, 1]

    def bounds(self, scope: Scope) -> tuple[float, float] | None:
        """[from, to] of a scope that is one interval; None if its fault was never injected."""
        window = self.named(scope.name)
        if scope.kind == "all":
            return (-math.inf, math.inf)
        if scope.kind == "before_faults":
            return (-math.inf, self.first_injection)
        if window is None:
            return None
        if scope.kind == "during":
            return (window.start, window.until)
        return (window.healed, self.next_injection(window.healed))

    def seconds(self, scope: Scope) -> float:
        """How long a scope lasts within [0, end]."""
        if scope.kind == "outside_faults":
            return max(0.0, self.end - sum(self._clipped(*interval) for interval in self.merged))
        bounds = self.bounds(scope)
        return 0.0 if bounds is None else self._clipped(*bounds)

    def _clipped(self, begin: float, until: float) -> float:
        return max(0.0, min(until, self.end) - max(begin, 0.0))


def windows_of(events: Sequence[Event], actions: Sequence[Action], end: float) -> Windows:
    """The windows that a journal tells of. ``actions`` are the plan's, which events name by their index."""
    injected: dict[str, list[Event]] = {}
    for event in _timed(events, "inject"):
        injected.setdefault(event.name, []).append(event)
    healed = _healed(events, actions)
    faults = [
        Window(
            name=name,
            fault=group[0].fault,
            start=min(_at(event) for event in group),
            healed=max(healed.get((name, event.action), math.inf) for event in group),
        )
        for name, group in injected.items()
    ]
    moments = [_at(event) for group in injected.values() for event in group]
    return Windows(sorted(faults, key=lambda window: window.start), sorted(moments), end)


def _healed(events: Sequence[Event], actions: Sequence[Action]) -> dict[tuple[str, int | None], float]:
    """(name, action) -> when it had been taken back; without those that never were."""
    moments = {(event.name, event.action): _at(event) for event in _timed(events, "heal")}
    moments |= {(event.name, event.action): _at(event) for event in _timed(events, "healed")}
    for event in _timed(events, "observe"):
        if event.effective is True and _is_endless(event, actions):
            moments.setdefault((event.name, event.action), _at(event))
    return moments


def _is_endless(event: Event, actions: Sequence[Action]) -> bool:
    known = event.action is not None and event.action < len(actions)
    return known and actions[event.action or 0].until_us is None


def _timed(events: Sequence[Event], kind: str) -> list[Event]:
    return [event for event in events if event.event == kind and event.t is not None]


def _at(event: Event) -> float:
    assert event.t is not None
    return event.t
