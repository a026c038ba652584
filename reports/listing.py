"""`kadstorm history`: the runs of a folder from their `summary.json` alone, filtered and sorted. Reads no operations."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.records import EVENTS_FILE, PLAN_FILE, SUMMARY_FILE, Event
from reports.errors import ReportUsageError, RunFolderError
from reports.summary import Summary, decoded


@dataclass(frozen=True)
class Listed:
    """One run. ``summary`` is None for one that was never analysed (it goes on, or its analysis failed)."""

    folder: Path
    began: str  # UTC, to the second; empty if its journal does not say
    summary: Summary | None

    @property
    def verdict(self) -> str:
        """The run's verdict; `unread` if it was never analysed."""
        return self.summary.verdict if self.summary else "unread"

    @property
    def name(self) -> str:
        """The experiment's name; the folder's if it was never analysed."""
        return self.summary.name if self.summary else self.folder.name


def _slowest_recovery(summary: Summary) -> float | None:
    return max((f.recovery_s for f in summary.faults if f.recovery_s is not None), default=None)


COLUMNS: Final[dict[str, Callable[[Summary], Any]]] = {
    "seed": lambda s: s.seed,
    "nodes": lambda s: s.nodes,
    "lookup.success": lambda s: s.lookup.success,
    "lookup.p50": lambda s: s.lookup.p50_ms,
    "lookup.p99": lambda s: s.lookup.p99_ms,
    "store.success": lambda s: s.store.success,
    "store.p99": lambda s: s.store.p99_ms,
    "recovery": _slowest_recovery,
}
SORTS: Final = ("began", "name", "verdict", *COLUMNS)


def listing(
    parent: Path, *, name: str = "*", verdicts: Sequence[str] = (), since: str = "", sort: str = "began", limit: int = 0
) -> list[Listed]:
    """The runs in ``parent``, those of a name (a pattern) and of some verdicts, begun at or after ``since`` (`2026-01-31`).

    In the order of ``sort``: one of SORTS, backwards with a `-` before it; what is unknown comes last. Of more than
    ``limit`` runs the last ones, if that is not 0.

    Raises:
        RunFolderError: there is no such folder, or a summary in it is none.
        ReportUsageError: there is no such column to sort by.
    """
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise ReportUsageError(f"--sort {sort}: no column `{column}` (columns: {', '.join(SORTS)})")
    if not parent.is_dir():
        raise RunFolderError(f"{parent}: there is no such folder; the one that holds run folders is wanted")
    runs = [_listed(plan.parent) for plan in sorted(parent.glob(f"*/{PLAN_FILE}"))]
    kept = [
        run
        for run in runs
        if fnmatch.fnmatch(run.name, name) and (not verdicts or run.verdict in verdicts) and run.began >= since
    ]
    known = [run for run in kept if _value(run, column) is not None]
    unknown = [run for run in kept if _value(run, column) is None]
    known.sort(key=lambda run: _value(run, column), reverse=sort.startswith("-"))
    ordered = [*known, *unknown]
    return ordered[-limit:] if limit else ordered


def as_json(runs: Sequence[Listed]) -> bytes:
    """The same for programs."""
    rows = [
        {"folder": str(run.folder), "began": run.began, "name": run.name, "verdict": run.verdict}
        | {column: None if run.summary is None else read(run.summary) for column, read in COLUMNS.items()}
        for run in runs
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"


def _value(run: Listed, column: str) -> Any:
    if column in COLUMNS:
        return None if run.summary is None else COLUMNS[column](run.summary)
    return getattr(run, column)


def _listed(folder: Path) -> Listed:
    return Listed(folder, _began(folder / EVENTS_FILE), _summary(folder / SUMMARY_FILE))


def _summary(path: Path) -> Summary | None:
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{path}: is no summary of a run: {error}; `kadstorm report` makes it anew") from error


def _began(path: Path) -> str:
    try:
        with path.open("rb") as journal:
            return msgspec.json.decode(journal.readline(), type=Event).wall[:19]
    except (OSError, msgspec.DecodeError):
        return ""  # a run that has only just begun has no line yet
