"""The phases of a load and their limits: whoever waits for workers waits as long as they may take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import loading
from harness.errors import HarnessError
from loadtests import phases

SETTINGS = {"timeout_us": 3_000_000, "keys": 10}
RETRY = {"attempts": 4, "wait": "fixed", "first_us": 1_000_000, "longest_us": 1_000_000}


class Driver:
    """One whose workers do everything at once."""

    exits = ()

    def __init__(self) -> None:
        self.limits: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def wait_drained(self, timeout: float) -> None:
        self.limits.append(timeout)


def waited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **settings: Any) -> float:
    """How long a test's load waits for operations in flight, from the load's end on."""
    driver, parts = Driver(), SimpleNamespace(experiment={"load": {**SETTINGS, **settings}, "duration_us": 0})
    monkeypatch.setattr(loading, "driver_of", lambda *_: driver)
    plan: Any = parts
    with loading.load(plan, plan, tmp_path, plan):
        pass
    return driver.limits[0] - loading.HEAD_START


def test_a_tests_load_waits_for_all_attempts_of_an_operation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert waited(monkeypatch, tmp_path, retry=RETRY) >= loading.GRACE + 4 * 3 + 3 * 1 - loading.HEAD_START


def test_the_first_keys_have_the_time_of_all_their_tries() -> None:
    waits = [min(phases.PRELOAD_WAIT[0] * 2**n, phases.PRELOAD_WAIT[1]) for n in range(phases.PRELOAD_ATTEMPTS - 1)]
    assert loading.preload_limit(SETTINGS) >= loading.GRACE + phases.PRELOAD_ATTEMPTS * 3.0 + sum(waits)
    assert (phases.PRELOAD_ATTEMPTS, phases.PRELOAD_WAIT[1]) == (loading.PRELOAD_ATTEMPTS, loading.PRELOAD_LONGEST)


def test_a_cluster_that_vanished_is_a_failure_of_the_harness_and_one_that_lost_a_member_is_not() -> None:
    ends = {"a": ["killed by SIGTERM", "killed by SIGKILL"], "b": ["exit code 1"], "c": ["killed by SIGKILL"]}
    members: Any = SimpleNamespace(vanished=lambda: True, lost=lambda: list(ends), exits=ends.__getitem__)
    with pytest.raises(HarnessError, match="the cluster vanished: all 3 nodes ended") as caught:
        loading.check_cluster(members)
    assert caught.value.exit_code == 3
    assert "(2 of them: killed by SIGKILL)" in str(caught.value)
    del ends["b"]
    with pytest.raises(HarnessError, match=r"all 2 nodes ended, and nobody had asked for that \(killed by SIGKILL\)"):
        loading.check_cluster(members)
    members.vanished = lambda: False
    loading.check_cluster(members)
