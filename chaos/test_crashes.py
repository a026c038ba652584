"""Members that die, one by one and in waves, and come back with their data or with nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from harness.cluster import Cluster
from node.maintenance import Maintenance

pytestmark = pytest.mark.alone  # its verdict is judged by what it measures

KEYS = [f"key-{number}" for number in range(20)]


def stored(cluster: Cluster) -> None:
    for key in KEYS:
        assert cluster.store(key, key.encode(), via="node-0")


def missing(cluster: Cluster, via: str) -> list[str]:
    return [key for key in KEYS if cluster.lookup(key, via=via, timeout=20) != key.encode()]


def nearest(cluster: Cluster, key: str) -> list[str]:
    """Members by their distance to a key, the nearest first."""
    target = int.from_bytes(hashlib.sha1(key.encode(), usedforsecurity=False).digest(), "big")
    return sorted(cluster.present(), key=lambda name: int(cluster.addresses[name].id, 16) ^ target)


@pytest.mark.cluster(nodes=8, node={"k": 4})
def test_keys_survive_the_loss_of_two_nodes_that_come_back_empty(cluster: Cluster, inject: Callable[..., Any]) -> None:
    stored(cluster)
    with inject("kill", nodes=["node-3", "node-5"]):
        assert missing(cluster, "node-0") == []
    assert missing(cluster, "node-1") == []


@pytest.mark.cluster(nodes=10, node={"k": 5})
def test_keys_survive_waves_of_crashes(cluster: Cluster, inject: Callable[..., Any]) -> None:
    stored(cluster)
    for wave in (["node-2", "node-3"], ["node-4", "node-5"], ["node-6", "node-7"]):
        with inject("kill", nodes=wave, keep_data=True):
            assert missing(cluster, "node-1") == []
        cluster.wait_converged(within=30)
    assert missing(cluster, "node-9") == []


@pytest.mark.cluster(nodes=8, node={"k": 4})
def test_a_key_is_found_while_one_of_its_holders_is_left(cluster: Cluster, inject: Callable[..., Any]) -> None:
    cluster.store("precious", b"value", via="node-0")
    holders = nearest(cluster, "precious")[:4]
    with inject("kill", nodes=holders[:-1]):
        asker = next(name for name in cluster.present() if name not in holders)
        assert cluster.lookup("precious", via=asker, timeout=20) == b"value"


@pytest.mark.cluster(nodes=6, node={"k": 4})
@pytest.mark.parametrize("keep_data", [True, False], ids=["with data", "without data"])
def test_keys_survive_a_rolling_restart(cluster: Cluster, inject: Callable[..., Any], keep_data: bool) -> None:
    stored(cluster)
    for name in list(cluster.present()):
        with inject("restart", nodes=name, keep_data=keep_data):
            pass
        cluster.wait_converged(within=30)
    assert missing(cluster, "node-2") == []


@pytest.mark.cluster(nodes=6, node={"k": 6})
def test_a_node_keeps_its_data_over_a_restart(cluster: Cluster, inject: Callable[..., Any]) -> None:
    stored(cluster)
    with inject("restart", nodes="all", keep_data=True):  # nobody is left who could hand anything over
        pass
    cluster.wait_converged(within=30)
    assert missing(cluster, "node-2") == []


@pytest.mark.skipif(not hasattr(Maintenance, "leave"), reason="this node does not hand its records over")
@pytest.mark.cluster(nodes=8, node={"k": 3})
def test_those_who_leave_politely_hand_their_records_over(cluster: Cluster) -> None:
    cluster.store("precious", b"value", via="node-0")
    for holder in nearest(cluster, "precious")[:3]:  # one after the other, each to those that are left
        cluster.leave(holder)
    asker = nearest(cluster, "precious")[-1]
    assert cluster.lookup("precious", via=asker, timeout=20) == b"value"
