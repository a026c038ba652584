"""`kadstorm load --ui` without a browser: what its page refuses, and what a session leaves behind however it was used."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import ToxiproxyUnavailable, UsageError
from harness.load_page import free_port
from harness.plan import load_plan
from harness.toxiproxy import binary
from reports import history

WAIT = 60.0  # s; a condition is awaited, so this is only how long a broken session takes to be told


class Session:
    """A `kadstorm load --ui` of five nodes; its page is asked as a browser would ask it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.run_dir = folder / "run"
        command = [sys.executable, "-P", "-m", "harness", "load", "--ui", "--ui-port", "0", "--out", str(self.run_dir)]
        command += ["--nodes", "5", "--keys", "20", "--set", "cluster.node.k=4", "--set", "load.timeout=2s", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"http://\S+/", line):
                self.url = found[0]
                return
        raise AssertionError("".join(self.said))

    def post(self, what: str, **form: object) -> dict[str, Any]:
        """Send a form of Locust's page."""
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self.url + what, data, timeout=WAIT) as answer:
            return dict(json.loads(answer.read()))

    def panel(self, what: str, **body: str) -> dict[str, Any]:
        """Ask for something of the panel's."""
        headers = {"X-Kadstorm-Panel": "1", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.url}kadstorm/{what}", data, headers)
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return dict(json.loads(answer.read()))

    def start(self, *files: str) -> None:
        """Press start, and wait for operations in these files of the run."""
        await_(lambda: bool(self.post("swarm", user_count=2, spawn_rate=2)["success"]))
        paths = [self.run_dir / "operations" / file for file in files]
        await_(lambda: all(path.exists() and path.stat().st_size > 20_000 for path in paths))

    def end(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=100)
        self.said.append(rest)
        return self.process.returncode


def await_(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    try:
        os.environ.setdefault("KADSTORM_TOXIPROXY", str(binary.find()))
    except ToxiproxyUnavailable as error:
        pytest.skip(f"no Toxiproxy: {error}")
    sessions: list[Session] = []

    def started(*options: str) -> Session:
        sessions.append(Session(tmp_path, *options))
        return sessions[-1]

    yield started
    for session in sessions:
        session.end()


@pytest.mark.timeout(200)
def test_two_processes_leave_all_rows_and_read_back_every_key_once_faults_are_healed(
    begin: Callable[..., Session],
) -> None:
    """Stop is pressed while a fault is in force: keys are read back in the end all the same, when they can be found."""
    session = begin("--rate", "40/s", "--processes", "2")
    locust = next(one for one in psutil.Process(session.process.pid).children() if "locust" in one.cmdline())
    everyone = [psutil.Process(session.process.pid), locust, *locust.children()]
    listening = {c.laddr.ip for one in everyone for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening
    assert all(ip.startswith("127.") for ip in listening)
    session.start("load-0.arrow", "load-1.arrow")
    assert "name" in session.panel("inject", text="kill: {nodes: 1}")
    assert session.post("stop")["success"]
    session.start("load-0-test-2.arrow", "load-1-test-2.arrow")
    session.end()

    seen = history.load(session.run_dir)
    rows = seen.operations.to_pandas()
    assert seen.workers == ["load-0", "load-0-test-2", "load-1", "load-1-test-2"]
    assert not [note for note in seen.notes if "arrow" in note]
    stored = rows[(rows["kind"] == "store") & (rows["outcome"] == "ok") & (rows["phase"] != "readback")]
    read = rows[rows["phase"] == "readback"]
    assert sorted(read["key"]) == sorted(stored["key"].unique())
    healed = next(event.t for event in seen.events if event.event == "healed")
    assert healed is not None
    assert read["started"].min() > healed
    assert set(read["outcome"]) == {"ok"}
    assert load_plan(session.run_dir / "plan.json").actions[0].fault == "kill"


@pytest.mark.timeout(120)
def test_the_form_shows_the_experiments_values_and_a_start_that_cannot_be_is_refused(
    begin: Callable[..., Session],
) -> None:
    session = begin("--rate", "33.333/s", "--stores", "45%", "--value-size", "100B")
    with urllib.request.urlopen(session.url) as answer:
        page = answer.read().decode()
    for name, value in (("rate", 33.333), ("stores", 0.45), ("value_size", 100), ("operation_timeout", 2.0)):
        assert re.search(rf'"{name}": {{[^}}]*"default_value": {value}\b', page), name
    for form, words in (
        ({"rate": ""}, "this session is of the open model"),
        ({"rate": "fast"}, "rate_per_s"),
        ({"stores": "2"}, "stores"),
        ({"value_size": "many"}, "value_size"),
    ):
        said = session.post("swarm", user_count=1, spawn_rate=1, **form)
        assert not said["success"]
        assert words in said["message"]
    assert session.post("swarm", user_count=1, spawn_rate=1, rate=50, stores=0.2)["success"]  # Locust's own default
    await_(lambda: session.panel("state")["figures"]["lookup"]["count"] > 50)
    assert session.end() in (0, 4)  # 4: on a busy machine
    rows = history.load(session.run_dir).load
    assert 0.05 < (rows["kind"] == "store").mean() < 0.4


@pytest.mark.timeout(150)
def test_a_worker_that_is_killed_is_in_the_journal_and_in_the_verdict(begin: Callable[..., Session]) -> None:
    session = begin("--rate", "40/s", "--processes", "2")
    session.start("load-0.arrow", "load-1.arrow")
    locust = next(one for one in psutil.Process(session.process.pid).children() if "locust" in one.cmdline())
    locust.children()[0].kill()
    journal = session.run_dir / "events.jsonl"
    await_(lambda: "worker-exit" in journal.read_text())
    assert session.end() == 3
    [event] = history.load(session.run_dir).of_kind("worker-exit")
    assert re.fullmatch(r"load-[01]", event.name)
    assert "is lost" in event.detail["exit"]


def test_a_port_that_is_taken_is_told_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--ui-port {port}: somebody listens on 127.0.0.1:{port} already"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
