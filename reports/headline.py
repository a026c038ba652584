"""What stands at the top of every report: the verdict in one sentence, and the three or four figures that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.records import RunVerdict
from reports import wording
from reports.keys import Fates
from reports.summary import Summary

WORDS: Final[dict[RunVerdict, str]] = {
    "pass": "Passed",
    "fail": "Failed",
    "inconclusive": "Inconclusive",
    "error": "Error",
    "interrupted": "Interrupted",
}


@dataclass(frozen=True)
class Figure:
    """One figure that matters: a label, its value, and what puts it into proportion."""

    label: str
    value: str
    note: str


def sentence(summary: Summary, fates: Fates) -> str:
    """The verdict in one sentence."""
    if summary.verdict == "pass":
        claims = [claim for claim in (_success(summary), _keys(fates), _recovered(summary)) if claim]
        return f"Passed: {_all_hold(summary)}{': ' if claims else ''}{_enumerated(claims)}."
    more = len(summary.reasons) - 1
    rest = f" ({more} more reason{'s' if more > 1 else ''} below)" if more else ""
    return f"{WORDS[summary.verdict]}: {summary.reasons[0]}{rest}."


def key_figures(summary: Summary, fates: Fates) -> list[Figure]:
    """The figures that matter, for the top of a report."""
    lookup, store = summary.lookup, summary.store
    return [
        Figure("Lookups that succeeded", wording.share(lookup.success), f"of {lookup.count:,}, faults included"),
        Figure("Stores that succeeded", wording.share(store.success), f"of {store.count:,}, faults included"),
        Figure(
            "Lookup latency, p99", wording.milliseconds(lookup.p99_ms), f"median {wording.milliseconds(lookup.p50_ms)}"
        ),
        Figure("Keys lost", wording.number(len(fates.lost) if fates.acknowledged else None), _read_back(fates)),
        _recovery_figure(summary),
    ]


def _read_back(fates: Fates) -> str:
    if not fates.acknowledged:
        return "no store was acknowledged"
    read = fates.acknowledged - len(fates.unread)
    return f"of {fates.acknowledged:,} acknowledged, {'all' if not fates.unread else f'{read:,}'} read back"


def _recovery_figure(summary: Summary) -> Figure:
    known = [fault for fault in summary.faults if fault.recovery_s is not None]
    slowest = max(known, key=lambda fault: fault.recovery_s or 0.0, default=None)
    still = [fault.name for fault in summary.faults if fault.recovery_s is None and fault.injected is not None]
    if slowest is not None and slowest.recovery_s == 0 and not still:
        return Figure("Slowest recovery", "at once", "after every fault")
    note = f"not seen after {', '.join(still)}" if still else f"after {slowest.name}" if slowest else "no fault"
    return Figure("Slowest recovery", wording.duration(slowest.recovery_s if slowest else None), note)


def _all_hold(summary: Summary) -> str:
    expectations, checks = len(summary.expectations), len(summary.checks)
    parts = [f"all {expectations} expectations" if expectations > 1 else "the expectation"] if expectations else []
    return f"{' and '.join([*parts, f'{checks} checks'])} hold"


def _success(summary: Summary) -> str:
    if not summary.lookup.count:
        return ""
    return f"{wording.share(summary.lookup.success)} of {summary.lookup.count:,} lookups succeeded"


def _keys(fates: Fates) -> str:
    if not fates.acknowledged:
        return ""
    lost = "none" if not fates.lost else f"{len(fates.lost):,}"
    return f"{lost} of {fates.acknowledged:,} acknowledged keys {'were' if len(fates.lost) > 1 else 'was'} lost"


def _recovered(summary: Summary) -> str:
    times = [fault.recovery_s for fault in summary.faults]
    known = [time for time in times if time is not None]
    if not known or len(known) < len(times):
        return ""
    if max(known) == 0:
        return f"the network was back at once after {'every' if len(known) > 1 else 'the'} fault"
    return (
        f"the network was back within {wording.duration(max(known))} after {'every' if len(known) > 1 else 'the'} fault"
    )


def _enumerated(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
