"""Members: no node of the cluster ended unless a fault ended it."""

from __future__ import annotations

from harness.records import Event
from reports.checkers import Case, Finding


class MembersAlive:
    """No node ends unless a fault ends it."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        died = case.history.of_kind("member-exit")
        if died:
            details = [{"member": event.name, "at": event.t, **event.detail} for event in died]
            return Finding("fail", "; ".join(_told(event) for event in died), details)
        if all(event.t is None for event in case.history.events):
            return Finding("unknown", "the cluster never came to its start", [])
        return Finding("pass", f"all {len(case.history.plan.nodes)} nodes ran until they were ended", [])


def _told(event: Event) -> str:
    when = "before the clock started" if event.t is None else f"at {event.t:.1f} s"
    return f"{event.name} died unasked {when} (exit {event.detail.get('exit', 'unknown')})"
