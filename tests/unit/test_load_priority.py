"""The generator runs before the nodes where that is allowed, and as usual elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadtests.priority import run_first

SHOW = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]


def tried() -> tuple[bool, int, int]:
    """What it said, and the class of the thread and of a child afterwards."""
    said = run_first()
    child = subprocess.run(SHOW, stdout=subprocess.PIPE, check=True)
    return said, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, int(child.stdout)


def in_a_thread() -> tuple[bool, int, int]:
    """The class is a thread's own: the tests' thread keeps its."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(tried).result()


def test_the_worker_is_in_the_real_time_class_if_it_says_so_and_its_children_are_not() -> None:
    said, own, childs = in_a_thread()
    assert own == (os.SCHED_RR if said else os.SCHED_OTHER)
    assert childs == os.SCHED_OTHER


def test_what_is_not_allowed_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    assert in_a_thread() == (False, os.SCHED_OTHER, os.SCHED_OTHER)


def test_nodes_on_a_single_core_are_not_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert in_a_thread() == (False, os.SCHED_OTHER, os.SCHED_OTHER)
