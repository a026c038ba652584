"""The verdict for a terminal: a few lines of rich console markup. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from harness.records import RunVerdict, Verdict
from reports.headline import WORDS
from reports.summary import Summary
from reports.wording import duration, measured_text

COLOURS: dict[RunVerdict, str] = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "error": "red",
    "interrupted": "yellow",
}
MARKS: dict[Verdict, str] = {"pass": "[green]pass   [/]", "fail": "[red]fail   [/]", "unknown": "[yellow]unknown[/]"}


def lines(summary: Summary) -> list[str]:
    """See `reports.terminal_lines`."""
    return list(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    word = WORDS[summary.verdict]
    told = summary.sentence.removeprefix(f"{word}: ")
    yield f"[bold {COLOURS[summary.verdict]}]{word}[/]: {_escaped(told)}"
    for expectation in summary.expectations:
        yield _result(expectation.verdict, expectation.text, measured_text(expectation))
    for check in summary.checks:
        yield _result(check.verdict, check.checker, check.evidence)
    for fault in summary.faults:
        if fault.recovery_s is not None:
            yield f"  [dim]recovered {duration(fault.recovery_s)} after[/] {_escaped(fault.name)}"
    shown = {*(f"{check.checker}: {check.evidence}" for check in summary.checks)}
    texts = tuple(expectation.text for expectation in summary.expectations)
    for reason in summary.reasons[1:]:
        if reason not in shown and not reason.startswith(texts):
            yield f"  {_escaped(reason)}"


def _result(verdict: Verdict, what: str, seen: str) -> str:
    return f"  {MARKS[verdict]}  {_escaped(what)}  [dim]{_escaped(seen)}[/]"


def _escaped(text: str) -> str:
    """Text from files that users write: `[` would begin markup."""
    return text.replace("[", "\\[")
