"""`summary.json`: its structure, and nothing that computes. Additions are welcome, renames are not: users read it.

Times in s unless a name says `_ms`; shares from 0 to 1; null where too little is known. Written by `encoded`, the same
bytes for the same values.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from harness.records import SCHEMA, RunVerdict, Verdict

StepVerdict = Literal["held", "missed", "not delivered", "unknown"]


class Figures(msgspec.Struct, kw_only=True):
    """One kind of operation in phase `load`: exact figures of all its rows, however few; null if there are none.

    ``rate`` counts all that were due, per s; hops and rpcs are means of those that are known.
    """

    count: int
    success: float | None
    rate: float | None
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    hops: float | None
    rpcs: float | None


class Realised(msgspec.Struct, kw_only=True):
    """Times of one kind that a churn asked for and those that there were: quartiles in s, null where unknown.

    ``whole`` times were seen to their end, ``cut`` ones to the end of the fault.
    """

    what: Literal["sessions", "downtimes"]
    asked: str
    asked_quartiles_s: list[float | None]
    quartiles_s: list[float | None]
    whole: int
    cut: int


class FaultSummary(msgspec.Struct, kw_only=True):
    """One entry of the timeline: what was asked for, what was seen, how long the network took to recover.

    ``effective``: false if any of its actions had no effect, null if that is not known of any. ``injected`` and
    ``healed`` are moments of the journal. ``recovery_s`` is null if it did not recover while one could look
    (``recovery_seen_s``), or if that is unknown (``recovery_note``).
    """

    name: str
    fault: str
    at: float
    for_: float | None = msgspec.field(name="for")
    targets: list[str]
    asked: dict[str, Any]
    observed: dict[str, Any]
    effective: bool | None
    recovery_s: float | None
    recovery_seen_s: float | None = None
    recovery_note: str = ""
    heal_effective: bool | None = None
    injected: float | None = None
    healed: float | None = None
    actions: int = 0
    skipped: list[str] = []
    missed: list[str] = []
    realised: list[Realised] = []


class ExpectationResult(msgspec.Struct, kw_only=True):
    """``measured`` and ``limit`` in ``unit``: s, share, 1/s, or empty for plain numbers.

    ``rows`` is how many operations it is about; ``note`` says why it is unknown, or what was seen instead of a value.
    """

    text: str
    verdict: Verdict
    measured: float | None
    limit: float
    unit: str
    rows: int = 0
    note: str = ""


class CheckResult(msgspec.Struct, kw_only=True):
    """What a checker found: one sentence, and up to some dozen pieces of evidence."""

    checker: str
    verdict: Verdict
    evidence: str
    details: list[dict[str, Any]] = []


class LimitStep(msgspec.Struct, kw_only=True):
    """One rate (per s) of a search: what the objective measured (SI units), latencies in ms, and how it went."""

    rate: float
    verdict: StepVerdict
    operations: int
    measured: float | None
    p50_ms: float | None
    p99_ms: float | None
    success: float | None
    lag_p99_ms: float
    why: str = ""


class Limit(msgspec.Struct, kw_only=True):
    """A search. ``found`` is the highest rate at which the objective held, per s, null if it held at none; ``missed`` the
    lowest one above it that did not."""

    objective: str
    found: float | None
    missed: float | None
    steps: list[LimitStep]
    verdict: Verdict
    sentence: str


class Summary(msgspec.Struct, kw_only=True):
    """The whole file. ``reasons`` lists everything that kept the run from passing, the gravest first."""

    schema: int = SCHEMA
    name: str
    seed: int
    backend: str
    nodes: int
    verdict: RunVerdict
    exit_code: int
    sentence: str
    reasons: list[str]
    store: Figures
    lookup: Figures
    outcomes: dict[str, dict[str, int]]
    faults: list[FaultSummary]
    expectations: list[ExpectationResult]
    checks: list[CheckResult]
    timings: dict[str, float]
    environment: dict[str, Any]
    replay: str
    notes: list[str]
    limit: Limit | None = None  # of a search for the highest rate at which an objective holds


def encoded(summary: Summary) -> bytes:
    """The bytes of summary.json."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def decoded(content: bytes) -> Summary:
    """A summary from its bytes. Raises msgspec.DecodeError."""
    return msgspec.json.decode(content, type=Summary)
