"""The driver with real workers: phases, figures, and workers that die."""

import os
import signal
import subprocess
import threading
import time

import pytest

from harness.errors import LoadFailed
from harness.load import LoadDriver

CLIENT = """
import time
from loadtests.client import LookedUp, Stored

KEPT = {}


class Fake:
    def __init__(self, host, port, cluster):
        self.acks = 5 if cluster == "c" else 0

    def store(self, key, value, *, version, timeout):
        time.sleep(0.002)
        KEPT[key] = LookedUp(True, value, version)
        return Stored(self.acks)

    def lookup(self, key, *, timeout):
        time.sleep(0.002)
        return KEPT.get(key, LookedUp(False))

    def close(self):
        pass
"""


class Parts:
    """A driver over ``count`` workers, and what became of them."""

    def __init__(self, folder, count, **changes):
        (folder / "fake.py").write_text(CLIENT)
        self.folder, self.processes, self.exits = folder, {}, []
        self.path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        configs = [
            {
                "worker": f"load-{index}",
                "index": index,
                "workers": count,
                "seed": 3,
                "cluster": "c",
                "client": "fake:Fake",
                "gateways": [{"name": "node-0", "host": "127.0.0.1", "port": 1}],
                "load": {"rate_per_s": 200.0, "arrivals": "constant", "keys": 21, "write_acks": 3},
                "duration_s": 1.0,
                "operations": str(folder / "operations" / f"load-{index}.arrow"),
            }
            | changes
            for index in range(count)
        ]
        self.driver = LoadDriver(configs, spawn=self.spawn, folder=folder / "load", on_exit=self.exits.append)

    def spawn(self, argv, *, name, stdin, stdout, stderr):
        with stderr.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=log, env=os.environ | {"PYTHONPATH": self.path}
            )
        return self.processes[name]


@pytest.fixture
def parts(tmp_path):
    made = []

    def make(count=2, **changes):
        made.append(Parts(tmp_path, count, **changes))
        return made[-1]

    yield make
    for each in made:
        each.driver.close()
        assert all(process.returncode is not None for process in each.processes.values())
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("kadstorm-load")] == []


def loading(parts, **changes):
    made = parts(**changes)
    made.driver.launch()
    made.driver.wait_up()
    made.driver.preload()
    made.driver.start_clock(time.monotonic() + 0.1)
    return made


def test_all_phases_add_up_over_the_workers(parts):
    made = parts()
    driver = made.driver
    driver.launch()
    driver.wait_up()
    assert driver.preload().stored == 21
    assert driver.stats() is None
    driver.start_clock(time.monotonic() + 0.1)
    drained = driver.wait_drained(20)
    stats = driver.stats()
    read = driver.readback(["node-0"])
    rows = driver.quit()
    assert drained.rows == drained.requests == 200  # constant arrivals: both shares make up one load
    assert (read.lost, read.unreachable, read.wrong) == (0, 0, 0)
    assert rows == 21 + 200 + read.keys
    assert set(stats.kinds()) == {"lookup", "store"}
    assert made.exits == []


def test_a_worker_that_is_killed_is_told_and_nothing_hangs(parts):
    made = loading(parts)
    while made.driver.stats() is None or made.driver.stats().lookup.count == 0:
        time.sleep(0.02)
    made.processes["load-1"].send_signal(signal.SIGKILL)
    assert made.driver.wait_drained(20).rows == 100
    assert made.driver.readback(["node-0"]).lost == 0
    made.driver.quit()
    [gone] = made.exits
    assert made.driver.exits == (gone,)
    assert (gone.worker, gone.code) == ("load-1", -signal.SIGKILL)
    assert "load worker load-1 ended: killed by SIGKILL" in str(gone)
    assert "may be missing" in gone.missing
    assert "that were in flight" in gone.missing


def test_when_the_last_worker_is_killed_waits_raise_at_once(parts):
    made = loading(parts, count=1, duration_s=60.0)
    made.processes["load-0"].send_signal(signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LoadFailed, match="load-0 ended: killed by SIGKILL"):
        made.driver.wait_drained(60)
    assert time.monotonic() - began < 5


def test_a_worker_that_cannot_start_is_told_with_its_last_word_and_its_log(parts):
    made = parts(count=1, client="fake:Nobody")
    made.driver.launch()
    with pytest.raises(
        LoadFailed, match=r"(?s)load-0 ended: exit code 2; it said: client 'fake:Nobody'.*end of its log"
    ):
        made.driver.wait_up()


def test_a_preload_without_a_single_key_is_a_failure(parts):
    made = parts(cluster="takes nothing", load={"rate_per_s": 1.0, "keys": 2, "write_acks": 3})
    made.driver.launch()
    made.driver.wait_up()
    with pytest.raises(LoadFailed, match="none of 2 keys was acknowledged"):
        made.driver.preload()


def test_a_wait_that_takes_too_long_names_the_worker(parts):
    made = loading(parts, count=1, duration_s=60.0)
    with pytest.raises(LoadFailed, match=r"load workers without 'drained' after 0\.2 s: load-0"):
        made.driver.wait_drained(0.2)


def test_stop_ends_the_load_of_all_workers(parts):
    made = loading(parts, duration_s=60.0)
    made.driver.stop()
    made.driver.wait_drained(10)


def test_close_ends_workers_in_the_middle_of_the_load(parts):
    made = loading(parts, duration_s=60.0)
    began = time.monotonic()
    made.driver.close()
    assert time.monotonic() - began < 4
    assert [process.returncode for process in made.processes.values()] == [0, 0]
    assert made.exits == []


def test_close_ends_a_worker_that_does_not_listen(parts):
    made = loading(parts, count=1, duration_s=60.0)
    made.processes["load-0"].send_signal(signal.SIGSTOP)
    made.driver.close()
    assert made.processes["load-0"].returncode == -signal.SIGKILL
