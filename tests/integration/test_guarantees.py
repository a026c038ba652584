"""What a run promises, with real processes: no inert fault, nothing left behind, no false pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import faults
from harness.cleanup import processes_of, sweep
from harness.session import state_dir

FOR_GOOD = ("kill", "stop", "restart", "replace", "join")  # faults that take no `for`
LIMIT = 120.0  # s for one short storm
SHORT = {
    "name": "short",
    "seed": 5,
    "cluster": {"nodes": 6, "node": {"k": 4}},
    "network": {"latency": "1ms"},
    "load": {"rate": "60/s", "stores": "20%", "keys": 30},
    "duration": "6s",
    "settle": "1s",
}
INERT = """
from chaos.faults.{module} import {name}

class Broken({name}):
    '''Observes as {name} does, and asks for nothing.'''
    key = "inert"
    def plan(self, options, entry, world, rng):
        actions = super().plan(options, entry, world, rng)
        for action in actions:
            action.fault = "inert"
        return actions
    def effects(self, action, topology):
        import sys
        asked_by = sys._getframe(1).f_code.co_name
        return [] if asked_by == "_do_inject" else super().effects(action, topology)
"""
LIAR = """
import sys
from node import peer
from node.__main__ import main

peer.Peer.keep = lambda self, record, **_: ""  # acknowledged, and not kept

sys.exit(main())
"""
LIAR_TARGET = """
from harness.targets.kademlia import KademliaTarget

class LiarTarget(KademliaTarget):
    preload = None  # started by its command
    def command(self, settings):
        command = super().command(settings)
        at = command.index("node")
        return (*command[:at], "liar", *command[at + 1:])
"""
DEAD_TARGET = """
from harness.targets.kademlia import KademliaTarget

class DeadTarget(KademliaTarget):
    preload = None  # started by its command
    def command(self, settings):
        if settings.address.name == "node-4":
            import sys
            return (sys.executable, "-c", "import sys; sys.exit('no disk today')")
        return super().command(settings)
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Path]:
    """Writes an experiment file: `SHORT` with other values at the top level."""

    def write(**changes: Any) -> Path:
        path = tmp_path / f"experiment-{len(list(tmp_path.glob('experiment-*')))}.yaml"
        path.write_text(json.dumps({**SHORT, **changes}))
        return path

    return write


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package for child processes: its modules and its entry points, as another distribution would."""

    def install(modules: dict[str, str], group: str, name: str, value: str) -> None:
        folder = tmp_path / "site"
        info = folder / "planted-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *([before] if before else [])]))

    return install


def kadstorm(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, as users type it."""
    command = [sys.executable, "-P", "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, **options)


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[[Path], tuple[subprocess.Popen[bytes], Path]]]:
    """Starts a run and returns its process and its folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(file: Path) -> tuple[subprocess.Popen[bytes], Path]:
        folder = tmp_path / f"background-{len(started)}"
        command = [sys.executable, "-P", "-m", "harness", "run", str(file), "--out", str(folder)]
        log = (tmp_path / f"background-{len(started)}.log").open("wb")
        with log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1], folder

    yield start
    for process in started:
        process.kill()
        process.wait()
    list(sweep(state_dir()))  # what the killed ones leave on purpose


def events(folder: Path) -> list[dict[str, Any]]:
    """The journal so far; a line that is being written is left out."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def await_event(folder: Path, kind: str, name: str = "", limit: float = 60.0) -> dict[str, Any]:
    """The first event of that kind, as soon as it is in the journal."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        for event in events(folder):
            if event["event"] == kind and name in ("", event.get("name")):
                return event
        time.sleep(0.05)
    raise AssertionError(f"no {kind} {name} within {limit} s: {events(folder)[-3:]}")


def session_of(folder: Path) -> str:
    return str(await_event(folder, "session")["detail"]["id"])


def gone_within(session: str, limit: float) -> bool:
    """Whether the session has no process any more, at the latest after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while processes_of(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# --- a run that goes well -------------------------------------------------------------------------------------------


def test_a_storm_passes_and_its_folder_holds_everything(storm: Any, experiment: Any) -> None:
    summary = storm(
        experiment(
            timeline=[{"at": "1s", "for": "2s", "latency": {"latency": "80ms", "from": "node-1", "to": "all"}}],
            expect=["lookup.success >= 90%", "lost == 0"],
            duration="10s",  # so that 2 s lie outside the fault's window, which is enough to judge by
        )
    )
    assert (summary["verdict"], summary["exit_code"], summary["reasons"]) == ("pass", 0, [])
    there = {path.name for path in summary["run_dir"].iterdir()}
    assert there >= {
        "experiment.yaml", "plan.json", "events.jsonl", "operations.parquet", "operations", "nodes.parquet", "nodes",
        "toxiproxy.log", "summary.json", "junit.xml", "summary.md", "report.html",
    }  # fmt: skip
    assert [fault["effective"] for fault in summary["faults"]] == [True]
    assert set(summary["timings"]) >= {"boot_s", "preload_s", "run_s", "teardown_s", "report_s"}


def test_rows_of_the_load_are_what_the_summary_counts(storm: Any, experiment: Any) -> None:
    import pandas as pd

    summary = storm(experiment())
    rows = pd.read_parquet(summary["run_dir"] / "operations.parquet")
    load = rows[rows["phase"] == "load"]
    assert {kind: int((load["kind"] == kind).sum()) for kind in ("store", "lookup")} == {
        kind: summary[kind]["count"] for kind in ("store", "lookup")
    }
    assert len(load) > 200  # 60/s for 6 s, less what chance takes


def test_a_plan_played_again_takes_the_same_actions(storm: Any, experiment: Any) -> None:
    first = storm(
        experiment(timeline=[{"at": "1s", "for": "1s", "partition": "halves"}, {"at": "4s", "kill": {"nodes": 1}}])
    )
    again = storm(first["run_dir"] / "plan.json")

    def actions(folder: Path) -> list[tuple[Any, ...]]:
        kept = ("event", "action", "name", "targets", "asked")
        return [tuple(str(e.get(k)) for k in kept) for e in events(folder) if e["event"] in ("inject", "heal")]

    assert actions(first["run_dir"]) == actions(again["run_dir"]) != []


@pytest.mark.alone
def test_two_runs_at_once_both_pass(background: Any, experiment: Any) -> None:
    runs = [background(experiment(expect=["lookup.success >= 90%", "lost == 0"])) for _ in range(2)]
    assert [process.wait(LIMIT) for process, _ in runs] == [0, 0]
    assert len({session_of(folder) for _, folder in runs}) == 2


# --- no false pass --------------------------------------------------------------------------------------------------


BROKEN = [
    ("latency", "Latency", {"latency": "100ms", "from": "node-1", "to": "all"}),
    ("partition", "Partition", {"shape": "halves"}),
    ("blackhole", "Blackhole", {"from": "node-1", "to": "node-2"}),
    ("refuse", "Refuse", {"from": "node-1", "to": "node-2"}),
    ("kill", "Kill", {"nodes": 1, "restart_after": "2s"}),
    ("bandwidth", "Bandwidth", {"rate": "16KB/s", "from": "node-1"}),
    ("slicer", "Slicer", {"average_size": "64B", "delay": "2ms", "from": "node-1"}),
    ("slow_close", "SlowClose", {"delay": "500ms", "to": "node-1"}),
    ("limit_data", "LimitData", {"bytes": "4KiB", "from": "node-1"}),
    ("reset", "Reset", {"from": "node-1"}),
    ("pause", "Pause", {"nodes": 1}),
    ("stop", "Stop", {"nodes": 1}),
    ("restart", "Restart", {"nodes": 1}),
    ("replace", "Replace", {"nodes": 1}),
    ("join", "Join", {"nodes": 1}),
    (
        "churn",
        "Churn",
        {"nodes": 2, "session": {"exponential": {"mean": "1s"}}, "downtime": {"exponential": {"mean": "1s"}}},
    ),
]


@pytest.mark.parametrize(("module", "name", "options"), BROKEN)
def test_a_fault_without_effect_makes_the_run_inconclusive(
    storm: Any, experiment: Any, package: Any, module: str, name: str, options: dict[str, Any]
) -> None:
    text = INERT.format(module=module, name=name)
    package({"planted_faults": text}, "kadstorm.faults", "inert", "planted_faults:Broken")
    entry: dict[str, Any] = {"at": "1s", "inert": options}
    if module not in FOR_GOOD:
        entry["for"] = "3s"
    summary = storm(experiment(timeline=[entry], duration="5s"))
    assert (summary["exit_code"], summary["verdict"]) == (4, "inconclusive")
    assert summary["faults"][0]["effective"] is False


def test_no_fault_is_left_out_of_those_that_are_broken_above() -> None:
    ours = {name for name in faults.names() if type(faults.get(name)).__module__.startswith("chaos.")}
    assert ours == {module for module, _, _ in BROKEN}


def test_stores_that_are_acknowledged_and_not_kept_turn_the_verdict_to_fail(
    storm: Any, experiment: Any, package: Any
) -> None:
    package({"liar": LIAR, "liar_target": LIAR_TARGET}, "kadstorm.targets", "liar", "liar_target:LiarTarget")
    cluster = {**SHORT["cluster"], "target": "liar"}  # type: ignore[dict-item]
    summary = storm(experiment(cluster=cluster, expect=["lost == 0"]))
    assert (summary["exit_code"], summary["verdict"]) == (1, "fail")


def test_a_member_that_dies_unasked_is_told_and_fails_the_run(background: Any, experiment: Any) -> None:
    process, folder = background(experiment())
    await_event(folder, "clock")
    victim = next(p for p in processes_of(session_of(folder)) if p.name() == "node-2")
    victim.kill()
    assert process.wait(LIMIT) == 1
    assert await_event(folder, "member-exit")["name"] == "node-2"
    assert "node-2" in (folder / "summary.json").read_text()


def test_a_load_worker_that_dies_is_a_failure_of_the_run(background: Any, experiment: Any) -> None:
    slow = {"at": "2s", "for": "20s", "latency": {"latency": "50ms", "from": "node-1", "to": "all"}}
    process, folder = background(experiment(duration="30s", timeline=[slow]))
    await_event(folder, "injected")  # by then there are rows
    session = session_of(folder)
    next(worker for worker in processes_of(session) if "loadtests" in worker.cmdline()).kill()
    assert process.wait(LIMIT) == 3
    assert "killed by SIGKILL" in await_event(folder, "worker-exit")["detail"]["exit"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] == "error"
    assert summary["lookup"]["count"] + summary["store"]["count"] > 0  # what it did until then is still counted
    assert not processes_of(session)


# --- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["boot", "preload", "load"])
def test_sigkill_of_the_harness_leaves_no_process(background: Any, experiment: Any, phase: str) -> None:
    process, folder = background(experiment())
    await_event(folder, "phase", phase)
    session = session_of(folder)
    process.kill()
    process.wait()
    assert gone_within(session, 5.0), processes_of(session)


@pytest.mark.parametrize("phase", ["boot", "load"])
def test_ctrl_c_heals_tears_down_and_writes_what_there_is(background: Any, experiment: Any, phase: str) -> None:
    process, folder = background(
        experiment(timeline=[{"at": "1s", "for": "4s", "partition": "halves"}], duration="30s")
    )
    if phase == "load":
        await_event(folder, "injected")
    else:
        await_event(folder, "phase", phase)
    session = session_of(folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not processes_of(session)
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "interrupted"
    if phase == "load":
        assert [event["event"] for event in events(folder)].count("healed") == 1


def test_a_run_folder_that_is_there_is_not_touched(experiment: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").write_text("data")
    done = kadstorm("run", experiment(), "--out", folder)
    assert done.returncode == 3
    assert "exists already" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["precious"]


# --- bad input and bad luck -----------------------------------------------------------------------------------------


def test_a_node_that_does_not_start_is_told_with_its_exit_code_and_log(
    experiment: Any, package: Any, tmp_path: Path
) -> None:
    package({"dead_target": DEAD_TARGET}, "kadstorm.targets", "dead", "dead_target:DeadTarget")
    cluster = {**SHORT["cluster"], "target": "dead"}  # type: ignore[dict-item]
    done = kadstorm("run", experiment(cluster=cluster), "--out", tmp_path / "run")
    assert done.returncode == 3
    for part in ("node-4", "exit code 1", "no disk today"):
        assert part in done.stdout + done.stderr


def test_a_wrong_file_starts_nothing(experiment: Any, tmp_path: Path) -> None:
    done = kadstorm("run", experiment(duration="fast", settle=3), "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "duration" in done.stderr
    assert "settle" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_any_toxiproxy_it_says_what_was_tried(experiment: Any, tmp_path: Path) -> None:
    bare = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KADSTORM_TOXIPROXY",) and not name.lower().endswith("_proxy")
    }
    bare |= {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = kadstorm("run", experiment(), "--out", tmp_path / "run", env=bare)
    assert done.returncode == 3
    for part in ("PATH", "cache", "Go is not installed", "downloading", "--toxiproxy PATH"):
        assert part in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.alone  # it takes the address that sessions choose first
def test_a_port_that_is_taken_is_told(experiment: Any, tmp_path: Path) -> None:
    import socket

    # every loopback address that a session could take is occupied at one of the ports that it needs
    state = tmp_path / "state"
    with socket.create_server(("127.20.1.1", 10003)):
        done = kadstorm(
            "run", experiment(), "--out", tmp_path / "run", env={**os.environ, "KADSTORM_STATE": str(state)}
        )
    assert done.returncode == 3
    assert "port 10003 on 127.20.1.1 is taken" in done.stdout + done.stderr


def test_cleanup_removes_what_a_dead_session_left_and_leaves_living_ones_alone(
    background: Any, experiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path / "state"))
    dead, dead_folder = background(experiment(duration="60s"))  # which it does not live to see
    await_event(dead_folder, "clock")
    living, living_folder = background(experiment())
    await_event(living_folder, "clock")
    session = session_of(dead_folder)
    dead.kill()
    dead.wait()
    assert session in kadstorm("cleanup", "--dry-run").stdout
    done = kadstorm("cleanup")
    assert done.returncode == 0
    assert f"{session}: removed" in done.stdout
    assert f"{session_of(living_folder)}: alive" in done.stdout
    assert living.wait(LIMIT) == 0
    assert not psutil.pid_exists(dead.pid)


def test_ctrl_c_while_toxiproxy_is_being_built_ends_at_once(experiment: Any, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    go = tools / "go"
    go.write_text('#!/bin/sh\necho $$ > "$(dirname "$0")/pid"\nexec sleep 60\n')
    go.chmod(0o755)
    bare = {name: value for name, value in os.environ.items() if name != "KADSTORM_TOXIPROXY"}
    bare |= {"PATH": f"{tools}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # a shell ignores Ctrl-C for what it runs in the background, and so may whoever runs these tests
    command = ["env", "--default-signal=INT", sys.executable, "-P", "-m", "harness"]
    command += ["run", str(experiment()), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=bare, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        deadline = time.monotonic() + 30
        while not (tools / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not psutil.pid_exists(int((tools / "pid").read_text()))
    assert not (tmp_path / "run").exists()


# --- faults of the harness's own world ------------------------------------------------------------------------------


def toxiproxy_of(folder: Path) -> psutil.Process:
    return next(p for p in processes_of(session_of(folder)) if any("-port" in word for word in p.cmdline()[1:4]))


def test_a_toxiproxy_that_is_killed_is_brought_back_with_its_links_and_the_run_is_inconclusive(
    background: Any, experiment: Any
) -> None:
    slow = {"at": "1s", "for": "8s", "latency": {"latency": "80ms", "from": "node-1", "to": "all"}}
    process, folder = background(experiment(duration="12s", timeline=[slow]))
    await_event(folder, "injected")
    toxiproxy_of(folder).kill()
    assert process.wait(LIMIT) == 4
    restarted = await_event(folder, "toxiproxy-restarted")
    assert restarted["detail"]["gap_s"] > 0
    reasons = json.loads((folder / "summary.json").read_text())["reasons"]
    assert any("Toxiproxy was away for" in str(reason) for reason in reasons)
    # the toxic was there again: its heal had something to take back, and nothing was left
    assert await_event(folder, "heal-observed")["effective"] is True


def test_a_toxiproxy_that_hangs_is_replaced_by_one_that_knows_the_links(background: Any, experiment: Any) -> None:
    slow = {"at": "1s", "for": "4s", "latency": {"latency": "80ms", "from": "node-1", "to": "all"}}
    process, folder = background(experiment(duration="10s", timeline=[slow]))
    await_event(folder, "injected")
    toxiproxy_of(folder).suspend()
    assert process.wait(LIMIT) == 4
    assert "does not answer" in await_event(folder, "toxiproxy-restarted")["detail"]["why"]


STUBBORN = """
import signal, sys
from node.__main__ import main

sys.argv[0] = "node"
import asyncio
import uvloop

original = uvloop.Loop.add_signal_handler
uvloop.Loop.add_signal_handler = lambda self, number, *rest: original(self, number, lambda: None)
sys.exit(main())
"""
STUBBORN_TARGET = LIAR_TARGET.replace("Liar", "Stubborn").replace("liar", "stubborn")


def test_a_node_that_ignores_sigterm_is_ended_and_did_not_leave(storm: Any, experiment: Any, package: Any) -> None:
    package(
        {"stubborn": STUBBORN, "stubborn_target": STUBBORN_TARGET},
        "kadstorm.targets",
        "stubborn",
        "stubborn_target:StubbornTarget",
    )
    cluster = {**SHORT["cluster"], "target": "stubborn"}  # type: ignore[dict-item]
    summary = storm(experiment(cluster=cluster, duration="12s", timeline=[{"at": "1s", "stop": {"nodes": "node-4"}}]))
    assert summary["exit_code"] == 4
    assert summary["faults"][0]["effective"] is False
    assert summary["faults"][0]["observed"]["ended"] == {"node-4": "killed by SIGKILL"}
