"""Plain ``locust -f loadtests/locustfile.py``: its own options, tags, shapes and --processes, and the same records."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from harness.load_page import free_port

pytestmark = pytest.mark.alone  # Locust's clock runs while it starts: on a busy machine it sends less

CLIENT = """
import time
from loadtests.client import LookedUp, Stored
from loadtests.errors import Refused

KEPT = {}


class Fake:
    def __init__(self, host, port, cluster):
        self.cluster = cluster

    def store(self, key, value, *, version, timeout):
        if self.cluster == "dead":
            raise Refused("connection_refused")
        time.sleep(9 if self.cluster == "slow" else 0.002)
        KEPT[key] = LookedUp(True, value, version)
        return Stored(0 if self.cluster == "deaf" else 5)

    def lookup(self, key, *, timeout):
        time.sleep(0.002)
        return KEPT.get(key, LookedUp(False))

    def close(self):
        pass
"""


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start it headless, with a client that needs no cluster, and a port of its own between master and workers."""
    (folder / "fake.py").write_text(CLIENT)
    found = find_spec("loadtests.locustfile")
    assert found is not None
    port = str(free_port("127.0.0.1"))
    command = [sys.executable, "-P", "-m", "locust", "-f", str(found.origin), "--headless", "--client", "fake:Fake"]
    command += ["-H", "node-0=127.0.0.1:1,node-1=127.0.0.1:2", "--operations", str(folder / "rows")]
    command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return subprocess.Popen(
        [*command, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
    )


def ended(folder: Path, process: subprocess.Popen[str]) -> tuple[int, str, pd.DataFrame]:
    """Its exit code, what it said, and all rows."""
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    tables = []
    for path in sorted((folder / "rows").glob("*.arrow")):
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            tables.append(stream.read_all().to_pandas())
    return process.returncode, said, pd.concat(tables) if tables else pd.DataFrame()


def locust(folder: Path, *arguments: object) -> tuple[int, str, pd.DataFrame]:
    """Run it to its end, with ten first keys."""
    keys = () if "--load-config" in arguments else ("--keys", 10)
    return ended(folder, start(folder, *keys, *arguments))


def went_well(code: int, said: str) -> bool:
    """Exit code 0; a machine that is busy with other things makes some operations late, which is told, and is no defect."""
    return code == 0 or (code == 4 and " ms late or more" in said and "were shed" not in said)


def moment_of(said: str, text: str) -> datetime:
    """When Locust logged a line with that text."""
    (line,) = (line for line in said.splitlines() if text in line)
    return datetime.strptime(line[1:24], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)


def load(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["phase"] == "load"]


def test_the_open_model_leaves_the_rows_that_a_run_leaves(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "3s", "--arrivals", "constant", "--missing", 0.2)
    assert went_well(code, said), said
    assert set(load(rows)["kind"]) == {"store", "lookup"}
    assert set(rows["outcome"]) == {"ok"}
    assert set(rows["gateway"]) == {"node-0", "node-1"}
    assert (rows["phase"] == "preload").sum() == 10
    gaps = load(rows)["intended"].sort_values().diff().dropna()
    assert gaps.max() < 0.0101  # every 10 ms, and not one left out
    assert len(gaps) > 200  # -t counts from the load's beginning, not from Locust's import
    began, ended_at = (moment_of(said, text) for text in ("Run time limit set", "--run-time limit reached"))
    assert (ended_at - began).total_seconds() > 2.8


def test_the_closed_model_has_as_many_users_as_were_asked_for(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "-u", 5, "-r", 5, "-t", "3s", "--think", 0.05)
    assert went_well(code, said), said
    moments = load(rows)
    overlaps = [((moments["started"] <= at) & (moments["finished"] > at)).sum() for at in moments["started"]]
    assert 1 <= max(overlaps) <= 5


@pytest.mark.parametrize(
    ("tags", "kinds"), [(("-T", "lookup"), {"lookup"}), (("-E", "lookup"), {"store"}), (("-T", "store"), {"store"})]
)
def test_tags_choose_the_kinds_of_operations(tmp_path: Path, tags: tuple[str, ...], kinds: set[str]) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "2s", *tags)
    assert went_well(code, said), said
    assert set(load(rows)["kind"]) == kinds


def test_processes_share_one_load_and_each_leaves_its_rows(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "4s", "--processes", 2, "--arrivals", "constant")
    assert went_well(code, said), said
    assert set(load(rows)["worker"]) == {"load-0", "load-1"}
    counts = load(rows)["worker"].value_counts()
    assert abs(counts["load-0"] - counts["load-1"]) < 60


def test_a_shape_of_locusts_own_sets_the_users(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "-u", 1, "-t", "4s", "--think", 0.01, "--shape", "spike:to=10,at=1.5,lasts=1")
    assert went_well(code, said), said
    told = re.findall(r"Shape test updating to (\d+) users", said)
    assert told == ["1", "10", "1"]
    assert len(load(rows)) > 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-T", "write"), "no tag write: there are store and lookup"),
        (("--shape", "ramp:to=5", "-t", "3s"), "--shape ramp takes to=…, over=…"),
        (("--shape", "hill", "-t", "3s"), "no shape 'hill'"),
        (("--shape", "step:by=1,every=0.00001", "-t", "3s"), "--shape step:by=1,every=0.00001: "),
        (("--stores", 3, "--rate", 5), "stores"),
        (("--attempts", 0, "--rate", 5), "attempts"),
        (("--load-config", "nothing.json"), "--load-config nothing.json: cannot be read"),
        (("--load-config", "load.json", "--stores", 0.2), "--stores and --load-config exclude each other"),
        (("-u", 3, "--rate", 5), "-u and --rate exclude each other"),
        (("-u", 3, "--arrivals", "constant"), "-u and --arrivals exclude each other"),
        (("--arrivals", "poisson"), "--arrivals says when operations of the open model come: it needs --rate"),
        (("--think", 0.1, "--rate", 5), "--think and --rate exclude each other"),
    ],
)
def test_wrong_options_end_it_with_exit_code_2(tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    code, said, rows = locust(tmp_path, *arguments)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
    assert rows.empty


def test_a_curve_is_followed_by_workers_who_know_no_run_time(tmp_path: Path) -> None:
    """Locust takes -t away from its workers; the curve's points come to them with the master's options."""
    code, said, rows = locust(
        tmp_path, "--processes", 2, "--rate", 20, "-t", "5s", "--arrivals", "constant", "--shape", "ramp:to=200,over=4"
    )
    assert went_well(code, said), said
    moments = load(rows)
    assert set(moments["worker"]) == {"load-0", "load-1"}
    early, late = (moments["intended"].between(*span).sum() for span in ((0, 1), (2, 3)))
    assert 20 < early < 80 < late


def test_a_shape_of_users_is_the_masters_and_its_workers_take_part(tmp_path: Path) -> None:
    code, said, rows = locust(
        tmp_path, "--processes", 2, "-u", 2, "-t", "4s", "--think", 0.02, "--shape", "ramp:to=6,over=2"
    )
    assert went_well(code, said), said
    assert "Shape test updating to 6 users" in said
    assert set(load(rows)["worker"]) == {"load-0", "load-1"}


@pytest.mark.parametrize("processes", [(), ("--processes", 2)])
def test_a_cluster_that_is_not_there_is_exit_code_3(tmp_path: Path, processes: tuple[object, ...]) -> None:
    code, said, rows = locust(tmp_path, "--cluster-id", "dead", "--rate", 20, "-t", "30s", *processes)
    assert code == 3, said
    assert "first keys was acknowledged (mostly: refused, connection_refused, by node-" in said
    assert rows.empty or load(rows).empty


def test_a_dead_port_is_exit_code_3(tmp_path: Path) -> None:
    own = ("--client", "loadtests.client:KademliaClient", "-H", f"127.0.0.1:{free_port('127.0.0.1')}")
    code, said, _ = locust(tmp_path, "--rate", 20, "-t", "30s", *own)
    assert code == 3, said
    assert "is there a cluster of the name 'kademlia'" in said


def test_shed_operations_are_told_and_are_exit_code_4(tmp_path: Path) -> None:
    options = ("--rate", 50, "-t", "2s", "--stores", 1, "--max-in-flight", 1, "--keys", 0, "--cluster-id", "slow")
    code, said, rows = ended(tmp_path, start(tmp_path, *options))
    assert code == 4, said
    assert "the load was not delivered" in said
    assert (load(rows)["error"] == "shed").sum() > 10


@pytest.mark.timeout(120)
def test_ctrl_c_ends_master_and_workers_together_and_loses_none(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches all of them at once, so that workers leave before their master has asked them to."""
    process = start(tmp_path, "--keys", 10, "--processes", 2, "--rate", 100, "-t", "60s", "--read-back")
    await_rows(process, *(tmp_path / "rows" / f"load-{index}.arrow" for index in range(2)))
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
        each.send_signal(signal.SIGINT)
    code, said, rows = ended(tmp_path, process)
    assert "is lost" not in said, said
    assert went_well(code, said), said
    assert set(rows["worker"]) == {"load-0", "load-1"}
    assert set(rows["phase"]) == {"preload", "load", "readback"}


def test_a_worker_that_is_killed_is_named_and_is_exit_code_3(tmp_path: Path) -> None:
    process = start(tmp_path, "--keys", 10, "--rate", 100, "-t", "12s", "--processes", 2)
    path = tmp_path / "rows" / "load-1.arrow"
    await_rows(process, path)
    victim = next(child for child in psutil.Process(process.pid).children() if has_open(child, path))
    os.kill(victim.pid, signal.SIGKILL)
    code, said, rows = ended(tmp_path, process)
    assert code == 3, said
    assert re.search(r"load-1: worker \S+ \(index 1\) is lost: .*; it last told of \d+ operations", said)
    assert set(load(rows)["worker"]) == {"load-0", "load-1"}


def await_rows(process: subprocess.Popen[str], *paths: Path) -> None:
    """Wait until each of these files holds some rows of the load."""
    while not all(path.exists() and path.stat().st_size > 20_000 for path in paths):
        assert process.poll() is None
        time.sleep(0.05)


def has_open(process: psutil.Process, path: Path) -> bool:
    return any(Path(file.path) == path for file in process.open_files())


def test_a_workers_full_disk_is_the_masters_exit_code(tmp_path: Path) -> None:
    """A file that exists is never overwritten: that is the shortest way to a worker that cannot record."""
    (tmp_path / "rows").mkdir()
    path = tmp_path / "rows" / "load-1.arrow"
    path.touch()
    process = start(tmp_path, "--keys", 10, "--rate", 20, "-t", "30s", "--processes", 2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "load-1.arrow: exists already" in said


@pytest.mark.parametrize("processes", [(), ("--processes", 2)])
def test_keys_are_read_back_once_in_the_end_into_the_file_of_their_test(
    tmp_path: Path, processes: tuple[object, ...]
) -> None:
    code, said, rows = locust(tmp_path, "--rate", 50, "-t", "3s", "--read-back", *processes)
    assert went_well(code, said), said
    stored = rows[(rows["kind"] == "store") & (rows["outcome"] == "ok")]
    read = rows[rows["phase"] == "readback"]
    assert sorted(read["key"]) == sorted(stored["key"])
    assert set(read["outcome"]) == {"ok"}
    assert set(read["worker"]) == set(load(rows)["worker"])
    assert read["started"].min() > load(rows)["finished"].max() or processes
