"""Starting many members: how many are on their way in at once, and what a slow, a failed or a lost one does to the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.admission import Admission
from harness.errors import MemberFailed

LIMIT = 20.0  # s


class Crowd:
    """Members that join as soon as they are asked so many times, and who was on the way at any time."""

    def __init__(self, looks: int = 1) -> None:
        self.lock = threading.Lock()
        self.looks, self.seen = looks, dict[str, int]()
        self.started: list[str] = []
        self.on_the_way: set[str] = set()
        self.most = 0
        self.before: dict[str, Sequence[str]] = {}

    def start(self, name: str) -> None:
        with self.lock:
            self.started.append(name)
            self.on_the_way.add(name)
            self.most = max(self.most, len(self.on_the_way))

    def joined(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
        with self.lock:
            for name, before in asked:
                self.before[name] = before
                self.seen[name] = self.seen.get(name, 0) + 1
            there = [self.seen[name] >= self.looks for name, _ in asked]
            self.on_the_way -= {name for (name, _), joined in zip(asked, there, strict=True) if joined}
            return there


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), window=st.integers(1, 50))
def test_no_more_than_the_window_are_on_their_way_and_all_get_there(count: int, window: int) -> None:
    crowd, told = Crowd(), list[tuple[int, int]]()
    names = [f"m{i}" for i in range(count)]
    admission = Admission(crowd.start, crowd.joined, tell=lambda *so_far: told.append(so_far), window=window)
    admission.admit(names, threading.Event())
    assert sorted(crowd.started) == sorted(names)
    assert crowd.most <= window
    assert all(name not in before for name, before in crowd.before.items())
    assert [of for _, of in told] == [count] * len(told)
    assert told == sorted(told)
    if count:
        assert told[-1] == (count, count)
        assert len(told) <= 11


def test_those_before_a_member_are_the_ones_that_served_when_it_did() -> None:
    crowd = Crowd(looks=2)
    Admission(crowd.start, crowd.joined, tell=lambda *_: None, window=1).admit(["a", "b", "c"], threading.Event())
    assert crowd.before == {"a": (), "b": ("a",), "c": ("a", "b")}


def test_one_that_never_joins_keeps_nobody_waiting_for_ever() -> None:
    crowd = Crowd(looks=10**9)
    names = ["a", "b", "c"]
    Admission(crowd.start, crowd.joined, tell=lambda *_: None, window=1, patience=0.2).admit(names, threading.Event())
    assert crowd.started == names


def test_a_failed_start_is_told_at_once_though_another_one_hangs() -> None:
    hangs = threading.Event()

    def start(name: str) -> None:
        if name == "fails":
            raise MemberFailed("fails: no room")
        assert hangs.wait(LIMIT)

    admission = Admission(start, lambda asked: [True] * len(asked), tell=lambda *_: None, window=2)
    try:
        with pytest.raises(MemberFailed, match="no room"):
            admission.admit(["hangs", "fails"], threading.Event())
        assert not hangs.is_set()
    finally:
        hangs.set()


@pytest.mark.parametrize("lost", [True, False])
def test_nobody_more_is_started_once_it_is_to_stop_or_some_are_lost(*, lost: bool) -> None:
    crowd, stop = Crowd(looks=10**9), threading.Event()

    def start(name: str) -> None:
        crowd.start(name)
        if name == "m3" and not lost:
            stop.set()

    admission = Admission(start, crowd.joined, tell=lambda *_: None, window=4, patience=LIMIT)
    admission.admit([f"m{i}" for i in range(9)], stop, lambda: lost and "m3" in crowd.started)
    assert "m3" in crowd.started
    assert len(crowd.started) == 4
