"""Writes all results of a run into its folder.

The JavaScript of the page's charts takes a second to be put together, so that begins first, in a process of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import (
    JUNIT_FILE,
    MARKDOWN_FILE,
    NODES_FILE,
    OPERATIONS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    TABLES_FILE,
)
from reports.files import replace_atomically, write_atomically
from reports.javascript import Bundle

if TYPE_CHECKING:
    import pyarrow as pa

    from reports.summary import Summary


def write_all(run_dir: Path) -> Summary:
    """See `reports.write`."""
    began = time.monotonic()
    with Bundle() as bundle:
        from reports.analysis import analyse_folder
        from reports.html import page
        from reports.junit import junit
        from reports.markdown import markdown
        from reports.summary import encoded

        analysis = analyse_folder(run_dir)
        again = analysis.history.end is None  # it may have gone on since the files were made
        _write_table(run_dir / OPERATIONS_FILE, analysis.history.operations, again=again)
        _write_table(run_dir / NODES_FILE, analysis.history.nodes, again=again)
        _write_table(run_dir / TABLES_FILE, analysis.history.tables, again=again)
        write_atomically(run_dir / JUNIT_FILE, junit(analysis.summary))
        write_atomically(run_dir / MARKDOWN_FILE, markdown(analysis))
        write_atomically(run_dir / REPORT_FILE, page(analysis, bundle.text()))
        analysis.summary.timings["report_s"] = round(time.monotonic() - began, 3)
        write_atomically(run_dir / SUMMARY_FILE, encoded(analysis.summary))
    return analysis.summary


def _write_table(path: Path, table: pa.Table, *, again: bool) -> None:
    """As Parquet with plain texts, as records.py promises them, unless that is there already."""
    import pyarrow.parquet as pq

    if again or not path.is_file():
        replace_atomically(
            path, lambda temporary: pq.write_table(table, temporary, compression="zstd", store_schema=False)
        )
