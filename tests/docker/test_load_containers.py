"""Locust's own master and workers in containers: the commands of docs/load.md, and rows that come back without loss."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.containers import engine as engines
from harness.containers import load_image
from harness.containers.engine import Engine
from node.client import Client

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

HOST, PORT, MASTER_PORT = "127.20.249.2", 21_500, 21_501
CLUSTER = "load-containers"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    found = engines.connect()
    yield found
    found.close()


@pytest.fixture
def node() -> Iterator[Client]:
    """A network of one node, outside of all containers."""
    command = [sys.executable, "-P", "-m", "node", "serve", "--host", HOST, "--port", str(PORT), "--cluster", CLUSTER]
    process = subprocess.Popen([*command, "--exit-with-parent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    json.loads(process.stdout.readline())
    client = Client(HOST, PORT, CLUSTER)
    yield client
    client.close()
    process.kill()
    process.communicate()


def test_a_master_and_two_workers_leave_the_rows_that_the_node_counted(
    engine: Engine, node: Client, tmp_path: Path
) -> None:
    import pyarrow as pa

    image = load_image.ensure(engine, lambda _: None)
    rows = tmp_path / "rows"
    rows.mkdir()
    common = ["-H", f"{HOST}:{PORT}", "--cluster-id", CLUSTER, "--rate", "60", "--keys", "10", "--load-workers", "2"]
    master = ["--master", "--master-bind-host", HOST, "--master-bind-port", str(MASTER_PORT), "--expect-workers", "2"]
    worker = ["--worker", "--master-host", HOST, "--master-port", str(MASTER_PORT), "--operations", "/rows"]
    command = ["docker", "run", "--rm", "--network", "host", "--user", "65532", "-v", f"{rows}:/rows", image]
    rows.chmod(0o777)
    started = [
        subprocess.Popen([*command, *role, *common], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for role in ([*master, "--headless", "-t", "5s"], worker, worker)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(said)
    tables = {}
    for path in rows.glob("*.arrow"):
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            tables[path.stem] = stream.read_all().to_pandas()
    assert set(tables) == {"load-0", "load-1"}
    counters = node.inspect(timeout=5).counters
    for kind, counted in (("store", "rpcs_in.Put"), ("lookup", "rpcs_in.Get")):
        assert sum((table["kind"] == kind).sum() for table in tables.values()) == counters[counted]
    assert sum((table["phase"] == "load").sum() for table in tables.values()) > 150
