"""The journal and the event bus."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.events import Events
from harness.journal import Journal
from harness.records import Event


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_on_the_disk_when_emit_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    Events(journal.write).emit("phase", name="boot")
    assert [line["name"] for line in lines(tmp_path / "events.jsonl")] == ["boot"]
    journal.close()


def test_time_counts_from_the_clocks_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    events = Events(journal.write)
    events.emit("phase", name="boot")
    events.start_clock(time.monotonic() - 5)
    events.emit("clock")
    before, after = lines(tmp_path / "events.jsonl")
    assert before["t"] is None
    assert isinstance(after["t"], float)
    assert after["t"] >= 5
    journal.close()


def test_unknown_effect_is_null_and_an_event_without_one_has_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    events = Events(journal.write)
    events.emit("observe", name="x", effective=None)
    events.emit("inject", name="x")
    observed, injected = lines(tmp_path / "events.jsonl")
    assert observed["effective"] is None
    assert "effective" not in injected
    journal.close()


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("precious")
    with pytest.raises(HarnessError, match="cannot make the journal"):
        Journal(tmp_path / "events.jsonl")
    assert (tmp_path / "events.jsonl").read_text() == "precious"


def test_a_full_disk_is_an_error_of_the_harness() -> None:
    journal = Journal.__new__(Journal)
    journal._path = Path("/dev/full")
    import msgspec

    journal._encoder = msgspec.json.Encoder()
    journal._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115  the journal closes it
    with pytest.raises(HarnessError, match="No space left"):
        journal.write(Event(t=None, wall="", event="phase"))
    journal.close()


def test_a_consumer_that_fails_is_taken_off_and_told() -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("no screen")

    events = Events(seen.append)
    events.subscribe(broken)
    events.emit("phase", name="boot")
    events.emit("phase", name="load")
    assert [event.event for event in seen] == ["phase", "error", "phase"]
    assert "no screen" in seen[1].detail["message"]


def test_an_event_that_is_not_in_the_schema_is_a_defect() -> None:
    with pytest.raises(ValueError, match="no event is called"):
        Events(lambda event: None).emit("surprise")
