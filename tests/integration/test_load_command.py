"""`kadstorm load`, as typed and as run: what clients recorded is what nodes counted, to the last operation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest

import reports
from harness import faults, load_command
from harness.cleanup import processes_of
from harness.environment import environment
from harness.errors import ToxiproxyUnavailable
from harness.experiment import Experiment, load_experiment
from harness.interrupt import Interrupt
from harness.plan import make_plan
from harness.records import Event
from harness.runfolder import make_run_dir
from harness.runner import Live, Outcome, Runner
from harness.toxiproxy import binary
from node.client import Client
from node.errors import ClientRefused


@pytest.fixture(scope="module")
def toxiproxy() -> Path:
    try:
        return binary.find()
    except ToxiproxyUnavailable as error:
        pytest.skip(f"no Toxiproxy: {error}")


class Counts:
    """Asks every node that answers, once the keys were read back, what clients asked of it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.of_gateway: dict[str, Counter[str]] = {}

    @property
    def requests(self) -> dict[str, int]:
        return dict(sum(self.of_gateway.values(), Counter()))

    def __call__(self, event: Event) -> None:
        if (event.event, event.name) != ("load", "readback"):
            return
        assert self._live.load is not None
        config = self._live.load._workers[0].config
        for gateway in config["gateways"]:
            client = Client(gateway["host"], gateway["port"], config["cluster"])
            with suppress(ClientRefused), closing(client):
                counters = client.inspect(timeout=5).counters
                asked = {"store": counters.get("rpcs_in.Put", 0), "lookup": counters.get("rpcs_in.Get", 0)}
                self.of_gateway[gateway["name"]] = Counter(asked)


class Killer:
    """Kills every node by its process id when the clock starts."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._session = ""

    def __call__(self, event: Event) -> None:
        if event.event == "session":
            self._session = event.detail["id"]
        elif event.event == "clock":
            assert self._live.load is not None
            ports = {gateway["port"] for gateway in self._live.load._workers[0].config["gateways"]}
            for process in processes_of(self._session):
                if any(each.laddr.port in ports for each in process.net_connections() if each.status == "LISTEN"):
                    process.kill()


Watch = TypeVar("Watch", Counts, Killer)


def run(made: Experiment, folder: Path, toxiproxy: Path, watching: Callable[[Live], Watch]) -> tuple[Outcome, Watch]:
    """A run of the experiment in this process, and what watched it."""
    seen: list[Watch] = []

    def watch(live: Live) -> Watch:
        seen.append(watching(live))
        return seen[0]

    outcome = Runner(
        plan=make_plan(made),
        run_dir=make_run_dir(folder),
        experiment_text=made.text,
        toxiproxy=toxiproxy,
        environment=environment(),
        replay="",
        interrupt=Interrupt(),
        fault_of=faults.get,
        watch=watch,
    ).run()
    return outcome, seen[0]


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.concat([_stream(path) for path in sorted((folder / "operations").glob("*.arrow"))])


SMALL = {"nodes": 8, "rate": "200/s", "for": "5s", "keys": 40, "processes": 2, "stores": "30%"}
NAMED = {"nodes": 30, "rate": "500/s", "for": "30s"}
MIXED = ["load.rewrites=30%", "load.missing=10%"]


@pytest.mark.parametrize(
    ("options", "settings", "least"),
    [
        (SMALL, MIXED, 800),
        pytest.param(
            {**SMALL, "backend": "docker"},
            [*MIXED, "load.containers=true"],
            800,
            marks=[pytest.mark.docker, pytest.mark.timeout(300)],
        ),
        pytest.param(NAMED, [], 14_000, marks=[pytest.mark.alone, pytest.mark.timeout(300)]),
    ],
)
def test_every_operation_is_accounted_for_on_both_sides_to_the_last_one(
    tmp_path: Path, toxiproxy: Path, options: dict[str, Any], settings: list[str], least: int
) -> None:
    made = load_command.read(None, options, settings, [])
    outcome, seen = run(made, tmp_path / "run", toxiproxy, Counts)
    assert outcome.reasons == []
    rows = rows_of(tmp_path / "run")
    assert rows.groupby("kind")["attempts"].sum().to_dict() == seen.requests
    assert set(rows["outcome"]) == {"ok"}
    assert set(rows["worker"]) == {f"load-{index}" for index in range(options.get("processes", 1))}
    assert (rows["phase"] == "load").sum() > least


def test_of_a_gateway_that_is_killed_only_its_own_operations_are_not_accounted_for(
    tmp_path: Path, toxiproxy: Path
) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\ncluster: {nodes: 8}\nload: {rate: 100/s, keys: 40}\nduration: 5s\nsettle: 1s\n"
        "timeline: [{at: 2s, kill: {nodes: node-3}}]\n"
    )
    _, seen = run(load_experiment(tmp_path / "x.yaml"), tmp_path / "run", toxiproxy, Counts)
    rows = rows_of(tmp_path / "run")
    recorded = rows[rows["phase"] != "readback"].groupby(["gateway", "kind"]).size()
    told = {name: sum(counts.values()) for name, counts in seen.of_gateway.items()}
    assert "node-3" not in told
    assert len(told) == 7
    by_gateway = {str(name): int(count) for name, count in recorded.groupby("gateway").sum().items()}
    read_back = rows[rows["phase"] == "readback"].groupby("gateway").size()
    assert {name: told[name] - int(read_back.get(name, 0)) for name in told} == {
        name: count for name, count in by_gateway.items() if name != "node-3"
    }
    assert sum(told.values()) == len(rows) - by_gateway["node-3"]
    failed = rows[rows["outcome"].isin(["refused", "error"])]
    assert set(failed["gateway"]) == {"node-3"}


def test_a_cluster_that_vanishes_in_the_middle_of_its_load_is_a_failure_of_the_harness(
    tmp_path: Path, toxiproxy: Path
) -> None:
    made = load_command.read(None, {"nodes": 4, "rate": "20/s", "for": "60s", "keys": 5}, [], [])
    outcome, _ = run(made, tmp_path / "run", toxiproxy, Killer)
    assert [reason["kind"] for reason in outcome.reasons] == ["error"]
    assert outcome.reasons[0]["text"].startswith("the cluster vanished: all 4 nodes ended")
    assert outcome.timings.get("run_s") is None  # it did not wait for the load's end
    summary = reports.write(tmp_path / "run")
    assert (summary.exit_code, summary.verdict) == (3, "error")


def _stream(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
        frame: pd.DataFrame = stream.read_all().to_pandas()
    return frame


def kadstorm(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-P", "-m", "harness", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.alone
@pytest.mark.usefixtures("toxiproxy")
def test_a_search_leaves_its_curve_in_the_summary_and_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, said = kadstorm(
        "load", "--nodes", 5, "--rate", "60/s", "--up-to", "100/s", "--step", "4s", "--keys", 20,
        "--find-limit", "lookup.success >= 50%", "--out", folder,
    )  # fmt: skip
    limit = json.loads((folder / "summary.json").read_text())["limit"]
    assert "limit" in said
    assert "The limit" in (folder / "report.html").read_text()
    assert [step["rate"] for step in limit["steps"]] == [60, 90]
    if any(step["verdict"] == "not delivered" for step in limit["steps"]):
        pytest.skip("this machine is too busy to send 90 operations/s on time")
    assert [step["verdict"] for step in limit["steps"]] == ["held", "held"]
    assert (code, limit["found"]) == (0, 90)


@pytest.mark.alone
@pytest.mark.usefixtures("toxiproxy")
def test_a_rate_that_cannot_be_sent_on_time_is_inconclusive_and_the_reason_is_told(tmp_path: Path) -> None:
    code, said = kadstorm("load", "--nodes", 5, "--rate", "100000/s", "--for", "3s", "--out", tmp_path / "run")
    assert code == 4, said
    assert "the load was not delivered: one in a hundred operations was sent" in said
    assert "(limit 50 ms), so the generator was too slow: lower the rate, or raise load.processes" in said


@pytest.mark.alone
@pytest.mark.usefixtures("toxiproxy")
def test_a_search_stops_when_the_objective_is_out_of_reach(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, said = kadstorm(
        "load", "--nodes", 5, "--rate", "60/s", "--up-to", "4000/s", "--step", "4s", "--keys", 20,
        "--find-limit", "lookup.p50 <= 0.001ms", "--out", folder,
    )  # fmt: skip
    limit = json.loads((folder / "summary.json").read_text())["limit"]
    assert limit["found"] is None
    assert len(limit["steps"]) < 6  # of 11
    assert code == (1 if any(step["verdict"] == "missed" for step in limit["steps"]) else 4), said  # 4: a busy machine


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--rate", "5/s", "--users", 3),
            "--users 3: `users` (closed model) and `rate` (open model) exclude each other",
        ),
        (("--rate", "fast"), "--rate fast: `rate`: a rate above zero"),
        (("--find-limit", "lookup.p98 <= 1s"), "--find-limit"),
        (("--set", "load.retry={attempts: 0}"), "at least 1"),
        (("nothing.yaml",), "nothing.yaml: cannot be read"),
        (("--for", "9s", "--find-limit", "lookup.p99 <= 1s"), "--for does not go with --find-limit"),
        (("--ui", "--find-limit", "lookup.p99 <= 1s"), "--find-limit does not go with --ui"),
        (("--ui", "--for", "30s"), "--for does not go with --ui"),
        (
            ("--ui", "--backend", "docker", "--set", "load.containers=true"),
            "load.containers=true does not go with --ui",
        ),
    ],
)
def test_wrong_options_are_told_by_name_and_nothing_is_started(arguments: tuple[Any, ...], words: str) -> None:
    code, said = kadstorm("load", *arguments)
    assert code == 2
    assert words in said
    assert "Traceback" not in said
