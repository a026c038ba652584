"""The recorder: rows as the schema has them, relative to the clock, and readable before it is closed."""

import time

import pyarrow as pa
import pytest

from harness.records import OPERATION_COLUMNS
from loadtests.errors import RecordError
from loadtests.recorder import SCHEMA, Operation, Recorder


def operation(intended=100.0, **changes):
    row = Operation(
        "lookup", "ab" * 20, intended, intended + 0.001, intended + 0.01, "ok", "", "node-3", 1, 2, -1, "load", "w", 1
    )
    return row._replace(**changes)


def rows_in(path):
    """All rows of the record batches that are whole."""
    rows = []
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        try:
            for batch in stream:
                rows += batch.to_pylist()
        except (pa.ArrowInvalid, OSError):
            pass
    return rows


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "w.arrow")
    yield made
    made.close()


def test_an_operation_has_the_columns_of_the_schema():
    assert Operation._fields == tuple(OPERATION_COLUMNS)
    assert {field.name: str(field.type) for field in SCHEMA} == {
        name: {"float64": "double"}.get(alias, alias) for name, alias in OPERATION_COLUMNS.items()
    }


def test_rows_come_back_as_they_were_recorded(tmp_path):
    recorder = Recorder(tmp_path / "w.arrow")
    odd = operation(kind="store", outcome="error", error="zu wenig, größer: ≥ 4", gateway="", acks=2, version=2**40)
    recorder.record(operation())
    recorder.record(odd)
    recorder.start_clock(90.0)
    recorder.close()
    first, second = rows_in(tmp_path / "w.arrow")
    assert first == operation(10.0)._asdict() | {
        "intended": pytest.approx(10.0),
        "started": pytest.approx(10.001),
        "finished": pytest.approx(10.01),
    }
    assert (second["error"], second["acks"], second["version"]) == (odd.error, 2, 2**40)


def test_rows_from_before_the_clock_wait_and_get_negative_times(tmp_path, recorder):
    recorder.record(operation(intended=50.0, phase="preload"))
    recorder.flush()
    assert recorder.rows == 1
    assert recorder.written == 0
    recorder.start_clock(60.0)
    recorder.flush()
    [row] = rows_in(tmp_path / "w.arrow")
    assert row["intended"] == -10.0


def test_without_a_clock_times_are_relative_to_the_fallback(tmp_path):
    recorder = Recorder(tmp_path / "w.arrow")
    recorder.record(operation(intended=50.0))
    recorder.close(40.0)
    assert rows_in(tmp_path / "w.arrow")[0]["intended"] == 10.0


def test_flushed_rows_are_readable_while_the_stream_is_open(tmp_path, recorder):
    recorder.start_clock(0.0)
    for _ in range(3):
        recorder.record(operation())
        recorder.flush()
    assert len(rows_in(tmp_path / "w.arrow")) == 3


def test_a_stream_cut_anywhere_keeps_its_whole_batches(tmp_path, recorder):
    path = tmp_path / "w.arrow"
    recorder.start_clock(0.0)
    sizes = []
    for _ in range(5):
        recorder.record(operation())
        recorder.flush()
        sizes.append(path.stat().st_size)
    whole = path.read_bytes()
    cut = tmp_path / "cut.arrow"
    for size in range(sizes[0], sizes[-1], 37):
        cut.write_bytes(whole[:size])
        assert len(rows_in(cut)) == sum(1 for end in sizes if end <= size)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "w.arrow"
    path.write_bytes(b"precious")
    with pytest.raises(RecordError, match="exists already; nothing was overwritten"):
        Recorder(path)
    assert path.read_bytes() == b"precious"


def test_a_folder_that_is_not_there_is_told_by_name(tmp_path):
    with pytest.raises(RecordError, match=r"nowhere/w\.arrow: cannot record operations there"):
        Recorder(tmp_path / "nowhere" / "w.arrow")


def test_recording_costs_ten_microseconds_a_row_at_most(recorder):
    recorder.start_clock(0.0)
    row, count = operation(), 20_000

    def cost():
        began = time.process_time()
        for _ in range(count):
            recorder.record(row)
        recorder.flush()
        return (time.process_time() - began) / count

    assert min(cost() for _ in range(5)) < 10e-6  # flushing included; 2 to 4 on the slowest machine seen
