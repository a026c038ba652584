"""`kadstorm load`, as typed and as run: what clients recorded is what nodes counted, to the last operation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import faults, load_command
from harness.environment import environment
from harness.errors import ToxiproxyUnavailable
from harness.interrupt import Interrupt
from harness.plan import make_plan
from harness.records import Event
from harness.runfolder import make_run_dir
from harness.runner import Live, Runner
from harness.toxiproxy import binary
from node.client import Client


@pytest.fixture(scope="module")
def toxiproxy() -> Path:
    try:
        return binary.find()
    except ToxiproxyUnavailable as error:
        pytest.skip(f"no Toxiproxy: {error}")


class Counts:
    """Asks every node, once the keys were read back, what clients asked of it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.requests: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        if (event.event, event.name) != ("load", "readback"):
            return
        assert self._live.load is not None
        config = self._live.load._workers[0].config
        for gateway in config["gateways"]:
            client = Client(gateway["host"], gateway["port"], config["cluster"])
            counters = client.inspect(timeout=5).counters
            self.requests["store"] += counters.get("rpcs_in.Put", 0)
            self.requests["lookup"] += counters.get("rpcs_in.Get", 0)
            client.close()


@pytest.mark.parametrize(
    ("backend", "containers"),
    [("process", "false"), pytest.param("docker", "true", marks=[pytest.mark.docker, pytest.mark.timeout(300)])],
)
def test_every_operation_is_accounted_for_on_both_sides_to_the_last_one(
    tmp_path: Path, toxiproxy: Path, backend: str, containers: str
) -> None:
    options = {
        "nodes": 8,
        "backend": backend,
        "rate": "200/s",
        "for": "5s",
        "keys": 40,
        "processes": 2,
        "stores": "30%",
    }
    settings = ["load.rewrites=30%", "load.missing=10%", f"load.containers={containers}"]
    made = load_command.read(None, options, settings, [])
    seen: list[Counts] = []

    def watch(live: Live) -> Counts:
        seen.append(Counts(live))
        return seen[0]

    folder = make_run_dir(tmp_path / "run")
    outcome = Runner(
        plan=make_plan(made),
        run_dir=folder,
        experiment_text=made.text,
        toxiproxy=toxiproxy,
        environment=environment(),
        replay="",
        interrupt=Interrupt(),
        fault_of=faults.get,
        watch=watch,
    ).run()
    assert outcome.reasons == []
    rows = pd.concat([_stream(path) for path in sorted((folder / "operations").glob("*.arrow"))])
    recorded = rows.groupby("kind")["attempts"].sum().to_dict()
    assert recorded == dict(seen[0].requests)
    assert set(rows["outcome"]) == {"ok"}
    assert set(rows["worker"]) == {"load-0", "load-1"}
    assert (rows["phase"] == "load").sum() > 800


def _stream(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
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
