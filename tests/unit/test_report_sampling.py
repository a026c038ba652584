"""What the sampler records of nodes is what reports read: counters, tables, and nodes that do not answer."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from harness.cluster import Pace, paced
from harness.records import NODES_STREAM, TABLES_STREAM
from harness.sampler import Sampler
from harness.targets import HasTable
from harness.targets.kademlia import KademliaHandle

IDS = {"node-0": "00", "node-1": "01", "node-2": "02"}


class Cluster:
    """Three nodes: the first knows the second and a stranger, the second nobody, the third does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.addresses = {name: SimpleNamespace(id=id_) for name, id_ in IDS.items()}

    def samples(self, pace: Pace) -> dict[str, dict[str, int] | None]:
        return {"node-0": {"table": 2}, "node-1": {"table": 0}, "node-2": None}

    def tables(self, pace: Pace) -> dict[str, set[str] | None]:
        self.asked.set()
        return {"node-0": {"01", "ff"}, "node-1": set(), "node-2": None}


def rows(path: Path) -> list[dict[str, Any]]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
        return list(stream.read_all().to_pylist())


def test_tables_and_counters_are_recorded_at_the_same_moments(tmp_path: Path) -> None:
    events: Any = SimpleNamespace(now=lambda: 1.5, emit=lambda *_, **__: None)
    cluster: Any = Cluster()
    sampler = Sampler(cluster, events, tmp_path / NODES_STREAM)
    sampler.start()
    assert cluster.asked.wait(30)
    sampler.close()  # lets it finish what it has begun
    contacts = {(row["t"], row["name"], row["contact"]) for row in rows(tmp_path / TABLES_STREAM)}
    assert contacts == {(1.5, "node-0", "node-1"), (1.5, "node-1", "")}
    assert {(row["name"], row["up"]) for row in rows(tmp_path / NODES_STREAM)} == {
        ("node-0", True),
        ("node-1", True),
        ("node-2", False),
    }


def test_members_are_asked_one_after_another_and_all_at_once_when_it_ends() -> None:
    waited: list[float] = []
    assert list(paced(["a", "b", "c", "d"], Pace(40.0, waited.append))) == ["a", "b", "c", "d"]
    assert [round(seconds) for seconds in waited] == [10, 20, 30]  # nobody really waited: as when all is to end
    assert list(paced([], Pace(40.0, waited.append))) == []


def test_the_kademlia_handle_can_tell_its_nodes_table() -> None:
    assert issubclass(KademliaHandle, HasTable)
