"""Members: no node of the cluster ended unless a fault ended it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records import Event
from reports.checkers import Case, Finding

SHOWN = 5  # names of nodes that ended alike; the details have all


class MembersAlive:
    """No node ends unless a fault ends it."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        died = case.history.of_kind("member-exit")
        if died:
            details = [{"member": event.name, "at": event.t, **event.detail} for event in died]
            return Finding("fail", "; ".join(_told(end, events) for end, events in _by_end(died).items()), details)
        if all(event.t is None for event in case.history.events):
            return Finding("unknown", "the cluster never came to its start", [])
        return Finding("pass", "no node ended unless a fault or the run's end ended it", [])


def _by_end(died: Iterable[Event]) -> dict[str, list[Event]]:
    ends: dict[str, list[Event]] = {}
    for event in died:
        ends.setdefault(str(event.detail.get("exit", "nobody knows how")), []).append(event)
    return ends


def _told(end: str, events: Sequence[Event]) -> str:
    """Nodes that ended alike in one go: when an engine goes, all of them do."""
    times = [f"{event.t:.1f}" for event in sorted(events, key=lambda event: event.t or 0.0) if event.t is not None]
    if not times:
        when = "before the clock started"
    elif len(times) < len(events):
        when = f"up to {times[-1]} s, some before the clock started"
    else:
        when = f"at {times[0]} s" if times[0] == times[-1] else f"from {times[0]} to {times[-1]} s"
    names = ", ".join(event.name for event in events[:SHOWN])
    if len(events) == 1:
        return f"{names} died unasked {when}: {end}"
    more = f" and {len(events) - SHOWN} more" if len(events) > SHOWN else ""
    return f"{len(events)} nodes died unasked {when}: {end} ({names}{more})"
