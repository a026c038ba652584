"""The plugin as its users meet it: pytest in a process of its own, on tests and experiments that pass and that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LIMIT = 110.0  # s
FAILS = """
import pytest

@pytest.mark.cluster(nodes=4, node={"k": 4})
def test_fails_under_a_partition(cluster, inject):
    with inject("partition", shape="halves"):
        assert cluster.lookup("nothing", via="node-0") == b"something"
"""
LOADS = """
import pytest

@pytest.mark.cluster(nodes=4, node={"k": 4})
def test_load_beside_a_fault(cluster, inject, load):
    with load(rate="40/s", duration="4s", keys=20) as seen:
        with inject("latency", latency="40ms", to="node-1"):
            pass
    assert seen.count("lookup") > 40
    assert seen.success("lookup") > 0.9

@pytest.mark.cluster(nodes=4, node={"k": 4})
def test_a_crowd_joins(cluster, inject):
    with inject("join", nodes=2):
        assert cluster.process_state("node-5") == "running"
"""
EXPERIMENT = {
    "name": "tiny",
    "cluster": {"nodes": 4, "node": {"k": 4}},
    "load": {"rate": "40/s", "keys": 20},
    "duration": "3s",
    "settle": "0s",
}


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_a_failure_says_what_was_in_force_and_where_the_folder_is(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILS)
    done = run_pytest(tmp_path, "test_it.py", "--kadstorm-keep", "kept")
    assert done.returncode == 1
    assert "partition (shape halves) #1 was in force on site-0, site-1, site-2, site-3" in done.stdout
    assert "running: node-0, node-1, node-2, node-3" in done.stdout
    assert "run folder: kept/test_fails_under_a_partition" in done.stdout
    assert (tmp_path / "kept/test_fails_under_a_partition/events.jsonl").stat().st_size


def test_two_workers_have_two_clusters_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(LOADS)
    done = run_pytest(tmp_path, "test_it.py", "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_experiments_are_items_and_one_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(json.dumps({**EXPERIMENT, "expect": ["lost == 0"]}))
    (tmp_path / "bad.yaml").write_text(json.dumps({**EXPERIMENT, "name": "doomed", "expect": ["lookup.max < 1us"]}))
    (tmp_path / "wrong.yaml").write_text("name: wrong\nduration: soon\n")
    (tmp_path / "unnamed.yaml").write_text("not: an experiment\n")
    done = run_pytest(tmp_path, "good.yaml", "bad.yaml")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "bad.yaml: exit code 1" in done.stdout
    assert "lookup.max < 1us" in done.stdout
    wrong = run_pytest(tmp_path, "wrong.yaml")
    assert wrong.returncode == 2
    assert "wrong.yaml:2:11" in wrong.stdout
    assert run_pytest(tmp_path, ".").returncode == 5  # nobody named them: nothing is collected
