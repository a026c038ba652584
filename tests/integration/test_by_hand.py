"""`kadstorm up / status / inject / heal / down`, as typed, from two terminals; and what is left when it is over."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.byhand import options_of
from harness.cleanup import end_processes, processes_of
from harness.errors import UsageError
from harness.session import SOCKET, state_dir

LIMIT = 100.0  # s


def kadstorm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=cwd)


def start(folder: Path, *arguments: str) -> str:
    done = kadstorm("up", "--nodes", "5", "--set", "cluster.node.k=4", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[str]:
    name = start(tmp_path)
    yield name
    kadstorm("down", "--session", name)
    assert end_processes(name) == 0


def status(name: str) -> dict[str, object]:
    return dict(json.loads(kadstorm("status", "--session", name, "--json").stdout))


def test_a_fault_is_put_in_force_shown_and_healed(session: str) -> None:
    socket = state_dir() / "sessions" / session / SOCKET
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    done = kadstorm("inject", "--session", session, "partition", "--shape", "halves", "--for", "60s")
    assert done.returncode == 0, done.stdout
    assert "partition: in effect" in done.stdout
    assert "in force: partition for" in kadstorm("status", "--session", session).stdout
    healed = kadstorm("heal", "--session", session)
    assert healed.returncode == 0, healed.stdout
    assert "partition: has ended" in healed.stdout
    assert status(session)["faults"] == []


def test_two_terminals_at_once_do_not_disturb_each_other(session: str) -> None:
    faults = [("kill", "--nodes", "node-4"), ("latency", "--latency", "60ms", "--from", "node-1")]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda words: kadstorm("inject", "--session", session, *words), faults))
    assert [each.returncode for each in done] == [0, 0], [each.stdout + each.stderr for each in done]
    assert status(session)["members"]["node-4"] == "dead"  # type: ignore[index]
    assert kadstorm("heal", "--session", session, "kill").returncode == 0
    assert status(session)["members"]["node-4"] == "running"  # type: ignore[index]
    assert [fault["name"] for fault in status(session)["faults"]] == ["latency"]  # type: ignore[attr-defined]


def test_new_members_join_by_hand_until_the_spare_ones_are_used_up(session: str) -> None:
    assert "join: in effect" in kadstorm("inject", "--session", session, "join", "--nodes", "2").stdout
    assert len(status(session)["members"]) == 7  # type: ignore[arg-type]
    done = kadstorm("inject", "--session", session, "join", "--nodes", "9")
    assert (done.returncode, "2 spare ones" in done.stdout) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("partiton",), "did you mean `partition`"),
        (("latency",), "Field required"),
        (("pause", "--nodes", "node-99"), "no node `node-99`"),
        (("kill", "--nodes", "1", "--for", "3s"), "takes no --for"),
        (("churn", "--nodes", "1", "--session", "{exponential: x}", "--for", "3s"), "exponential"),
    ],
)
def test_bad_input_by_hand_is_told_and_changes_nothing(session: str, words: tuple[str, ...], said: str) -> None:
    done = kadstorm("inject", "--session", session, *words)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert status(session)["faults"] == []


def load(name: str, folder: Path, seconds: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "harness", "load", "--session", name, "--rate", "40/s", "--keys", "30"]
    return subprocess.Popen(
        [*command, "--for", f"{seconds}s", "--out", str(folder), *arguments], text=True, stdout=subprocess.PIPE
    )


def await_progress(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if " ok" in line:
            return
    raise AssertionError(f"the load ended with {process.wait()} before anything had finished")


def test_load_on_a_session_has_the_faults_by_hand_in_its_report(session: str, tmp_path: Path) -> None:
    assert kadstorm("inject", "latency", "--latency", "15ms", "--from", "node-1", "--session", session).returncode == 0
    with load(session, tmp_path / "first", 20) as process:
        await_progress(process)
        assert status(session)["loads"] == 1
        assert kadstorm("inject", "partition", "--for", "60s", "--session", session).returncode == 0
        assert "partition: has ended" in kadstorm("heal", "partition", "--session", session).stdout
        assert process.stdout is not None
        said = process.stdout.read()
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert process.returncode == summary["exit_code"], said
    seen = {fault["name"]: fault["effective"] for fault in summary["faults"]}
    assert seen == {"latency": True, "partition": True}
    assert [fault["healed"] is None for fault in summary["faults"]] == [True, False]  # the latency goes on
    assert summary["lookup"]["count"] > 150
    assert status(session)["loads"] == 0


def test_ctrl_c_ends_a_load_and_not_its_session(session: str, tmp_path: Path) -> None:
    with load(session, tmp_path / "first", 60) as process:
        await_progress(process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        process.stdout.read()
    assert process.returncode == 130
    assert (tmp_path / "first" / "report.html").exists()
    seed = str(json.loads((tmp_path / "first" / "plan.json").read_text())["seed"])
    again = kadstorm("load", "--session", session, "--seed", seed, "--out", str(tmp_path / "again"))
    assert (again.returncode, "this seed has stored its keys" in again.stderr) == (2, True)
    assert set(dict(status(session)["members"]).values()) == {"running"}  # type: ignore[call-overload]


def test_a_session_that_vanishes_ends_its_load_with_exit_code_3(session: str, tmp_path: Path) -> None:
    with load(session, tmp_path / "first", 60) as process:
        await_progress(process)
        os.kill(int(str(status(session)["pid"])), signal.SIGKILL)
        assert process.stdout is not None
        assert "vanished" in process.stdout.read()
    assert process.returncode == 3
    assert kadstorm("load", "--session", session).returncode == 3


def test_it_ends_when_its_time_is_up_and_leaves_nothing(tmp_path: Path) -> None:
    name = start(tmp_path, "--ttl", "2s")
    deadline = time.monotonic() + LIMIT
    while (state_dir() / "sessions" / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not processes_of(name)


def test_cleanup_removes_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    name = start(tmp_path)
    os.kill(int(str(status(name)["pid"])), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_of(name):
        assert time.monotonic() < deadline, "nodes must end with their supervisor"
        time.sleep(0.05)
    assert f"{name}: removed" in kadstorm("cleanup").stdout
    assert not (state_dir() / "sessions" / name).exists()


def test_options_are_read_as_yaml() -> None:
    words = ["--shape", "halves", "--one-way", "--nodes=[node-1, node-2]", "--restart-after", "4s", "--x", "3"]
    assert options_of(words) == {
        "shape": "halves", "one_way": True, "nodes": ["node-1", "node-2"], "restart_after": "4s", "x": 3,
    }  # fmt: skip
    with pytest.raises(UsageError, match="an option such as"):
        options_of(["halves"])
