"""Traces of churn: read with all that can be wrong in them, and replayed as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.faults.churn import LAST_LEAVE, SHORTEST_DOWNTIME, SHORTEST_SESSION, bounded
from chaos.traces import Trace, gaps

S = 1_000_000


def trace(folder: Path, *rows: str, head: str = "node,online,offline") -> Trace:
    path = folder / "trace.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return Trace.model_validate({"file": str(path)})


def test_a_node_is_away_between_its_sessions_and_outside_them(tmp_path: Path) -> None:
    read = trace(tmp_path, "a,2,12.5", "b,0,40s", "a,15,1m")
    assert read.sessions == {"a": [(2 * S, 12 * S + S // 2), (15 * S, 60 * S)], "b": [(0, 40 * S)]}
    assert gaps(read.sessions["a"], 90 * S) == [(0, 2 * S), (12 * S + S // 2, 15 * S), (60 * S, 90 * S)]
    assert gaps(read.sessions["b"], 40 * S) == []
    assert gaps(read.sessions["a"], 10 * S) == [(0, 2 * S)]


def test_nodes_are_mapped_in_their_order_or_by_name(tmp_path: Path) -> None:
    read = trace(tmp_path, "b,0,1", "a,0,2")
    assert {name: sessions[0][1] for name, sessions in read.assigned(["node-4", "node-7"]).items()} == {
        "node-4": S, "node-7": 2 * S,
    }  # fmt: skip
    named = trace(tmp_path, "node-7,0,1")
    assert list(named.assigned(["node-4", "node-7"])) == ["node-7"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a,5,4"], r"trace.csv:2: `online` must come before"),
        (["a,0,9", "a,5,12"], "two sessions of a overlap, at 5 s"),
        (["a,soon,9"], r"trace.csv:2: a time with its unit"),
        (["a,-1,9"], r"trace.csv:2: seconds from 0 on"),
        (["a,1"], r"trace.csv:2: node,online,offline are expected"),
        (["a,nan,3"], r"trace.csv:2: seconds from 0 on"),
        ([], "no session is in it"),
    ],
)
def test_each_mistake_is_told_with_its_line(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trace(tmp_path, *rows)


def test_a_file_that_is_missing_or_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Trace.model_validate({"file": str(tmp_path / "none.csv")})
    with pytest.raises(ValueError, match="its first line must be node,online,offline"):
        trace(tmp_path, "a,0,1", head="name,from,to")


INTERVALS = st.lists(st.tuples(st.integers(0, 60 * S), st.integers(1, 5 * S)), max_size=30).map(
    lambda drawn: [(left, left + length) for left, length in sorted(drawn)]
)


@given(INTERVALS)
def test_what_is_replayed_can_be_played(away: list[tuple[int, int]]) -> None:
    end, back = 60 * S, None
    for left, until in bounded(away, end):
        assert left < end - LAST_LEAVE
        assert left + SHORTEST_DOWNTIME <= until <= end
        assert back is None or left - back >= SHORTEST_SESSION
        back = until
