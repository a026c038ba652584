"""Benchmarks are for people; what they must not do is to lose figures, to judge by the wrong unit, or to leave processes."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATIENCE = 60.0  # s


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_part_that_fails_does_not_cost_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, file = loaded("peers", monkeypatch), tmp_path / "rows.json"

    def fail(seconds: float, turns: int) -> list[dict[str, Any]]:
        raise subprocess.CalledProcessError(1, "its side")

    def measure(seconds: float, turns: int) -> list[dict[str, Any]]:
        return [peers.row("measured", 2.0, 1.0, "1/s", 1.0)]

    monkeypatch.setattr(peers, "PARTS", {"bmuller": fail, "echo": measure})
    monkeypatch.setattr(sys, "argv", ["peers.py", "--json", str(file)])
    assert peers.main() == 1
    rows = json.loads(file.read_text())
    assert [(row["name"].partition(":")[0], row["met"]) for row in rows] == [
        ("measured", True),
        ("bmuller failed", False),
    ]
    assert "bmuller failed: CalledProcessError" in capsys.readouterr().out


def test_the_memory_of_a_node_is_judged_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = loaded("peers", monkeypatch)
    monkeypatch.setitem(peers.PORTS, "memory", 24_201)
    [row] = peers.memory(0, 0)
    assert row["unit"] == "MB"
    assert 10 < row["ours"] < 100
    assert row["limit"] == "<= 30"


def test_a_figure_that_must_be_nought_or_whole_can_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = loaded("figures", monkeypatch)
    assert [figures.at_least("found", found, 50, 1.0).met for found in (50, 49, 0)] == [True, False, False]
    assert [figures.nothing("left", left, "").met for left in (0, 1)] == [True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing dies with a killed parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_of_load_that_is_ended_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "load.py"), "--quick"]
    with (tmp_path / "said").open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            its = awaited_children(psutil.Process(process.pid), 2)
        finally:
            process.send_signal(number)
        ended = process.wait(PATIENCE)
    assert ended == (143 if number == signal.SIGTERM else -number), (tmp_path / "said").read_text()
    _, alive = psutil.wait_procs(its, PATIENCE)
    assert alive == []


def awaited_children(process: psutil.Process, count: int) -> list[psutil.Process]:
    """Its children, once there are so many of them: the null server, and a side."""
    until = time.monotonic() + PATIENCE
    while len(found := process.children(recursive=True)) < count:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found
