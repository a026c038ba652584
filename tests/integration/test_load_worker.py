"""Real load workers: their life over stdin and stdout, and what is on disk when they end in every way they can."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest

CLIENT = '''
import os, time
from loadtests.client import LookedUp, Stored
from loadtests.errors import NoAnswer, Refused

KEPT = {}


def stalled():
    """Nobody is answered between 1 and 3 s after the first request."""
    since = time.monotonic() - KEPT.setdefault("first", time.monotonic())
    if 1 < since < 3:
        time.sleep(3 - since)


class Fake:
    def __init__(self, host, port, cluster):
        self.mode = cluster

    def store(self, key, value, *, version, timeout):
        if self.mode == "refusing":
            raise Refused("nobody listens")
        if self.mode == "hanging":
            time.sleep(timeout)
            raise NoAnswer("no_answer")
        if self.mode == "stalling":
            stalled()
        time.sleep(0.002)
        print("a client that talks on stdout")
        KEPT[key] = LookedUp(True, value, version, 1, 2)
        return Stored(5, 1, 7)

    def lookup(self, key, *, timeout):
        if self.mode == "stalling":
            stalled()
        time.sleep(0.002)
        return KEPT.get(key, LookedUp(False))

    def close(self):
        pass
'''


class WorkerProcess:
    """One worker, and the events that it tells."""

    def __init__(self, folder, preexec=None, **changes):
        (folder / "fake.py").write_text(CLIENT)
        self.operations = folder / "load-0.arrow"
        load = {"rate_per_s": 200.0, "keys": 20, "write_acks": 4, "timeout_s": 2.0} | changes.pop("load", {})
        config = {
            "worker": "load-0",
            "seed": 7,
            "cluster": "c",
            "client": "fake:Fake",
            "gateways": [{"name": f"node-{i}", "host": "127.0.0.1", "port": i + 1} for i in range(3)],
            "load": load,
            "duration_s": 1.0,
            "operations": str(self.operations),
        }
        (folder / "config.json").write_text(json.dumps(config | changes))
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "loadtests", str(folder / "config.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
                preexec_fn=preexec,
            )

    def say(self, command, **fields):
        self.process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, event):
        """The next event of this kind; those before it are passed over."""
        for line in self.process.stdout:
            told = json.loads(line)
            if told["event"] == event:
                return told
            assert told["event"] in ("stats", "started"), told
        raise AssertionError(f"the worker ended without {event}")

    def start(self, ahead=0.1):
        self.say("start", clock=time.monotonic() + ahead)
        self.hear("started")

    def rows(self):
        rows = []
        with pa.OSFile(str(self.operations)) as file, pa.ipc.open_stream(file) as stream:
            try:
                for batch in stream:
                    rows += batch.to_pylist()
            except (pa.ArrowInvalid, OSError):
                pass
        return rows

    def end(self):
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def running(folder, **changes):
    worker = WorkerProcess(folder, **changes)
    try:
        yield worker
    finally:
        worker.end()


def phase(rows, name):
    return [row for row in rows if row["phase"] == name]


@pytest.mark.parametrize("model", [{"rate_per_s": 200.0}, {"rate_per_s": None, "users": 10, "think_s": 0.02}])
def test_a_whole_life_leaves_one_row_per_operation(tmp_path, model):
    with running(tmp_path, load=model) as worker:
        worker.hear("up")
        worker.say("preload")
        assert worker.hear("preloaded") == {"event": "preloaded", "stored": 20, "failed": 0}
        worker.start()
        drained = worker.hear("drained")
        worker.say("readback", gateways=["node-0", "node-2"])
        read = worker.hear("readback")
        worker.say("quit")
        bye = worker.hear("bye")
        assert worker.process.wait(5) == 0
        rows = worker.rows()
    load = phase(rows, "load")
    acknowledged = 20 + sum(1 for row in load if row["kind"] == "store")
    assert bye["rows"] == len(rows)
    # Locust's own statistics saw every operation: it truly drove them.
    assert drained["rows"] == drained["requests"] == len(load) > 100
    assert read == {"event": "readback", "keys": acknowledged, "lost": 0, "unreachable": 0, "wrong": 0}
    assert len(phase(rows, "preload")) == 20
    assert len(phase(rows, "readback")) == acknowledged
    assert all(row["outcome"] == "ok" for row in rows)
    assert all(0 <= row["intended"] < 1 and row["intended"] <= row["started"] <= row["finished"] for row in load)
    assert all(row["finished"] < 0 for row in phase(rows, "preload"))
    assert {row["gateway"] for row in phase(rows, "readback")} == {"node-0", "node-2"}


def test_a_stall_of_two_seconds_shows_in_the_open_model(tmp_path):
    # Coordinated omission is the classic lie of load generators: a client that waits asks nothing during the stall.
    load = {"arrivals": "constant", "timeout_s": 5.0, "rate_per_s": 100.0}
    with running(tmp_path, cluster="stalling", load=load, duration_s=6.0) as worker:
        worker.hear("up")
        worker.start()
        worker.hear("drained")
        worker.say("quit")
        worker.hear("bye")
        latencies = sorted(row["finished"] - row["intended"] for row in phase(worker.rows(), "load"))
    assert len(latencies) == 600
    assert latencies[int(0.99 * len(latencies))] >= 1.5


def test_sigkill_leaves_what_was_recorded_readable(tmp_path):
    with running(tmp_path, duration_s=60.0) as worker:
        worker.hear("up")
        worker.start(ahead=0.0)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            stats = worker.hear("stats")
        worker.process.kill()
        assert worker.process.wait(5) == -signal.SIGKILL
        rows = worker.rows()
    # All but the last 250 ms of a load of 200/s; the last stats event is from after 1.5 s.
    assert stats["t"] > 1.0
    assert len(rows) >= 200 * (stats["t"] - 0.35) * 0.8
    assert max(row["finished"] for row in rows) >= stats["t"] - 0.35


@pytest.mark.parametrize("how", ["quit", "eof", "sigterm"])
def test_it_ends_promptly_in_the_middle_of_the_load_and_every_operation_has_its_row(tmp_path, how):
    with running(tmp_path, cluster="hanging", duration_s=60.0, load={"timeout_s": 30.0, "keys": 0}) as worker:
        worker.hear("up")
        worker.start(ahead=0.0)
        in_flight = 0
        while in_flight < 100:
            in_flight = worker.hear("stats")["in_flight"]
        began = time.monotonic()
        if how == "quit":
            worker.say("quit")
        elif how == "eof":
            worker.process.stdin.close()
        else:
            worker.process.terminate()
        bye = worker.hear("bye")
        assert worker.process.wait(5) == 0
        assert time.monotonic() - began < 3
        rows = worker.rows()
    assert bye["rows"] == len(rows) >= in_flight
    assert {row["error"] for row in rows} == {"cut_off"}


def stopped_early(worker):
    """What a worker says and has recorded that is told to stop in the middle of its load."""
    worker.hear("up")
    worker.start(ahead=0.0)
    worker.hear("stats")
    worker.say("stop")
    drained = worker.hear("drained")
    worker.say("quit")
    worker.hear("bye")
    return drained, phase(worker.rows(), "load")


def test_stop_ends_the_load_early_and_waits_for_what_is_in_flight(tmp_path):
    with running(tmp_path, duration_s=60.0) as worker:
        drained, rows = stopped_early(worker)
    assert len(rows) == drained["rows"]
    assert {row["outcome"] for row in rows} == {"ok"}


@pytest.mark.parametrize("cluster", ["c", "refusing"])
def test_users_who_never_think_leave_a_worker_its_turn(tmp_path, cluster):
    """Each asks again at once, and who is refused waits for nothing in between."""
    busy = {"rate_per_s": None, "users": 5, "think_s": 0.0, "stores": 1.0, "keys": 0}
    with running(tmp_path, cluster=cluster, duration_s=60.0, load=busy) as worker:
        drained, rows = stopped_early(worker)
    assert len(rows) == drained["rows"] == drained["requests"]
    assert {row["outcome"] for row in rows} == ({"ok"} if cluster == "c" else {"refused"})


def test_keys_that_nobody_takes_are_told(tmp_path):
    with running(tmp_path, cluster="refusing", load={"keys": 3}) as worker:
        worker.hear("up")
        worker.say("preload")
        assert worker.hear("preloaded") == {"event": "preloaded", "stored": 0, "failed": 3}


def test_rows_that_cannot_be_written_end_the_worker(tmp_path):
    # A limit on the size of files stands for the full disk: the write fails in the middle of the load either way.
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with running(tmp_path, duration_s=60.0, preexec=small_files) as worker:
        worker.hear("up")
        worker.start(ahead=0.0)
        told = worker.hear("error")
        assert worker.process.wait(5) == 1
        assert "load-0.arrow: operations can no longer be written" in told["message"]
        assert worker.rows()


def test_an_operations_file_that_exists_is_refused(tmp_path):
    (tmp_path / "load-0.arrow").write_bytes(b"precious")
    with running(tmp_path) as worker:
        assert "exists already; nothing was overwritten" in worker.hear("error")["message"]
        assert worker.process.wait(5) == 1
    assert (tmp_path / "load-0.arrow").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"load": {"users": 3}}, "exactly one of"),
        ({"client": "fake:Nobody"}, "client 'fake:Nobody'"),
        ({"wrong": 1}, "wrong"),
    ],
)
def test_a_wrong_configuration_is_told_without_a_traceback(tmp_path, changes, told):
    with running(tmp_path, **changes) as worker:
        assert told in worker.hear("error")["message"]
        assert worker.process.wait(5) == 2
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("command", "told"), [("readback", "not a command"), ("stop", "cannot be obeyed now"), ("jump", "jump")]
)
def test_a_command_out_of_turn_ends_the_worker(tmp_path, command, told):
    with running(tmp_path) as worker:
        worker.hear("up")
        worker.say(command)
        assert told in worker.hear("error")["message"]
        assert worker.process.wait(5) == 1


def test_a_worker_never_imports_pandas(tmp_path):
    # Arrow would do so at the first flush: half a second without a turn for anybody, in the middle of the load.
    code = (
        "import sys; from pathlib import Path; from loadtests.recorder import Operation, Recorder\n"
        "recorder = Recorder(Path(sys.argv[1])); recorder.start_clock(0.0)\n"
        "recorder.record(Operation('store', 'ab', 1.0, 1.0, 2.0, 'ok', '', 'n', 0, 0, 1, 'load', 'w', 1))\n"
        "recorder.close(); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.arrow")], check=True)
