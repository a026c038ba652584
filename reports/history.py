"""Loads a run folder: all that an analysis may look at, whatever moment the run was ended at.

Rules:
- Reads, never writes. What a SIGKILL leaves behind is no error: a journal whose last line is torn, Arrow streams
  without an end, no `end` event. It is told in ``notes`` and the rest is used.
- What no run leaves behind is an error that names the file: a foreign folder, a line in the middle of the journal that
  is no event, a file of another format or a newer version.
- Streams are the origin and Parquet is made from them, so streams are read as long as they are there.
- The order of rows never matters to what is computed, nor does how many files they came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa

from harness.records import (
    ADDED_OPERATION_COLUMNS,
    EVENTS_FILE,
    NODE_COLUMNS,
    NODES_FILE,
    NODES_STREAM,
    OPERATION_COLUMNS,
    OPERATIONS_DIR,
    OPERATIONS_FILE,
    PLAN_FILE,
    SCHEMA,
    Event,
    Plan,
)
from reports.errors import RunFolderError

CATEGORIES = ("kind", "outcome", "error", "gateway", "phase", "worker")  # few distinct values: kept as categories
STREAM_START = b"\xff\xff\xff\xff"  # the continuation marker that opens every Arrow IPC stream


@dataclass
class History:
    """One run, as its folder tells it. Times in s since the clock's start."""

    run_dir: Path
    plan: Plan
    events: list[Event]
    operations: pa.Table
    nodes: pa.Table
    workers: list[str] = field(default_factory=list)  # load workers that opened a file
    notes: list[str] = field(default_factory=list)  # what was missing or torn

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All operations, sorted by their intended start; columns of OPERATION_COLUMNS, categories where few values."""
        return _frame(self.operations).sort_values(["intended", "finished"], kind="stable", ignore_index=True)

    @cached_property
    def load(self) -> pd.DataFrame:
        """The operations of phase `load`, and ``latency`` (s): finished - intended."""
        rows = self.frame[self.frame["phase"] == "load"].reset_index(drop=True)
        return rows.assign(latency=rows["finished"] - rows["intended"])

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples of all nodes; columns of NODE_COLUMNS."""
        frame: pd.DataFrame = self.nodes.to_pandas()
        return frame.sort_values(["t", "name"], kind="stable", ignore_index=True)

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment."""
        return self.plan.experiment

    @property
    def duration(self) -> float:
        """Seconds that the clock was to run."""
        return float(self.experiment["duration_us"]) / 1e6

    def of_kind(self, *kinds: str) -> list[Event]:
        """All events of these kinds, in the order of the journal."""
        return [event for event in self.events if event.event in kinds]

    def last(self, kind: str) -> Event | None:
        """The last event of a kind; None if there is none."""
        return next((event for event in reversed(self.events) if event.event == kind), None)

    @property
    def session(self) -> dict[str, Any]:
        """What the run said of itself at its start; empty if it did not come so far."""
        event = self.last("session")
        return {} if event is None else event.detail

    @property
    def end(self) -> dict[str, Any] | None:
        """What the run said at its end; None if it never got there (or goes on)."""
        event = self.last("end")
        return None if event is None else event.detail

    @cached_property
    def horizon(self) -> float:
        """Up to when rows are complete: the clock's end; less if the run was cut short.

        After a SIGKILL the rows of what was in flight are missing, so the last timeout's length cannot be judged.
        """
        interrupted = self.last("interrupted") or (self.last("error") if self._aborted else None)
        if interrupted is not None:
            return min(self.duration, max(0.0, interrupted.t or 0.0))
        stopped = next((event.t for event in self.of_kind("load") if event.name == "stopped"), None)
        if stopped is not None:  # in order, because enough was known
            return min(self.duration, max(0.0, stopped))
        if self.end is not None:
            return self.duration
        seen = [event.t for event in self.events if event.t is not None]
        last = max([*seen, float(self.frame["finished"].max()) if len(self.frame) else 0.0, 0.0])
        return min(self.duration, max(0.0, last - self.timeout))

    @property
    def _aborted(self) -> bool:
        """The run gave up before its load was over."""
        phases = {event.name for event in self.of_kind("phase")}
        return bool(self.of_kind("error")) and "readback" not in phases

    @property
    def timeout(self) -> float:
        """An operation's timeout, s."""
        return float(self.experiment["load"].get("timeout_us", 0)) / 1e6


def load(run_dir: Path) -> History:
    """Read a run folder.

    Raises:
        RunFolderError: it is none, or a file in it cannot be read; the text names the file.
    """
    if not run_dir.is_dir():
        raise RunFolderError(
            f"{run_dir}: there is no such folder; a run folder is wanted, as `kadstorm run` makes them"
        )
    notes: list[str] = []
    plan = _read_plan(run_dir / PLAN_FILE)
    events = _read_events(run_dir / EVENTS_FILE, notes)
    operations = _read_operations(run_dir, notes)
    nodes = _read_nodes(run_dir, notes)
    workers = sorted(path.stem for path in (run_dir / OPERATIONS_DIR).glob("*.arrow"))
    return History(run_dir, plan, events, operations, nodes, workers, notes)


# --- plan and journal -------------------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path}: is missing, so {path.parent} is no run folder, or one of a run that never began"
        ) from error
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror}") from error


def _read_plan(path: Path) -> Plan:
    try:
        plan = msgspec.json.decode(_read_bytes(path), type=Plan)
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{path}: is no plan of Kadstorm's: {error}") from error
    if plan.schema != SCHEMA:
        raise RunFolderError(
            f"{path}: has schema {plan.schema}, and this Kadstorm reads schema {SCHEMA}: use the one that made it"
        )
    if missing := [key for key in ("name", "duration_us", "cluster", "load") if key not in plan.experiment]:
        raise RunFolderError(f"{path}: its experiment has no `{missing[0]}`")
    return plan


def _read_events(path: Path, notes: list[str]) -> list[Event]:
    lines = _read_bytes(path).split(b"\n")
    torn = lines.pop()  # what stands behind the last newline: nothing, or a line that was being written
    events = list(_decoded(path, lines))
    if torn:
        try:
            events.append(msgspec.json.decode(torn, type=Event))
        except msgspec.DecodeError:
            notes.append(f"{path.name}: the last line is torn, and was left out")
    return events


def _decoded(path: Path, lines: Sequence[bytes]) -> Iterator[Event]:
    decoder = msgspec.json.Decoder(Event)
    for number, line in enumerate(lines, start=1):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            raise RunFolderError(f"{path}:{number}: is no event of a journal: {error}") from error


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_operations(run_dir: Path, notes: list[str]) -> pa.Table:
    columns = OPERATION_COLUMNS
    stored = run_dir / OPERATIONS_FILE
    streams = sorted((run_dir / OPERATIONS_DIR).glob("*.arrow"))
    if stored.is_file() and not streams:
        return _read_parquet(stored, columns)
    return _joined([_read_stream(path, columns, notes) for path in streams], columns)


def _read_nodes(run_dir: Path, notes: list[str]) -> pa.Table:
    stream = run_dir / NODES_STREAM
    if (run_dir / NODES_FILE).is_file() and not stream.is_file():
        return _read_parquet(run_dir / NODES_FILE, NODE_COLUMNS)
    return _joined([_read_stream(stream, NODE_COLUMNS, notes)] if stream.is_file() else [], NODE_COLUMNS)


def _read_parquet(path: Path, columns: dict[str, str]) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return _fitted(path, pq.read_table(path), columns)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path}: is no readable Parquet file: {error}") from error


def _read_stream(path: Path, columns: dict[str, str], notes: list[str]) -> pa.Table:
    """All whole record batches of an Arrow IPC stream, which may end anywhere."""
    content = _read_bytes(path)
    if content[: len(STREAM_START)] != STREAM_START[: len(content)]:
        raise RunFolderError(f"{path}: is no Arrow stream")
    batches: list[pa.RecordBatch] = []
    try:
        with pa.ipc.open_stream(content) as stream:
            while True:
                batches.append(stream.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError):
        notes.append(f"{path.name}: the stream has no end; {sum(len(b) for b in batches):,} rows could be read")
    return _fitted(path, pa.Table.from_batches(batches), columns) if batches else _joined([], columns)


def _fitted(path: Path, table: pa.Table, columns: dict[str, str]) -> pa.Table:
    """The columns that we know, with their types; those that a newer version added are left out."""
    for name, default in ADDED_OPERATION_COLUMNS.items():
        if name in columns and name not in table.column_names:
            table = table.append_column(name, pa.array([default] * len(table), _schema(columns).field(name).type))
    if missing := [name for name in columns if name not in table.column_names]:
        raise RunFolderError(f"{path}: has no column `{missing[0]}`")
    try:
        return table.select(list(columns)).cast(_schema(columns))
    except pa.ArrowException as error:
        raise RunFolderError(f"{path}: has columns of other types: {error}") from error


def _joined(tables: Sequence[pa.Table], columns: dict[str, str]) -> pa.Table:
    return pa.concat_tables([_schema(columns).empty_table(), *tables])


def _schema(columns: dict[str, str]) -> pa.Schema:
    alias: Any = pa.type_for_alias  # its stub knows literal names only
    return pa.schema([(name, alias(kind)) for name, kind in columns.items()])


def _frame(table: pa.Table) -> pd.DataFrame:
    for name in CATEGORIES:
        index = table.column_names.index(name)
        table = table.set_column(index, name, table.column(name).combine_chunks().dictionary_encode())
    frame: pd.DataFrame = table.to_pandas()
    return frame
