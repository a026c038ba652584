"""The run's verdict: one word, an exit code, and every reason, the gravest first.

    interrupted    130   a signal ended it
    error            3   the harness or the machine failed: its own reasons, a dead load worker, a journal without end
    fail             1   an expectation or a checker failed
    inconclusive     4   an expectation or a checker cannot tell; a fault had no effect
    pass             0   none of these

The order is that of the exit codes in contracts: 130 before 2 before 3 before 1 before 4 before 0. (2, wrong usage, is
never the verdict of a run: nothing was started.)

What fails in a run whose own Toxiproxy was away for a time is not held against the network, since the harness had cut every
link of it: such a failure is inconclusive. A wrong value for a key stays a failure, as no cut explains one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.records import RunVerdict
from reports.history import History
from reports.summary import CheckResult, ExpectationResult
from reports.wording import limit_text, measured_text

EXIT_CODES: Final[dict[RunVerdict, int]] = {"interrupted": 130, "error": 3, "fail": 1, "inconclusive": 4, "pass": 0}
NEVER_EXCUSED: Final = ("integrity",)  # the checkers whose failures a cut network does not explain


@dataclass(frozen=True)
class Reason:
    """Why a run did not pass. ``text`` stands by itself."""

    kind: RunVerdict
    text: str


@dataclass(frozen=True)
class Judgement:
    """The verdict with all its reasons, the gravest first."""

    verdict: RunVerdict
    reasons: Sequence[Reason]

    @property
    def exit_code(self) -> int:
        """What a command that ran this run exits with."""
        return EXIT_CODES[self.verdict]


def judge_run(history: History, expectations: Sequence[ExpectationResult], checks: Sequence[CheckResult]) -> Judgement:
    """All reasons that the journal, the expectations and the checkers give, and the verdict that follows."""
    explained = _explanation(history)
    found = [
        *(_excused(reason, explained) for reason in (*_journalled(history), *_expected(expectations))),
        *(_excused(reason, explained, check.checker) for check in checks for reason in _checked(check)),
    ]
    order = list(EXIT_CODES)
    reasons = sorted(dict.fromkeys(found), key=lambda reason: order.index(reason.kind))
    return Judgement(reasons[0].kind if reasons else "pass", reasons)


def _journalled(history: History) -> Iterator[Reason]:
    end = history.end
    given = [] if end is None else end.get("reasons", [])
    for reason in given:
        kind = reason.get("kind")
        yield Reason(kind if kind in EXIT_CODES else "error", str(reason.get("text", reason)))
    if history.of_kind("interrupted") and not any(reason.get("kind") == "interrupted" for reason in given):
        yield Reason("interrupted", "the run was interrupted")
    if end is None:
        yield Reason("error", "the journal has no end: the harness was killed, or the run still goes on")
    for event in history.of_kind("worker-exit"):
        how = str(event.detail.get("exit", f"load worker {event.name} ended, and nobody knows how"))
        if not any(how in str(reason.get("text")) for reason in given):  # the end may give those of several in one
            yield Reason("error", how)


def _expected(results: Sequence[ExpectationResult]) -> Iterator[Reason]:
    for result in results:
        if result.verdict == "fail":
            yield Reason("fail", f"{result.text}: measured {measured_text(result)}, {limit_text(result)}")
        elif result.verdict == "unknown":
            yield Reason("inconclusive", f"{result.text}: cannot be told, {result.note}")


def _checked(result: CheckResult) -> Iterator[Reason]:
    if result.verdict != "pass":
        yield Reason("fail" if result.verdict == "fail" else "inconclusive", f"{result.checker}: {result.evidence}")


def _explanation(history: History) -> str:
    """Why failures are not the network's: how long the harness itself had cut all links. Empty if it never did."""
    gaps = history.of_kind("toxiproxy-restarted")
    if not gaps:
        return ""
    return f"Toxiproxy was away for {sum(float(event.detail.get('gap_s', 0.0)) for event in gaps):.2f} s of this run"


def _excused(reason: Reason, explained: str, checker: str = "") -> Reason:
    if reason.kind != "fail" or not explained or checker in NEVER_EXCUSED:
        return reason
    return Reason("inconclusive", f"{reason.text} (not held against the network: {explained})")
