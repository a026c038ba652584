"""`summary.md`: what a reviewer wants to see of a run in a pull request or a job summary; GitHub's Markdown.

Lines of text draw the course of the run, so that it needs no picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reports import wording
from reports.analysis import Analysis
from reports.headline import WORDS
from reports.summary import FaultSummary, Summary
from reports.timeline import buckets

BLOCKS = "▁▂▃▄▅▆▇█"
EFFECTIVE = {True: "yes", False: "NO", None: "not known"}
VERDICTS = {"pass": "pass", "fail": "FAIL", "unknown": "cannot tell"}


def markdown(analysis: Analysis) -> str:
    """The file's text."""
    return "\n".join(_lines(analysis)) + "\n"


def _lines(analysis: Analysis) -> Iterator[str]:
    summary = analysis.summary
    yield f"## {_escaped(summary.name)}: {WORDS[summary.verdict].lower()}"
    yield from ("", _escaped(summary.sentence), "")
    if len(summary.reasons) > 1:
        yield from (*(f"- {_escaped(reason)}" for reason in summary.reasons), "")
    yield from _expectations(summary)
    yield from _table(["Fault", "At", "For", "Took effect", "Recovery"], [_fault(fault) for fault in summary.faults])
    yield from _figures(summary)
    yield from _sparklines(analysis)
    yield from _table(
        ["Check", "Verdict", "Evidence"], [[c.checker, VERDICTS[c.verdict], c.evidence] for c in summary.checks]
    )
    yield f"{summary.nodes} nodes ({summary.backend}), seed {summary.seed}. Replay: `{summary.replay}`"


def _expectations(summary: Summary) -> Iterator[str]:
    rows = [
        [f"`{result.text}`", wording.measured_text(result), VERDICTS[result.verdict]] for result in summary.expectations
    ]
    yield from _table(["Expectation", "Measured", "Verdict"], rows)


def _fault(fault: FaultSummary) -> list[str]:
    recovery = fault.recovery_note or "not seen"
    if fault.recovery_s is not None:
        recovery = wording.duration(fault.recovery_s) if fault.recovery_s else "at once"
    effective = EFFECTIVE[fault.effective]
    return [fault.name, wording.duration(fault.at), wording.duration(fault.for_), effective, recovery]


def _figures(summary: Summary) -> Iterator[str]:
    rows = [
        [
            f"{name}s",
            f"{one.count:,}",
            wording.share(one.success),
            *(wording.milliseconds(value) for value in (one.p50_ms, one.p90_ms, one.p99_ms, one.max_ms)),
            wording.number(one.hops),
        ]
        for name, one in (("lookup", summary.lookup), ("store", summary.store))
    ]
    yield from _table(["Operations", "Count", "Success", "p50", "p90", "p99", "max", "Hops"], rows)


def _sparklines(analysis: Analysis) -> Iterator[str]:
    records = buckets(analysis.history.load, analysis.history.duration)
    force = "".join("▒" if _in_force(analysis, record) else " " for record in records)
    yield from ("```text", f"lookups ok  {sparkline([record['lookup_success'] for record in records], 0.0, 1.0)}")
    p99 = [record["lookup_p99"] for record in records]
    top = max((value for value in p99 if value is not None), default=0.0)
    yield f"lookup p99  {sparkline(p99, 0.0, top)}  up to {wording.milliseconds(top)}"
    yield from (f"faults      {force}".rstrip(), "```", "")


def _in_force(analysis: Analysis, record: dict[str, Any]) -> bool:
    return any(
        window.start < record["t1"] and min(window.healed, analysis.windows.end) > record["t0"]
        for window in analysis.windows.faults
    )


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One block per value, from ``low`` to ``high``; a blank where there is none."""
    span = (high - low) or 1.0
    last = len(BLOCKS) - 1
    return "".join(" " if v is None else BLOCKS[max(0, min(last, int((v - low) / span * last)))] for v in values)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"
    yield ""


def _escaped(text: str) -> str:
    """Names come from files that users write: they must not break a table or become HTML. Code shows as it is."""
    plain = text.replace("\n", " ").replace("|", "\\|")
    return plain if plain.startswith("`") else plain.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
