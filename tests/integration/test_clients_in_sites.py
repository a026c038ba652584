"""Clients in a site feel its links' faults, on every backend; clients beside their gateways do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

CUT_OFF = "site-0"  # where the clients are, with node-0 alone


def ran(folder: Path, backend: str, **load: Any) -> pd.DataFrame:
    """The operations of a run in which a partition isolates node-0 from 2 to 5 s."""
    experiment = {
        "name": "sites",
        "seed": 3,
        "cluster": {"nodes": 5, "backend": backend, "node": {"k": 3}},
        "load": {"rate": "60/s", "stores": "0%", "keys": 20, "timeout": "1s", **load},
        "duration": "10s",  # suspects are pinged up to 3 s apart, so that the table is whole again some 4 s after the end
        "settle": "2s",
        "timeline": [{"at": "2s", "for": "3s", "partition": {"shape": "isolate", "nodes": "node-0"}}],
    }
    path = folder / "sites.yaml"
    path.write_text(json.dumps(experiment))
    command = [sys.executable, "-P", "-m", "harness", "run", str(path), "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_parquet(folder / "run" / "operations.parquet")
    return rows[rows["phase"] == "load"]


def success(rows: pd.DataFrame, **of: str) -> float:
    for column, value in of.items():
        rows = rows[rows[column] == value]
    assert len(rows) > 5
    return float((rows["outcome"] == "ok").mean())


@pytest.mark.timeout(200)
@pytest.mark.parametrize("backend", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_partition_cuts_the_clients_of_a_site_off_from_the_gateways_of_others(tmp_path: Path, backend: str) -> None:
    rows = ran(tmp_path, backend, sites=[CUT_OFF])
    assert set(rows["site"]) == {CUT_OFF}
    healthy, cut = rows[rows["intended"] < 1.0], rows[rows["intended"].between(2.6, 4.0)]
    others = cut[cut["gateway"] != "node-0"]
    assert success(healthy) == 1.0
    assert set(healthy["gateway"]) == {f"node-{number}" for number in range(5)}
    assert len(others) > 0
    assert not (others["outcome"] == "ok").any()


@pytest.mark.timeout(200)
def test_clients_beside_their_gateways_reach_all_of_them_across_a_partition(tmp_path: Path) -> None:
    rows = ran(tmp_path, "process")
    cut = rows[rows["intended"].between(2.6, 4.0)]
    assert set(rows["site"]) == {""}
    assert success(cut[cut["gateway"] != "node-0"]) > 0.9
