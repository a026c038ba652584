"""pytest fixtures for chaos tests: a `cluster` on real links, `inject` for faults as scopes, `load` for Locust beside
them, `storm` for whole experiments; and experiment files as test items (`pytest chaos/experiments/*.yaml`).

    def test_a_partition_heals(cluster, inject):
        cluster.store("key", b"value", via="node-0")
        with inject("partition", shape="halves"):
            ...
        assert cluster.lookup("key", via="node-7") == b"value"

Imports are late: pytest loads this file in every project where Kadstorm is installed. Each test has a session of its own, with a
loopback address of its own, so tests run side by side (pytest-xdist).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.cluster import Cluster
    from harness.events import Events
    from harness.records import Plan
    from harness.session import Session

STORM_LIMIT = 600.0  # s
ITEM_OVERHEAD = 240  # s that an experiment may take beside its clock
SPARE = 4  # nodes that `inject("join", …)` can bring in
SHOWN_EVENTS = 15


@dataclass
class Standing:
    """What belongs to the cluster of one test."""

    plan: Plan
    session: Session
    folder: Path
    cluster: Cluster
    events: Events


STANDING: pytest.StashKey[Standing] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fixtures."""
    group = parser.getgroup("kadstorm", "fault injection for peer-to-peer systems")
    group.addoption("--kadstorm-nodes", type=int, default=8, help="nodes of the `cluster` fixture (default: 8)")
    group.addoption("--kadstorm-seed", type=int, default=0, help="seed of clusters and faults (default: 0)")
    group.addoption("--kadstorm-backend", default="process", help="where nodes run (default: process)")
    group.addoption("--kadstorm-toxiproxy", default=None, help="the toxiproxy-server to use")
    group.addoption("--kadstorm-keep", default=None, metavar="DIR", help="keep the run folders of failed tests there")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "cluster(nodes=…, spare=…, node={…}, network={…}): the cluster section of an experiment, and its network",
    )


# --- fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster with a proxy on every link; its logs and journal are in the test's tmp_path."""
    from harness.boot import boot
    from harness.cleanup import tidy_session
    from harness.events import Events
    from harness.journal import Journal
    from harness.plan import make_plan
    from harness.records import EVENTS_FILE
    from harness.runfolder import make_run_dir
    from harness.toxiproxy import binary

    folder = make_run_dir(tmp_path / "cluster")
    found = binary.find(request.config.getoption("--kadstorm-toxiproxy"))
    marker = request.node.get_closest_marker("cluster")
    plan = make_plan(_experiment(request), spare=(marker.kwargs if marker else {}).get("spare", SPARE))
    plan.experiment["durable"] = True  # faults to come may keep data
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(folder / EVENTS_FILE)))
        session = stack.enter_context(tidy_session(folder))
        events = Events(journal.write)
        booted = boot(plan, session, folder, found, events, lambda _, close: stack.callback(close))
        events.emit("ready", detail={"nodes": len(booted.cluster.members.initial()), "session": session.id})
        request.node.stash[STANDING] = Standing(plan, session, folder, booted.cluster, events)
        yield booted.cluster


@pytest.fixture
def inject(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[..., Any]:
    """``with inject("latency", latency="100ms"): …`` on the test's cluster; see `injection.inject`."""
    from harness import injection

    events = request.node.stash[STANDING].events
    return partial(injection.inject, cluster, seed=request.config.getoption("--kadstorm-seed"), events=events)


@pytest.fixture
def load(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[..., Any]:
    """``with load(rate="50/s", duration="10s") as seen: …`` on the test's cluster; options are those of an experiment's `load`.

    After the block, ``seen.success("lookup")`` and ``seen.outcomes`` say what became of the operations.
    """

    standing = request.node.stash[STANDING]

    def run(*, duration: str = "10s", **options: object) -> Any:
        import copy

        from harness import loading

        assert cluster is standing.cluster
        checked = _experiment(request, load=options, duration=duration)
        plan = copy.deepcopy(standing.plan)
        plan.experiment["load"] = checked.resolved()["load"]
        plan.experiment["duration_us"] = checked.top.duration
        return loading.load(plan, standing.session, standing.folder, cluster.topology, cluster.layout)

    return run


@pytest.fixture
def storm(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run an experiment file; returns its summary.json with ``exit_code`` and ``run_dir``. Arguments after the file are
    passed on to `kadstorm run`."""

    def run(experiment: Path | str, *arguments: str) -> dict[str, Any]:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        done = _run_storm(request.config, Path(experiment), folder, *arguments)
        summary = folder / "summary.json"
        assert summary.exists(), f"no summary; exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return {**json.loads(summary.read_text()), "exit_code": done.returncode, "run_dir": folder}

    return run


def _run_storm(
    config: pytest.Config, experiment: Path, folder: Path, *arguments: str, limit: float = STORM_LIMIT
) -> subprocess.CompletedProcess[str]:
    named = config.getoption("--kadstorm-toxiproxy")
    command = [sys.executable, "-P", "-m", "harness", "run", str(experiment), "--out", str(folder), *arguments]
    command += ["--toxiproxy", named] if named else []
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)


def _experiment(request: pytest.FixtureRequest, *, load: dict[str, object] | None = None, duration: str = "1h") -> Any:
    from harness import document, experiment

    marker = request.node.get_closest_marker("cluster")
    given = dict(marker.kwargs) if marker else {}
    given.pop("spare", None)
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
        "load": load or {},
        "duration": duration,
    }
    return experiment.check(document.parse(json.dumps(data), f"the marker of {request.node.name}"))


# --- what a failure says --------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add to a failed test what its network looked like, which faults were in force, and where its folder is."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    standing = item.stash.get(STANDING, None)
    if standing is not None and report.failed and call.when == "call":
        report.sections.append(("Kadstorm: the network when the test failed", "\n".join(_told(item, standing))))
    return report  # type: ignore[return-value]


def _told(item: pytest.Item, standing: Standing) -> Iterable[str]:
    cluster, members = standing.cluster, standing.cluster.members
    states = {name: members.process_state(name) for name in members.names() if members.joined(name)}
    for state in sorted(set(states.values())):
        names = [name for name, its in states.items() if its == state]
        yield f"{state}: {', '.join(names)}"
    in_force = cluster.in_force()
    yield f"faults in force: {', '.join(str(key) for key in in_force) or 'none (those of the test had been healed)'}"
    links = cluster.effects_by_link()
    yield f"links that something acted on: {len(links)} of {len(cluster.topology.links)}"
    yield from (f"  {link}: {', '.join(kinds)}" for link, kinds in list(links.items())[:SHOWN_EVENTS])
    yield f"run folder: {_kept(item, standing.folder)}"


def _kept(item: pytest.Item, folder: Path) -> Path:
    """Where the folder can be found after the test: copied, if the option asks for it."""
    kept = item.config.getoption("--kadstorm-keep")
    if not kept:
        return folder
    target = Path(kept) / "".join(c if c.isalnum() or c in "-_." else "-" for c in item.name)
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


# --- experiments as test items --------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take a YAML file that was named on the command line as an experiment; others are left alone."""
    if file_path.suffix in (".yaml", ".yml") and parent.session.isinitpath(file_path):
        return ExperimentFile.from_parent(parent, path=file_path)
    return None


class StormFailed(Exception):
    """An experiment that did not pass. Its text is what the command said."""


class ExperimentFile(pytest.File):
    """One experiment file; its only item is the run."""

    def collect(self) -> Iterable[pytest.Item]:
        """Raises a collection error with every mistake of the file."""
        from harness.errors import KadstormError
        from harness.experiment import load_experiment

        try:
            checked = load_experiment(self.path)
        except KadstormError as error:
            raise self.CollectError(str(error)) from error
        yield ExperimentItem.from_parent(self, name=checked.name, seconds=checked.top.duration / 1e6)


class ExperimentItem(pytest.Item):
    """Runs an experiment, and passes if its verdict is pass."""

    def __init__(self, *, seconds: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._limit = seconds + ITEM_OVERHEAD
        if self.config.pluginmanager.hasplugin("timeout"):
            self.add_marker(pytest.mark.timeout(self._limit + 10))

    def runtest(self) -> None:
        """Raises StormFailed unless the exit code is 0."""
        from harness.runfolder import RUNS

        parent = Path(self.config.getoption("--kadstorm-keep") or RUNS)
        folder = parent / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{self.path.stem}-{os.getpid()}"
        done = _run_storm(self.config, self.path, folder, limit=self._limit)
        self.add_report_section("call", "stdout", done.stdout)
        if done.returncode:
            raise StormFailed(f"{self.path.name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the command said, without our own frames."""
        if isinstance(excinfo.value, StormFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is, for pytest's listing."""
        return self.path, None, f"experiment {self.name}"
