"""A run as tidy pandas DataFrames, for notebooks and scripts: one row is one thing, one column is one property of it.

Texts of few values are categories; keys, which are many and long, stay in Arrow's memory. Times are s since the clock's
start. Everything is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from harness.records import Plan
from reports.analysis import Analysis, analyse_folder
from reports.summary import Summary


@dataclass(frozen=True)
class Run:
    """One run. What it was worth is in ``summary``; all it did is in the frames."""

    analysis: Analysis

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.analysis.history.run_dir

    @property
    def plan(self) -> Plan:
        """The plan that it played; ``plan.experiment`` is the resolved experiment."""
        return self.analysis.history.plan

    @property
    def summary(self) -> Summary:
        """What `summary.json` holds."""
        return self.analysis.summary

    @cached_property
    def operations(self) -> pd.DataFrame:
        """A row per operation of all phases, by their due times: records.OPERATION_COLUMNS, and

        ``latency`` (s; finished - intended), ``lag`` (s; how late it was sent), ``ok`` (bool), ``during`` (category; the
        fault in whose window it was due, several joined by `+`, empty outside).
        """
        table = self.analysis.history.operations.sort_by([("intended", "ascending"), ("finished", "ascending")])
        index = table.column_names.index("key")
        table = table.set_column(index, "key", table.column("key").cast(pa.string()))
        frame: pd.DataFrame = table.to_pandas(types_mapper=_arrow_texts)
        return frame.assign(
            latency=frame["finished"] - frame["intended"],
            lag=frame["started"] - frame["intended"],
            ok=(frame["outcome"] == "ok").to_numpy(),
            during=self._during(frame["intended"].to_numpy()),
        )

    @property
    def load(self) -> pd.DataFrame:
        """The operations of phase load: what figures and verdicts are about."""
        return self.operations[self.operations["phase"] == "load"]

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """A row per node and sample: records.NODE_COLUMNS. Where ``up`` is false, counters are -1."""
        return self.analysis.history.samples

    @cached_property
    def tables(self) -> pd.DataFrame:
        """A row per contact in a routing table, at each look: records.TABLE_COLUMNS, without the rows of empty tables."""
        contacts = self.analysis.history.contacts
        return contacts[contacts["contact"] != ""].reset_index(drop=True)

    @cached_property
    def events(self) -> pd.DataFrame:
        """A row per line of the journal; `asked`, `observed` and `detail` are dicts."""
        return pd.DataFrame([msgspec.structs.asdict(event) for event in self.analysis.history.events]).replace(
            {msgspec.UNSET: None}
        )

    @cached_property
    def faults(self) -> pd.DataFrame:
        """A row per entry of the timeline, as in `summary.json`."""
        return _frame(self.summary.faults)

    @cached_property
    def expectations(self) -> pd.DataFrame:
        """A row per expectation, as in `summary.json`."""
        return _frame(self.summary.expectations)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """A row per checker, as in `summary.json`."""
        return _frame(self.summary.checks)

    def _during(self, intended: Any) -> pd.Categorical[str]:
        windows = self.analysis.windows.faults
        inside = [(w.start <= intended) & (intended <= w.until) for w in windows]
        codes = sum((mask.astype(np.int64) << n for n, mask in enumerate(inside)), np.zeros(len(intended), np.int64))
        found, places = np.unique(codes, return_inverse=True)
        names = ["+".join(w.name for n, w in enumerate(windows) if code >> n & 1) for code in found.tolist()]
        during: pd.Categorical[str] = pd.Categorical.from_codes(places, pd.Index(names))
        return during


def load_run(run_dir: Path) -> Run:
    """See `reports.load`."""
    return Run(analyse_folder(run_dir))


def _frame(rows: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(list(_records(rows)))


def _records(rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield msgspec.to_builtins(row)


def _arrow_texts(kind: pa.DataType) -> pd.ArrowDtype | None:
    return pd.ArrowDtype(kind) if pa.types.is_string(kind) else None
