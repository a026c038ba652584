"""What became of each entry of the timeline: asked, seen, taken back, recovered from. From the plan and the journal.

An entry may have many actions (churn has one per downtime): what their observations say is put together, numbers as
their median and range, the rest as the different values that there were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.expectations import quantity
from harness.records import Action, Event, Plan
from reports.churn import realised
from reports.recovery import Recovery
from reports.summary import FaultSummary
from reports.windows import Windows

DISTINCT = 4  # different values of one observation that are listed


@dataclass(frozen=True)
class PlannedEntry:
    """One entry of the timeline as it was planned; s. ``asked`` are its options as they were written."""

    name: str
    fault: str
    at: float
    lasts: float | None
    asked: dict[str, Any]
    targets: list[str]
    actions: int


def planned_entries(plan: Plan) -> list[PlannedEntry]:
    """All entries of a plan, in the order of their first actions."""
    groups: dict[str, list[Action]] = {}
    for action in plan.actions:
        groups.setdefault(action.name, []).append(action)
    written = plan.experiment.get("timeline") or []
    return [_planned(name, actions, written) for name, actions in groups.items()]


def _planned(name: str, actions: Sequence[Action], written: Sequence[dict[str, Any]]) -> PlannedEntry:
    entry = written[actions[0].entry] if actions[0].entry < len(written) else {}
    first = min(action.at_us for action in actions) / 1e6
    ends = [action.until_us for action in actions]
    lasts = None if None in ends else round(max(end for end in ends if end is not None) / 1e6 - first, 6)
    return PlannedEntry(
        name=name,
        fault=actions[0].fault,
        at=_written_time(entry.get("at"), first) or 0.0,
        lasts=_written_time(entry.get("for"), lasts),
        asked=_asked(actions[0], entry),
        targets=list(dict.fromkeys(target for action in actions for target in action.targets)),
        actions=len(actions),
    )


def _written_time(text: Any, otherwise: float | None) -> float | None:
    return quantity("time", text) if isinstance(text, str) else otherwise


def _asked(action: Action, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry's options as its author wrote them: shorter than the plan's, in which selectors are resolved."""
    options = entry.get(action.fault) if entry else action.options
    return options if isinstance(options, dict) else {} if options is None else {action.fault: options}


def summarise(
    plan: Plan, events: Sequence[Event], windows: Windows, recoveries: dict[str, Recovery]
) -> list[FaultSummary]:
    """Each entry of the plan with what the journal says of it."""
    return [
        _summary(entry, [event for event in events if event.name == entry.name], windows, recoveries.get(entry.name))
        for entry in planned_entries(plan)
    ]


def _summary(entry: PlannedEntry, events: Sequence[Event], windows: Windows, recovery: Recovery | None) -> FaultSummary:
    seen = [event for event in events if event.event == "observe"]
    ended = [event for event in events if event.event == "heal-observed"]
    skipped = [target for event in events if event.event == "skipped" for target in event.targets]
    window = windows.named(entry.name)
    return FaultSummary(
        name=entry.name,
        fault=entry.fault,
        at=entry.at,
        for_=entry.lasts,
        targets=entry.targets,
        asked=entry.asked,
        observed=together([event.observed for event in seen]),
        effective=combined(seen),
        recovery_s=recovery.seconds if recovery else None,
        recovery_seen_s=recovery.seen if recovery else None,
        recovery_note=recovery.why if recovery else "it was never injected",
        heal_effective=combined(ended),
        injected=window.start if window else None,
        healed=window.healed if window and math.isfinite(window.healed) else None,
        actions=entry.actions,
        skipped=list(dict.fromkeys(skipped)),
        realised=realised(entry.asked, events, _over(entry)),
        missed=list(dict.fromkeys(name for event in [*seen, *ended] for name in event.detail.get("missed", []))),
    )


def _over(entry: PlannedEntry) -> float | None:
    return None if entry.lasts is None else entry.at + entry.lasts


def combined(events: Sequence[Event]) -> bool | None:
    """False if one was not effective, None if that is known of none, else True."""
    known = [event.effective for event in events if isinstance(event.effective, bool)]
    return all(known) if known else None


def unobserved(events: Sequence[Event], name: str) -> int:
    """How many injections of an entry nobody looked at."""
    looked_at = {event.action for event in events if event.event == "observe" and event.name == name}
    return sum(event.event == "inject" and event.name == name and event.action not in looked_at for event in events)


def together(observations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several observations say, by their keys; one alone as it is."""
    if len(observations) <= 1:
        return dict(observations[0]) if observations else {}
    keys = dict.fromkeys(key for observation in observations for key in observation)
    return {key: _merged([seen[key] for seen in observations if seen.get(key) is not None]) for key in keys}


def _merged(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers and len(numbers) == len(values):
        return _spread(numbers)
    if values and all(isinstance(value, dict) for value in values):
        return {name: part for value in values for name, part in value.items()}
    distinct = _distinct(values)
    if len(distinct) == 1:
        return distinct[0]
    return distinct[:DISTINCT] + (["…"] if len(distinct) > DISTINCT else [])


def _spread(numbers: Sequence[float]) -> Any:
    if len(set(numbers)) == 1:
        return numbers[0]
    return {"median": round(statistics.median(numbers), 6), "min": min(numbers), "max": max(numbers)}


def _distinct(values: Iterable[Any]) -> list[Any]:
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct
