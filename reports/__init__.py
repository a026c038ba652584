"""What a run meant: reads run folders, judges them, and writes the results beside what it read.

    analyse(run_dir)          reads and judges; writes nothing
    load(run_dir)             the same, as tidy pandas DataFrames
    write(run_dir)            the same, and writes summary.json, junit.xml, summary.md, report.html, Parquet files
    terminal_lines(summary)   the verdict for a terminal

A run folder is all that is needed, whatever moment the run was ended at. Imports nothing heavy until it is asked to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reports.errors import ReportError, ReportUsageError, ReportWriteError, RunFolderError

if TYPE_CHECKING:
    from reports.frames import Run
    from reports.summary import Summary

__all__ = [
    "ReportError",
    "ReportUsageError",
    "ReportWriteError",
    "RunFolderError",
    "analyse",
    "load",
    "terminal_lines",
    "write",
]


def analyse(run_dir: Path) -> Summary:
    """What summary.json would hold.

    Raises:
        RunFolderError: it is no run folder, or a file in it cannot be read; the text names the file.
    """
    from reports.analysis import analyse_folder

    return analyse_folder(run_dir).summary


def load(run_dir: Path | str) -> Run:
    """A run as tidy DataFrames: `operations`, `nodes`, `tables`, `events`, `faults`, `expectations`, `checks`.

    Raises:
        RunFolderError: as `analyse`.
    """
    from reports.frames import load_run

    return load_run(Path(run_dir))


def write(run_dir: Path) -> Summary:
    """Analyse a run and write all results into its folder, each under a temporary name first.

    Raises:
        RunFolderError: as `analyse`.
        ReportWriteError: a result could not be written.
    """
    from reports.writing import write_all

    return write_all(run_dir)


def terminal_lines(summary: Summary) -> list[str]:
    """The verdict, each expectation and whatever did not pass, as rich console markup."""
    from reports.terminal import lines

    return lines(summary)
