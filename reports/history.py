"""Loads a run folder: all that an analysis may look at, whatever moment the run was ended at.

Rules:
- Reads, never writes. What a SIGKILL leaves behind is no error: a journal whose last line is torn, Arrow streams
  without an end, no `end` event. It is told in ``notes`` and the rest is used.
- What no run leaves behind is an error that names the file: a foreign folder, a line in the middle of the journal that
  is no event, a file of another format or a newer version.
- Streams are the origin and Parquet is made from them, so streams are read as long as they are there.
- The order of rows never matters to what is computed, nor does how many files they came in.
- Texts are dictionary-encoded as they are read: ten million rows fit into memory as codes, not as strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

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
    TABLE_COLUMNS,
    TABLES_FILE,
    TABLES_STREAM,
    Event,
    Plan,
)
from reports.errors import RunFolderError

CHUNK = 500_000  # rows that are read before their texts become codes
STREAM_START = b"\xff\xff\xff\xff"  # the continuation marker that opens every Arrow IPC stream


@dataclass
class History:
    """One run, as its folder tells it. Times in s since the clock's start."""

    run_dir: Path
    plan: Plan
    events: list[Event]
    operations: pa.Table
    nodes: pa.Table
    tables: pa.Table = field(default_factory=lambda: _joined([], TABLE_COLUMNS))
    workers: list[str] = field(default_factory=list)  # load workers that opened a file
    notes: list[str] = field(default_factory=list)  # what was missing or torn

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All operations, sorted by their intended start; columns of OPERATION_COLUMNS, texts as categories."""
        return _sorted(self.operations)

    @cached_property
    def load(self) -> pd.DataFrame:
        """The operations of phase `load`, and ``latency`` (s): finished - intended."""
        rows = self.frame[self.frame["phase"] == "load"].reset_index(drop=True)
        rows["latency"] = rows["finished"] - rows["intended"]
        return rows

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples of all nodes; columns of NODE_COLUMNS."""
        frame: pd.DataFrame = self.nodes.to_pandas()
        frame["name"] = frame["name"].astype(str)
        return frame.sort_values(["t", "name"], kind="stable", ignore_index=True)

    @cached_property
    def contacts(self) -> pd.DataFrame:
        """All routing tables that were looked at, a row per contact; columns of TABLE_COLUMNS, names as categories."""
        frame: pd.DataFrame = encoded(self.tables).to_pandas()
        return frame.sort_values("t", kind="stable", ignore_index=True)

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

        After a SIGKILL the rows of what was in flight are missing, so as long as an operation may take cannot be judged.
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
        return min(self.duration, max(0.0, last - patience(self.experiment["load"])))

    @property
    def _aborted(self) -> bool:
        """The run gave up before its load was over."""
        phases = {event.name for event in self.of_kind("phase")}
        return bool(self.of_kind("error")) and "readback" not in phases


def patience(load: Mapping[str, Any]) -> float:
    """Seconds that one operation of a plan's load may take with all of its attempts."""
    timeout, retry = float(load.get("timeout_us") or 0), load.get("retry") or {"attempts": 1, "longest_us": 0}
    return float(retry["attempts"] * timeout + (retry["attempts"] - 1) * retry["longest_us"]) / 1e6


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
    nodes = _read_samples(run_dir / NODES_STREAM, run_dir / NODES_FILE, NODE_COLUMNS, notes)
    tables = _read_samples(run_dir / TABLES_STREAM, run_dir / TABLES_FILE, TABLE_COLUMNS, notes)
    workers = sorted(path.stem for path in (run_dir / OPERATIONS_DIR).glob("*.arrow"))
    return History(run_dir, plan, events, operations, nodes, tables, workers, notes)


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


def _read_samples(stream: Path, stored: Path, columns: dict[str, str], notes: list[str]) -> pa.Table:
    if stored.is_file() and not stream.is_file():
        return _read_parquet(stored, columns)
    return _joined([_read_stream(stream, columns, notes)] if stream.is_file() else [], columns)


def _read_parquet(path: Path, columns: dict[str, str]) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        texts = [name for name, alias in columns.items() if alias == "string"]
        return _fitted(path, pq.read_table(path, read_dictionary=texts), columns)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path}: is no readable Parquet file: {error}") from error


def _read_stream(path: Path, columns: dict[str, str], notes: list[str]) -> pa.Table:
    """All whole record batches of an Arrow IPC stream, which may end anywhere."""
    if not STREAM_START.startswith(_first_bytes(path, len(STREAM_START))):
        raise RunFolderError(f"{path}: is no Arrow stream")
    tables: list[pa.Table] = []
    batches: list[pa.RecordBatch] = []
    rows = 0
    try:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
            while True:
                batches.append(stream.read_next_batch())
                rows += len(batches[-1])
                if rows >= CHUNK * (len(tables) + 1):
                    tables.append(_fitted(path, pa.Table.from_batches(batches), columns))
                    batches.clear()
    except StopIteration:
        pass
    except (pa.ArrowException, OSError):
        notes.append(f"{path.name}: the stream has no end; {rows:,} rows could be read")
    if batches:
        tables.append(_fitted(path, pa.Table.from_batches(batches), columns))
    return _joined(tables, columns)


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror}") from error


def _fitted(path: Path, table: pa.Table, columns: dict[str, str]) -> pa.Table:
    """The columns that we know, with their types; those that a newer version added are left out."""
    for name, default in ADDED_OPERATION_COLUMNS.items():
        if name in columns and name not in table.column_names:
            table = table.append_column(name, pa.array([default] * len(table), _schema(columns).field(name).type))
    if missing := [name for name in columns if name not in table.column_names]:
        raise RunFolderError(f"{path}: has no column `{missing[0]}`")
    try:
        return encoded(table.select(list(columns)).cast(_schema(columns)).combine_chunks())
    except pa.ArrowException as error:
        raise RunFolderError(f"{path}: has columns of other types: {error}") from error


def _joined(tables: Sequence[pa.Table], columns: dict[str, str]) -> pa.Table:
    """All rows in one table, with one dictionary per column of texts."""
    return pa.concat_tables([encoded(_schema(columns).empty_table()), *tables]).unify_dictionaries()


def _schema(columns: dict[str, str]) -> pa.Schema:
    alias: Any = pa.type_for_alias  # its stub knows literal names only
    return pa.schema([(name, alias(kind)) for name, kind in columns.items()])


def encoded(table: pa.Table) -> pa.Table:
    """The same rows, each column of texts dictionary-encoded."""
    for index, field_ in enumerate(table.schema):
        if pa.types.is_string(field_.type):
            table = table.set_column(index, field_.name, table.column(index).dictionary_encode())
    return table


def _sorted(table: pa.Table) -> pd.DataFrame:
    """As a frame, in the order of intended starts; what is equal there in that of the ends."""
    order = np.lexsort((table.column("finished").to_numpy(), table.column("intended").to_numpy()))
    encoded_ = encoded(table)
    return pd.DataFrame({name: _ordered(encoded_.column(name), order) for name in encoded_.column_names}, copy=False)


def _ordered(column: pa.ChunkedArray[Any], order: NDArray[np.int64]) -> Any:
    """One column in another order, as pandas keeps it; one at a time, so that only one is ever there twice."""
    values = column.to_pandas()
    if isinstance(values.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes(values.cat.codes.to_numpy()[order], dtype=values.dtype)
    return values.to_numpy()[order]
