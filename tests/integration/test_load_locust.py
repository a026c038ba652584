"""Plain ``locust -f loadtests/locustfile.py``: its own options, tags, shapes and --processes, and the same records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

pytestmark = pytest.mark.alone  # Locust's clock runs while it starts: on a busy machine it sends less

CLIENT = """
import time
from loadtests.client import LookedUp, Stored

KEPT = {}


class Fake:
    def __init__(self, host, port, cluster):
        self.cluster = cluster

    def store(self, key, value, *, version, timeout):
        time.sleep(0.002)
        KEPT[key] = LookedUp(True, value, version)
        return Stored(0 if self.cluster == "deaf" else 5)

    def lookup(self, key, *, timeout):
        time.sleep(0.002)
        return KEPT.get(key, LookedUp(False))

    def close(self):
        pass
"""


def locust(folder: Path, *arguments: object) -> tuple[int, str, pd.DataFrame]:
    """Run it headless; exit code, what it said, and all rows."""
    (folder / "fake.py").write_text(CLIENT)
    found = find_spec("loadtests.locustfile")
    assert found is not None
    command = [sys.executable, "-P", "-m", "locust", "-f", str(found.origin), "--headless", "--client", "fake:Fake"]
    command += ["-H", "node-0=127.0.0.1:1,node-1=127.0.0.1:2", "--operations", str(folder / "rows"), "--keys", "10"]
    done = subprocess.run(
        [*command, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
    )
    tables = []
    for path in sorted((folder / "rows").glob("*.arrow")):
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            tables.append(stream.read_all().to_pandas())
    return done.returncode, done.stdout + done.stderr, pd.concat(tables) if tables else pd.DataFrame()


def load(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["phase"] == "load"]


def test_the_open_model_leaves_the_rows_that_a_run_leaves(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "3s", "--arrivals", "constant", "--missing", 0.2)
    assert code == 0, said
    assert set(load(rows)["kind"]) == {"store", "lookup"}
    assert set(rows["outcome"]) == {"ok"}
    assert set(rows["gateway"]) == {"node-0", "node-1"}
    assert (rows["phase"] == "preload").sum() == 10
    gaps = load(rows)["intended"].sort_values().diff().dropna()
    assert gaps.max() < 0.0101  # every 10 ms, and not one left out
    assert len(gaps) > 150


def test_the_closed_model_has_as_many_users_as_were_asked_for(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "-u", 5, "-r", 5, "-t", "3s", "--think", 0.05)
    assert code == 0, said
    moments = load(rows)
    overlaps = [((moments["started"] <= at) & (moments["finished"] > at)).sum() for at in moments["started"]]
    assert 1 <= max(overlaps) <= 5


@pytest.mark.parametrize(
    ("tags", "kinds"), [(("-T", "lookup"), {"lookup"}), (("-E", "lookup"), {"store"}), (("-T", "store"), {"store"})]
)
def test_tags_choose_the_kinds_of_operations(tmp_path: Path, tags: tuple[str, ...], kinds: set[str]) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "2s", *tags)
    assert code == 0, said
    assert set(load(rows)["kind"]) == kinds


def test_processes_share_one_load_and_each_leaves_its_rows(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "--rate", 100, "-t", "4s", "--processes", 2, "--arrivals", "constant")
    assert code == 0, said
    assert set(load(rows)["worker"]) == {"load-0", "load-1"}
    counts = load(rows)["worker"].value_counts()
    assert abs(counts["load-0"] - counts["load-1"]) < 60


def test_a_shape_of_locusts_own_sets_the_users(tmp_path: Path) -> None:
    code, said, rows = locust(tmp_path, "-u", 1, "-t", "4s", "--think", 0.01, "--shape", "spike:to=10,at=1.5,lasts=1")
    assert code == 0, said
    told = re.findall(r"Shape test updating to (\d+) users", said)
    assert told == ["1", "10", "1"]
    assert len(load(rows)) > 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-T", "write"), "no tag write: there are store and lookup"),
        (("--shape", "ramp:to=5", "-t", "3s"), "--shape ramp takes to=…, over=…"),
        (("--shape", "hill", "-t", "3s"), "no shape 'hill'"),
        (("--stores", 3, "--rate", 5), "stores"),
        (("--attempts", 0, "--rate", 5), "attempts"),
        (("--load-config", "nothing.json"), "--load-config nothing.json: cannot be read"),
    ],
)
def test_wrong_options_end_it_with_exit_code_2(tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    code, said, rows = locust(tmp_path, *arguments)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
    assert rows.empty
