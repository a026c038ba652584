"""A load worker on another machine: its clock, its configuration, and its rows."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound
from hypothesis import given
from hypothesis import strategies as st

from harness import load_page, loading
from harness.backends import Layout, Quarters
from harness.containers.engine import Engine
from harness.containers.load_abroad import ASKED, ROWS, Rows, Translator, put_config
from harness.errors import LoadFailed
from harness.links import Topology
from harness.loading import load_configs, worker_spawn
from harness.records import LOAD_LOGS_DIR, PlannedNode
from harness.targets import NodeAddress

UP = b'{"event":"up"}\n'


class Worker:
    """One that answers at once on its own clock, over a way that takes its time in each direction."""

    def __init__(self, ahead: float, ways: list[tuple[float, float]]) -> None:
        self.now, self.ahead, self.ways = 1000.0, ahead, iter(ways)
        self.translator = Translator(lambda: self.now)

    def say(self, line: bytes) -> list[bytes]:
        """What the driver hears of it."""
        heard = []
        to_driver, to_worker = self.translator.from_worker(line)
        while to_worker:
            assert json.loads(to_worker) == {"command": "time"}
            there, back = next(self.ways)
            self.now += there
            answer = json.dumps({"event": "time", "clock": self.now + self.ahead}).encode() + b"\n"
            self.now += back
            heard += [to_driver] if to_driver else []
            to_driver, to_worker = self.translator.from_worker(answer)
        return [*heard, to_driver]


WAYS = st.lists(st.tuples(st.floats(0.0001, 1), st.floats(0.0001, 1)), min_size=ASKED, max_size=ASKED)


@given(ahead=st.floats(-1e6, 1e6), ways=WAYS)
def test_the_start_is_put_on_the_workers_clock_to_half_of_the_shortest_way(
    ahead: float, ways: list[tuple[float, float]]
) -> None:
    worker = Worker(ahead, ways)
    assert worker.say(UP) == [UP]  # held back until its clock is known, and its answers kept from the driver
    told = json.loads(worker.translator.to_worker(b'{"command":"start","clock":5000.5}\n'))
    error = abs(told["clock"] - (5000.5 + ahead))
    assert error <= worker.translator.known[1] + 1e-6
    assert worker.translator.known[1] <= min(there + back for there, back in ways) / 2 + 1e-6


def test_the_clock_is_asked_for_again_before_the_load_starts() -> None:
    worker = Worker(50.0, [(0.01, 0.01)] * 2 * ASKED)
    worker.say(UP)
    worker.ahead = 51.0  # it has drifted
    worker.say(b'{"event":"preloaded","stored":1,"failed":0}\n')
    assert worker.translator.known[0] == pytest.approx(51.0)


@pytest.mark.parametrize("line", [b'{"event":"stats","t":1}\n', b"no event\n", b"[]\n", b'{"event":"error"}\n'])
def test_whatever_else_it_says_is_the_drivers(line: bytes) -> None:
    assert Translator().from_worker(line) == (line, b"")


@pytest.mark.parametrize("line", [b'{"command":"stop"}\n', b'{"command":"readback","gateways":["a"]}\n'])
def test_whatever_else_it_is_told_stays_as_it_is(line: bytes) -> None:
    assert json.loads(Translator().to_worker(line)) == json.loads(line)


class Api:
    """An engine that has one container with rows in it, of which a follower has seen some when it ends."""

    def __init__(self, rows: bytes, followed: bytes) -> None:
        self.rows, self.followed = rows, followed
        self.put: dict[str, bytes] = {}
        self.gone = False

    def put_archive(self, _: str, path: str, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for info in tar:
                content = tar.extractfile(info)
                self.put[f"{path}{info.name}"] = content.read() if content else b""

    def exec_create(self, *_: Any) -> dict[str, str]:
        return {"Id": "x"}

    def exec_start(self, *_: Any, **__: Any) -> socket.socket:
        reading, writing = socket.socketpair()

        def say() -> None:
            for part in (self.followed[:7], self.followed[7:]):
                writing.sendall(bytes([1, 0, 0, 0]) + len(part).to_bytes(4, "big") + part)
            writing.close()

        threading.Thread(target=say).start()
        return reading

    def get_archive(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        if self.gone:
            raise NotFound("gone")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("rows.arrow")
            info.size = len(self.rows)
            tar.addfile(info, io.BytesIO(self.rows))
        data = buffer.getvalue()
        return (data[at : at + 1000] for at in range(0, len(data), 1000)), {}


@pytest.mark.parametrize("followed", [0, 1, 30_000, 100_000])
def test_rows_that_were_not_followed_are_fetched_in_the_end_and_none_twice(tmp_path: Path, followed: int) -> None:
    content = os.urandom(100_000)
    rows = Rows(Engine(Api(content, content[:followed]), "", "", ""), "c", tmp_path / "rows.arrow")
    rows.follow()
    rows.follow()
    rows.fetch()
    assert (tmp_path / "rows.arrow").read_bytes() == content


def test_rows_of_a_container_that_is_gone_are_those_that_were_followed(tmp_path: Path) -> None:
    api = Api(b"", b"the first rows")
    api.gone = True
    rows = Rows(Engine(api, "", "", ""), "c", tmp_path / "rows.arrow")
    rows.follow()
    rows.fetch()
    assert (tmp_path / "rows.arrow").read_bytes() == b"the first rows"


def test_rows_never_replace_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.arrow").write_bytes(b"of another load")
    with pytest.raises(FileExistsError):
        Rows(Engine(Api(b"", b""), "", "", ""), "c", tmp_path / "rows.arrow").follow()
    assert (tmp_path / "rows.arrow").read_bytes() == b"of another load"


def test_a_worker_writes_its_rows_where_they_are_fetched(tmp_path: Path) -> None:
    api, config = Api(b"", b""), tmp_path / "load-0.json"
    config.write_text(json.dumps({"worker": "load-0", "operations": str(tmp_path / "load-0.arrow")}))
    put_config(Engine(api, "", "", ""), "c", config)
    assert json.loads(api.put["/kadstorm-load/config.json"]) == {"worker": "load-0", "operations": ROWS}


# --- where they are ----------------------------------------------------------------------------------------------------


def placed() -> tuple[Any, Any, Topology, Layout]:
    nodes = [PlannedNode(f"node-{n}", f"{n:040x}", f"site-{n}") for n in range(2)]
    load: Any = {"processes": 2, "rate_per_1000s": 1000, "keys": 1}
    cluster = {"nodes": 2, "target": "kademlia"}
    plan = SimpleNamespace(seed=1, experiment={"load": load, "cluster": cluster, "duration_us": 1})
    hosts = {"node-0": "10.192.0.16", "node-1": "10.192.0.17"}
    topology = Topology.build(nodes, host="127.20.248.1").placed(proxy_host="10.192.0.2", node_hosts=hosts)
    return plan, SimpleNamespace(cluster_id="c"), topology, Layout("container", "10.192.0.2", hosts)


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ({}, ["127.20.248.1", "127.20.248.1"]),
        ({"direct": True}, ["10.192.0.16", "10.192.0.17"]),
        ({"quarters": Quarters("n", "10.192.0.2:1", ("10.192.0.4",))}, ["10.192.0.16", "10.192.0.17"]),
    ],
)
def test_workers_that_reach_the_nodes_network_dial_them_at_their_own_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, Any], dialled: list[str]
) -> None:
    monkeypatch.setattr(loading, "worker_options", lambda _: {})
    plan, session, topology, layout = placed()
    layout = replace(layout, **given)
    configs = load_configs(plan, session, tmp_path, topology, layout)
    assert [[gateway["host"] for gateway in config["gateways"]] for config in configs] == [dialled] * 2


@pytest.mark.parametrize(("direct", "dialled"), [(True, "10.192.0.16"), (False, "127.20.248.1")])
def test_the_page_dials_nodes_where_their_addresses_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direct: bool, dialled: str
) -> None:
    monkeypatch.setattr(load_page, "worker_options", lambda _: {})
    monkeypatch.setattr(load_page, "shown_in_the_form", lambda _: [])
    plan, session, topology, layout = placed()
    (tmp_path / LOAD_LOGS_DIR).mkdir()
    layout = replace(layout, direct=direct)
    node = NodeAddress("node-0", "0", "10.192.0.16", 10_000, layout.client_host("node-0", "127.20.248.1"))
    page: Any = load_page.Page.__new__(load_page.Page)
    page._plan, page._run_dir, page._host, page._port = plan, tmp_path, "127.0.0.1", 1
    plan.experiment["load"]["processes"] = 1
    cluster: Any = SimpleNamespace(topology=topology, addresses={"node-0": node})
    command = page._command(session, tmp_path, 0.0, cluster)
    assert command[command.index("-H") + 1] == f"node-0={dialled}:10000"


def test_the_pages_clients_are_here_so_sites_are_refused_and_the_way_is_told() -> None:
    page: Any = load_page.Page.__new__(load_page.Page)
    page._plan = SimpleNamespace(experiment={"load": {"sites": ["site-0"]}})
    with pytest.raises(LoadFailed, match=r"`load.sites`: .* leave `sites` out"):
        page._allow_tunnel(print)
    told: list[str] = []
    page._plan = SimpleNamespace(experiment={"load": {}})
    page._allow_tunnel(told.append)
    assert "the tunnel" in told[0]


def test_more_workers_than_the_network_has_room_for_are_refused(tmp_path: Path) -> None:
    plan, session, _, layout = placed()
    object.__setattr__(layout, "quarters", Quarters("n", "10.192.0.2:1", ("10.192.0.4",)))
    with pytest.raises(LoadFailed, match=r"load.processes: 2 workers, and .* has room for 1 .* take fewer"):
        worker_spawn(plan, session, tmp_path, layout)
