"""The generator runs before the nodes where that is allowed, and as usual elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadtests.priority import run_first

SHOW = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]


def tried(workers: int) -> tuple[bool, int, int]:
    """What it said, and the class of the thread and of a child afterwards."""
    said = run_first(workers)
    child = subprocess.run(SHOW, stdout=subprocess.PIPE, check=True)
    return said, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, int(child.stdout)


def in_a_thread(workers: int = 1) -> tuple[bool, int, int]:
    """The class is a thread's own: the tests' thread keeps its."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(tried, workers).result()


def test_the_worker_is_in_the_real_time_class_if_it_says_so_and_its_children_are_not() -> None:
    said, own, childs = in_a_thread()
    assert own == (os.SCHED_RR if said else os.SCHED_OTHER)
    assert childs == os.SCHED_OTHER


def test_what_is_not_allowed_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    assert in_a_thread() == (False, os.SCHED_OTHER, os.SCHED_OTHER)


@pytest.mark.parametrize(("workers", "cores"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_workers_that_would_leave_no_core_to_the_nodes_run_beside_them(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert in_a_thread(workers) == (False, os.SCHED_OTHER, os.SCHED_OTHER)


@pytest.mark.parametrize(("workers", "cores"), [(1, 2), (2, 3), (3, 4)])
def test_workers_that_leave_a_core_to_the_nodes_ask_to_run_first(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, __: asked.append(policy))
    assert run_first(workers)
    assert asked == [os.SCHED_RR | os.SCHED_RESET_ON_FORK]
