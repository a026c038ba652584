"""The timeline of an experiment: entries, each with one fault, checked against the cluster and the run's length.

Every entry is checked as far as it can be: its times do not wait for its fault to be right, nor its fault for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from harness import faults
from harness.document import Document, PathTo, meant
from harness.faults import Fault, FaultOptions
from harness.fields import Block, Duration, Line, PositiveDuration, whole
from harness.quantities import duration_text, shown
from harness.selectors import Shape
from harness.validation import listed, salvage, validate
from harness.world import Entry, Repeat

MOST_REPEATS = 1_000


class RepeatBlock(Block):
    """`repeat: {every: 4s, times: 5}`."""

    every: PositiveDuration
    times: Annotated[int, whole(1, MOST_REPEATS)]


class EntryHead(Block):
    """What all entries have, beside their fault."""

    at: Duration
    for_: PositiveDuration | None = Field(None, alias="for")
    repeat: RepeatBlock | None = None
    name: Line | None = None


@dataclass(frozen=True)
class Known:
    """What is right in the rest of the file; None where it is not."""

    shape: Shape | None
    duration_us: int | None


@dataclass(frozen=True)
class TimelineEntry:
    """One entry that is right. ``asked`` holds its options as they were written."""

    entry: Entry
    fault: Fault
    options: FaultOptions
    asked: dict[str, Any]


@dataclass
class _Raw:
    """One entry while it is read."""

    index: int
    data: dict[str, Any]
    fault: Fault | None = None
    key: str = ""
    names: list[str] = field(default_factory=list)  # what an expectation may call it

    @property
    def path(self) -> PathTo:
        return ("timeline", self.index)


def read_timeline(document: Document, value: object, known: Known) -> tuple[list[TimelineEntry], list[str]]:
    """All entries that are right, and the names that expectations may use. Mistakes are noted in the document."""
    if not isinstance(value, list):
        document.note(("timeline",), f"timeline: `{shown(value)}` is no list of entries")
        return [], []
    raws = [_raw(document, index, item) for index, item in enumerate(value)]
    _name(document, raws)
    entries = [_entry(document, raw, known) for raw in raws]
    return [entry for entry in entries if entry], [name for raw in raws for name in raw.names]


def _raw(document: Document, index: int, item: object) -> _Raw:
    if not isinstance(item, dict):
        text = f"`{shown(item)}` is no entry: write a map, as in {{at: 10s, for: 5s, partition: halves}}"
        document.note(("timeline", index), text)
        return _Raw(index, {})
    raw = _Raw(index, item)
    _find_fault(document, raw)
    return raw


def _find_fault(document: Document, raw: _Raw) -> None:
    """Which of the keys is the fault; notes keys that are none, and more than one."""
    head = EntryHead.known_keys()
    there = faults.names()
    keys = [key for key in raw.data if key not in head]
    named = [key for key in keys if key in there or key in faults.DESCRIBED]
    for key in keys:
        if key not in named:
            _note_stranger(document, raw, key, alone=not named and len(keys) == 1)
    if not keys:
        document.note(raw.path, f"no fault in this entry: name one of {', '.join(there)}")
    for extra in named[1:]:
        text = f"two faults in one entry, `{named[0]}` and `{extra}`: make them two entries"
        document.note((*raw.path, extra), text, at_key=True)
    if len(named) == 1 and named[0] not in there:
        document.note((*raw.path, named[0]), faults.absent(named[0]), at_key=True)
    raw.key = next((key for key in named if key in there), "")
    raw.fault = faults.get(raw.key) if raw.key else None
    raw.names = [*keys, *(close for key in keys for close in re.findall(r"`(\w+)`\?", meant(key, there)))]


def _note_stranger(document: Document, raw: _Raw, key: str, *, alone: bool) -> None:
    """A key that is neither of the head nor a fault: one of the two, misspelt."""
    near_head = meant(key, EntryHead.known_keys())
    if near_head or not alone:
        near = near_head or meant(key, faults.names())
        keys = ", ".join(EntryHead.known_keys())
        text = f"no key `{key}` in an entry{near or f' (keys: {keys}, and one fault)'}"
    else:
        text = faults.absent(key)
    document.note((*raw.path, key), text, at_key=True)


# --- names --------------------------------------------------------------------------------------


def _name(document: Document, raws: Sequence[_Raw]) -> None:
    """Names as the contract has them: given, or the fault's, the second one with `-2`. Given ones must differ."""
    taken: dict[str, int] = {}
    for raw in raws:
        given = salvage(EntryHead, raw.data).get("name")
        if given is None:
            continue
        if given in taken:
            line = document.place(("timeline", taken[given]))
            document.note((*raw.path, "name"), f"name: `{given}` is the name of another entry already ({line})")
        taken[given] = raw.index
        raw.names = [given]
    for raw in raws:
        if raw.key and raw.data.get("name") is None:
            number = 1
            while (name := raw.key if number == 1 else f"{raw.key}-{number}") in taken:
                number += 1
            taken[name] = raw.index
            raw.names = [name, *(other for other in raw.names if other != raw.key)]


# --- one entry ----------------------------------------------------------------------------------


def _entry(document: Document, raw: _Raw, known: Known) -> TimelineEntry | None:
    if not raw.data:
        return None
    before = len(document.mistakes)
    head_data = {key: value for key, value in raw.data.items() if key in EntryHead.known_keys()}
    head = validate(EntryHead, head_data, document, raw.path)
    if raw.fault is None:
        _check_times(document, raw, head_data, 0, known)
        return None
    data = raw.data[raw.key]
    options = validate(raw.fault.Options, data, document, (*raw.path, raw.key))
    right = salvage(raw.fault.Options, data)
    _check_times(document, raw, head_data, raw.fault.Options.lasts_us(right), known)
    _check_fit(document, raw, raw.fault, right, known)
    if head is None or options is None or known.duration_us is None or len(document.mistakes) > before:
        return None
    repeat = Repeat(head.repeat.every, head.repeat.times) if head.repeat else None
    entry = Entry(raw.index, raw.names[0], raw.key, head.at, head.for_, repeat, known.duration_us)
    return TimelineEntry(entry, raw.fault, options, raw.fault.Options.given(data) or {})


def _check_fit(document: Document, raw: _Raw, fault: Fault, right: Mapping[str, Any], known: Known) -> None:
    if known.shape is None:
        return
    for where, text in fault.Options.misfits(right, known.shape, fault.level):
        path = (*raw.path, raw.key, *where)
        document.note(path, f"{listed(path)}: {text}")


def _check_times(document: Document, raw: _Raw, data: Mapping[str, Any], lasts_us: int, known: Known) -> None:
    for key, text in _time_mistakes(raw.fault, raw.key, data, lasts_us, known.duration_us):
        document.note((*raw.path, key) if key else raw.path, text)


def _time_mistakes(
    fault: Fault | None, key: str, data: Mapping[str, Any], lasts_us: int, duration_us: int | None
) -> Iterator[tuple[str, str]]:
    """(key of the entry, what is wrong)."""
    head = salvage(EntryHead, data)
    at, for_, repeat = head.get("at"), head.get("for_"), head.get("repeat")
    has_for = data.get("for") is not None
    if fault and fault.duration == "refused" and has_for:
        yield "for", f"{key} takes no `for`: it happens at one moment"
    elif fault and not has_for and (fault.duration == "required" or (repeat and not lasts_us and _lasts(fault))):
        yield "", f"{key} needs `for`: how long it lasts{' each time' if repeat else ''}, as in `for: 5s`"
    length = for_ or lasts_us
    if repeat and repeat.every <= length:
        every, long = duration_text(repeat.every), duration_text(length)
        yield "repeat", f"repeat: comes again every {every}, but lasts {long}: `every` must be longer"
    if at is not None and duration_us is not None:
        yield from _end_mistakes(at, length, repeat, data, duration_us)


def _lasts(fault: Fault) -> bool:
    return fault.duration != "refused"


def _end_mistakes(
    at: int, length: int, repeat: RepeatBlock | None, data: Mapping[str, Any], duration_us: int
) -> Iterator[tuple[str, str]]:
    last = at + (repeat.every * (repeat.times - 1) if repeat else 0)
    run = f"the run, which lasts {duration_text(duration_us)}"
    if at >= duration_us:
        yield "at", f"at: {duration_text(at)} is after the end of {run}"
    elif last >= duration_us:
        yield "repeat", f"repeat: the last one starts at {duration_text(last)}, after the end of {run}"
    elif last + length > duration_us:
        key = "for" if data.get("for") is not None else ""
        yield key, f"ends at {duration_text(last + length)}, after the end of {run}"
