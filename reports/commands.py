"""What `kadstorm compare`, `kadstorm history` and `--baseline` do, behind their options: values in, lines and a code out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports.wording import NOTHING, duration, milliseconds, share

if TYPE_CHECKING:
    from reports.compare import Comparison
    from reports.listing import Listed

MARKS = {"worse": "[red]worse      [/]", "better": "[green]better     [/]"}
MARKS |= {"no worse": "[green]no worse   [/]", "cannot tell": "[yellow]cannot tell[/]"}
HEADINGS = ("began (UTC)", "name", "verdict", "seed", "nodes", "lookups ok", "p99", "stores ok", "recovery", "folder")


@dataclass(frozen=True)
class Told:
    """Lines of rich console markup, and the exit code."""

    lines: Sequence[str]
    exit_code: int


def compare_runs(
    base: Path, new: Sequence[Path], tolerance: Sequence[str], *, html: Path | None = None, json: Path | None = None
) -> Told:
    """Compare runs, and write the page and the JSON where they are wanted.

    Raises:
        RunFolderError, ReportUsageError, ReportWriteError: before anything is written, but for the last.
    """
    from reports.compare import compare, load_side, tolerances_of

    tolerances = tolerances_of(tolerance)
    sides = load_side([base]), load_side(new)
    comparison = compare(*sides, tolerances)
    if html is not None:
        from reports.compare_page import page
        from reports.files import write_atomically

        write_atomically(html, page(comparison, *sides))
    if json is not None:
        import msgspec

        from reports.files import write_atomically

        write_atomically(json, msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n")
    return Told(_compared(comparison, html), comparison.exit_code)


@dataclass(frozen=True)
class Exported:
    """What is to be printed, and the run's exit code."""

    content: bytes
    exit_code: int


def exported_run(run_dir: Path, format_: str) -> Exported:
    """A run's results in one of `export.FORMATS`; nothing is written. Raises RunFolderError, ReportUsageError."""
    from reports.analysis import analyse_folder
    from reports.export import check_format, exported

    check_format(format_)
    analysis = analyse_folder(run_dir)
    return Exported(exported(analysis, format_), analysis.summary.exit_code)


def check_baseline(base: Path) -> None:
    """Whether it holds runs that can be a baseline. Raises RunFolderError."""
    from reports.compare import run_dirs

    run_dirs(base)


def history_lines(runs: Sequence[Listed]) -> list[str]:
    """A table of HEADINGS: never cut, so that folders can be copied and lines be grepped."""
    rows = [HEADINGS, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: Listed) -> tuple[str, ...]:
    began, one = run.began.replace("T", " "), run.summary
    if one is None:
        return (began, run.name, run.verdict, *[NOTHING] * 6, str(run.folder))
    recoveries = [fault.recovery_s for fault in one.faults if fault.recovery_s is not None]
    figures = (share(one.lookup.success), milliseconds(one.lookup.p99_ms), share(one.store.success))
    recovery = duration(max(recoveries)) if recoveries else NOTHING
    return (began, run.name, run.verdict, str(one.seed), str(one.nodes), *figures, recovery, str(run.folder))


def _compared(comparison: Comparison, html: Path | None) -> list[str]:
    from reports.compare import change_text, gravest_first

    colour = {"regression": "red", "no regression": "green", "cannot tell": "yellow"}[comparison.verdict]
    lines = [f"[bold {colour}]{comparison.sentence}[/]"]
    lines += [
        f"  {MARKS[one.verdict]}  {one.metric}  [dim]{change_text(one)}[/]"
        for one in gravest_first(comparison.differences)
    ]
    lines += [f"  {note}".replace("[", "\\[") for note in comparison.notes]
    return [*lines, *([f"report: {html}"] if html is not None else [])]
