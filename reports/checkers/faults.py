"""Faults effective: everything that was planned was injected, took effect, and ended when it was taken back.

A fault that was never injected, never looked at, or looked at and not there, proves nothing about the network: the
verdict is `unknown`. An effect that outlives its heal fails the run.
"""

from __future__ import annotations

from reports.checkers import Case, Finding
from reports.faults import unobserved
from reports.summary import FaultSummary


class FaultsEffective:
    """Every fault really happened, and really ended."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        lasting = [
            f"{fault.name} was still there after its heal{_where(fault)}" for fault in case.faults if _lasts(fault)
        ]
        if lasting:
            return Finding("fail", "; ".join(lasting), [])
        doubts = [doubt for fault in case.faults if (doubt := _doubt(fault, case))]
        if doubts:
            return Finding("unknown", "; ".join(doubts), [])
        if not case.faults:
            return Finding("pass", "no faults were planned", [])
        known = sum(fault.effective is True for fault in case.faults)
        return Finding(
            "pass", f"{known} of {len(case.faults)} faults were seen to take effect, none was seen to fail", []
        )


def _lasts(fault: FaultSummary) -> bool:
    return fault.heal_effective is False


def _doubt(fault: FaultSummary, case: Case) -> str:
    if fault.injected is None:
        why = f", since {', '.join(fault.skipped)} had died before" if fault.skipped else ""
        return f"{fault.name} was never injected{why}"
    if fault.effective is False:
        return f"{fault.name} had no effect{_where(fault)}"
    missing = unobserved(case.history.events, fault.name)
    if missing:
        return f"{missing} of the {fault.actions} injections of {fault.name} were never looked at"
    return ""


def _where(fault: FaultSummary) -> str:
    shown = ", ".join(fault.missed[:8]) + (", …" if len(fault.missed) > 8 else "")
    return f" on {shown}" if fault.missed else ""
