"""pytest fixtures for chaos tests: a `cluster` on real links, `inject` for faults as scopes, `storm` for whole experiments.

    def test_a_partition_heals(cluster, inject):
        cluster.store("key", b"value", via="node-0")
        with inject("partition", shape="halves"):
            ...
        assert cluster.lookup("key", via="node-7") == b"value"

Imports are late: pytest loads this file in every project where Kadstorm is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.cluster import Cluster

STORM_LIMIT = 600.0  # s


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fixtures."""
    group = parser.getgroup("kadstorm", "fault injection for peer-to-peer systems")
    group.addoption("--kadstorm-nodes", type=int, default=8, help="nodes of the `cluster` fixture (default: 8)")
    group.addoption("--kadstorm-seed", type=int, default=0, help="seed of clusters and faults (default: 0)")
    group.addoption("--kadstorm-backend", default="process", help="where nodes run (default: process)")
    group.addoption("--kadstorm-toxiproxy", default=None, help="the toxiproxy-server to use")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "cluster(nodes=…, node={…}, network={…}): the cluster section of an experiment")


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster with a proxy on every link; its logs and journal are in the test's tmp_path."""
    from harness.boot import boot
    from harness.cleanup import end_processes
    from harness.events import Events
    from harness.journal import Journal
    from harness.plan import make_plan
    from harness.records import EVENTS_FILE
    from harness.runfolder import make_run_dir
    from harness.session import Session
    from harness.toxiproxy import binary

    folder = make_run_dir(tmp_path / "cluster")
    found = binary.find(request.config.getoption("--kadstorm-toxiproxy"))
    plan = make_plan(_experiment(request))
    with ExitStack() as stack:
        journal = Journal(folder / EVENTS_FILE)
        stack.callback(journal.close)
        session = Session(folder)
        stack.callback(session.close)
        stack.callback(end_processes, session.id)
        events = Events(journal.write)
        yield boot(plan, session, folder, found, events, lambda _, close: _later(stack, close)).cluster


@pytest.fixture
def inject(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[..., Any]:
    """``with inject("latency", latency="100ms"): …`` on the test's cluster; see `injection.inject`."""
    from harness import injection

    return partial(injection.inject, cluster, seed=request.config.getoption("--kadstorm-seed"))


@pytest.fixture
def storm(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run an experiment file; returns its summary.json with ``exit_code`` and ``run_dir``. Arguments after the file are
    passed on to `kadstorm run`."""
    named = request.config.getoption("--kadstorm-toxiproxy")

    def run(experiment: Path | str, *arguments: str) -> dict[str, Any]:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        command = [sys.executable, "-P", "-m", "harness", "run", str(experiment), "--out", str(folder), *arguments]
        command += ["--toxiproxy", named] if named else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=STORM_LIMIT, check=False)
        summary = folder / "summary.json"
        assert summary.exists(), f"no summary; exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return {**json.loads(summary.read_text()), "exit_code": done.returncode, "run_dir": folder}

    return run


def _later(stack: ExitStack, close: Callable[[], None]) -> None:
    stack.callback(close)


def _experiment(request: pytest.FixtureRequest) -> Any:
    from harness import document, experiment

    marker = request.node.get_closest_marker("cluster")
    given = dict(marker.kwargs) if marker else {}
    network = given.pop("network", {"latency": "1ms"})
    cluster = {
        "nodes": request.config.getoption("--kadstorm-nodes"),
        "backend": request.config.getoption("--kadstorm-backend"),
        **given,
    }
    data = {
        "name": request.node.name,
        "seed": request.config.getoption("--kadstorm-seed"),
        "cluster": cluster,
        "network": network,
        "duration": "1h",
    }
    return experiment.check(document.parse(json.dumps(data), f"the marker of {request.node.name}"))
