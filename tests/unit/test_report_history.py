"""Loading run folders: whole ones, torn ones, foreign ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.records import NODE_COLUMNS, OPERATION_COLUMNS, Plan, PlannedNode
from reports import RunFolderError, analyse
from reports.history import load

LOAD = {"rate_per_1000s": 10_000, "timeout_us": 1_000_000}
EXPERIMENT = {"name": "tiny", "cluster": {"nodes": 1}, "load": LOAD, "duration_us": 10_000_000, "expect": ["lost == 0"]}
BATCHES, ROWS = 5, 10


def schema(columns: dict[str, str]) -> pa.Schema:
    return pa.schema([(name, pa.type_for_alias(alias)) for name, alias in columns.items()])


def row(at: float) -> dict[str, Any]:
    empty: dict[str, Any] = {name: "" if kind == "string" else -1 for name, kind in OPERATION_COLUMNS.items()}
    known = {"kind": "lookup", "key": "ab", "intended": at, "started": at, "finished": at + 0.1, "outcome": "ok"}
    return {**empty, **known, "phase": "load", "worker": "load-0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of ten seconds: a plan, four events, five batches of ten lookups each."""
    plan = Plan(schema=1, seed=1, experiment=EXPERIMENT, nodes=[PlannedNode("node-0", "00", "site-0")], actions=[])
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    events = [{"t": None, "wall": "", "event": "session"}, {"t": 0.0, "wall": "", "event": "clock"}]
    events += [{"t": 9.0, "wall": "", "event": "phase", "name": "readback"}]
    events += [{"t": 10.0, "wall": "", "event": "end", "detail": {"reasons": [], "timings": {"run_s": 10}}}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "operations").mkdir()
    stream(tmp_path / "operations" / "load-0.arrow")
    return tmp_path


def stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema(OPERATION_COLUMNS)) as writer:
        for batch in range(BATCHES):
            rows = [row((batch * ROWS + n) / 5) for n in range(ROWS)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema(OPERATION_COLUMNS)))


def test_a_whole_run_is_read_without_notes(folder: Path) -> None:
    history = load(folder)
    assert len(history.frame) == BATCHES * ROWS
    assert (history.horizon, history.notes, history.workers) == (10.0, [], ["load-0"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(0, 1))
def test_a_stream_that_ends_anywhere_gives_its_whole_batches(folder: Path, share: float) -> None:
    path = folder / "operations" / "load-0.arrow"
    stream(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    rows = len(load(folder).frame)
    assert rows % ROWS == 0
    assert rows >= ROWS * (BATCHES * share - 1.5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 400))
def test_a_run_that_was_killed_at_any_moment_is_analysed_as_an_error(folder: Path, length: int) -> None:
    journal = folder / "events.jsonl"
    whole = journal.read_bytes()
    cut = min(length, len(whole) - 3)
    journal.write_bytes(whole[:cut])
    try:
        summary = analyse(folder)
    finally:
        journal.write_bytes(whole)
    assert (summary.verdict, summary.exit_code) == ("error", 3)
    assert "the journal has no end" in summary.reasons[0]


def test_a_killed_run_is_judged_up_to_a_timeout_before_its_last_sign(folder: Path) -> None:
    journal = folder / "events.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert load(folder).horizon == pytest.approx(9.8 + 0.1 - 1.0)


def test_a_killed_run_whose_operations_are_retried_is_judged_up_to_all_their_attempts_before(folder: Path) -> None:
    plan = msgspec.json.decode((folder / "plan.json").read_bytes())
    plan["experiment"]["load"]["retry"] = {"attempts": 3, "wait": "fixed", "first_us": 500_000, "longest_us": 500_000}
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    journal = folder / "events.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert load(folder).horizon == pytest.approx(9.8 + 0.1 - 3 * 1.0 - 2 * 0.5)


def test_a_torn_last_line_is_noted_and_left_out(folder: Path) -> None:
    with (folder / "events.jsonl").open("ab") as journal:
        journal.write(b'{"t":11.0,"wall":"","ev')
    history = load(folder)
    assert len(history.events) == 4
    assert history.notes == ["events.jsonl: the last line is torn, and was left out"]


def test_parquet_is_read_where_the_streams_are_gone(folder: Path) -> None:
    pq.write_table(load(folder).operations, folder / "operations.parquet")
    (folder / "operations" / "load-0.arrow").unlink()
    assert len(load(folder).frame) == BATCHES * ROWS


def test_a_run_that_never_came_to_its_load_has_no_operations(folder: Path) -> None:
    (folder / "operations" / "load-0.arrow").unlink()
    history = load(folder)
    assert len(history.load) == 0
    assert len(history.samples) == 0


def spoil_nothing(folder: Path) -> Path:
    return folder / "nowhere"


def spoil_plan(folder: Path) -> Path:
    (folder / "plan.json").unlink()
    return folder / "plan.json"


def spoil_plan_text(folder: Path) -> Path:
    (folder / "plan.json").write_text("name: a YAML file")
    return folder / "plan.json"


def spoil_schema(folder: Path) -> Path:
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace('"schema":1', '"schema":7'))
    return folder / "plan.json"


def spoil_journal(folder: Path) -> Path:
    (folder / "events.jsonl").unlink()
    return folder / "events.jsonl"


def spoil_middle(folder: Path) -> Path:
    lines = (folder / "events.jsonl").read_text().splitlines()
    (folder / "events.jsonl").write_text("\n".join([lines[0], "what is this?", *lines[2:]]) + "\n")
    return folder / "events.jsonl:2"


def spoil_stream(folder: Path) -> Path:
    (folder / "operations" / "load-0.arrow").write_text("kind,key\nlookup,ab\n")
    return folder / "operations" / "load-0.arrow"


def spoil_columns(folder: Path) -> Path:
    path = folder / "operations" / "load-0.arrow"
    table = pa.table({"kind": ["lookup"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def spoil_nodes(folder: Path) -> Path:
    (folder / "nodes.parquet").write_text("PAR?")
    return folder / "nodes.parquet"


def spoil_expectation(folder: Path) -> Path:
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace("lost == 0", "last == 0"))
    return folder / "plan.json"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing,
        spoil_plan,
        spoil_plan_text,
        spoil_schema,
        spoil_journal,
        spoil_middle,
        spoil_stream,
        spoil_columns,
        spoil_nodes,
        spoil_expectation,
    ],
)
def test_what_no_run_leaves_behind_is_an_error_that_names_the_file(folder: Path, spoil: Any) -> None:
    named = spoil(folder)
    with pytest.raises(RunFolderError) as caught:
        analyse(named if spoil is spoil_nothing else folder)
    assert str(caught.value).startswith(str(named))
    assert caught.value.exit_code == 2


def test_columns_that_a_newer_version_added_are_left_out(folder: Path) -> None:
    table = load(folder).operations
    pq.write_table(table.append_column("mood", pa.array(["fine"] * len(table))), folder / "operations.parquet")
    (folder / "operations" / "load-0.arrow").unlink()
    assert list(load(folder).frame.columns) == list(OPERATION_COLUMNS)
    assert list(load(folder).samples.columns) == list(NODE_COLUMNS)
