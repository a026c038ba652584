"""The links of a cluster: nothing passes beside Toxiproxy, and a frozen node freezes nobody else."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from harness.boot import API_PORT
from harness.cluster import Cluster
from harness.effects import LinkEffect, MemberClaim
from harness.toxiproxy.control import ToxiproxyControl


def enabled_towards(cluster: Cluster, name: str) -> set[bool]:
    control = ToxiproxyControl(cluster.topology.host, API_PORT)
    states = control.states()
    control.close()
    inside = f"{cluster.topology.site_of(name)}->"  # a spare member that may join shares the site
    return {
        state["enabled"]
        for proxy, state in states.items()
        if proxy.endswith(f"->{name}") and not proxy.startswith(inside)
    }


@pytest.mark.cluster(nodes=6, node={"k": 6})
def test_no_node_holds_a_connection_to_another_node_that_does_not_pass_toxiproxy(cluster: Cluster) -> None:
    for number in range(20):
        cluster.store(f"key-{number}", b"value", via=f"node-{number % 6}")
    ports = {address.port: name for name, address in cluster.addresses.items()}
    host = cluster.topology.host
    connections = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr[0] == host]
    listening = {
        c.pid: ports[c.laddr[1]] for c in connections if c.status == psutil.CONN_LISTEN and c.laddr[1] in ports
    }
    assert sorted(listening.values()) == sorted(cluster.members.initial())
    dialled = [
        (listening[c.pid], c.raddr[1])
        for c in psutil.net_connections("tcp")
        if c.pid in listening and c.raddr and c.laddr[1] not in ports  # our own port is on those that others dialled
    ]
    assert dialled  # they do talk
    assert [(name, port) for name, port in dialled if port in ports] == []


@pytest.mark.cluster(nodes=6, node={"k": 6})
def test_a_paused_node_never_freezes_toxiproxys_api(cluster: Cluster) -> None:
    refusals = [LinkEffect(site, "site-3", "refuse") for site in cluster.topology.sites if site != "site-3"]
    cluster.enforce("frozen", [MemberClaim("node-3", "paused")])
    assert cluster.process_state("node-3") == "paused"
    began = time.monotonic()
    cluster.enforce("refused", refusals)
    assert enabled_towards(cluster, "node-3") == {True}  # a frozen node's proxies are never disabled, but swallow all
    assert cluster.disordered_links() == []
    cluster.release("refused")
    cluster.enforce("refused", refusals)
    cluster.release("frozen")  # the member comes back first; its links are then really refused
    assert cluster.disordered_links() == []
    assert enabled_towards(cluster, "node-3") == {False}
    assert time.monotonic() - began < 10  # Toxiproxy's own limit for a stuck proxy is 25 s
    pings = cluster.ping([("node-0", "node-3")], timeout=1.0)
    assert pings[0].outcome in ("refused", "disconnected")
    cluster.release("refused")
    assert cluster.ping([("node-0", "node-3")], timeout=2.0)[0].outcome == "ok"


@pytest.mark.cluster(nodes=6, node={"k": 6})
def test_faults_on_the_same_links_leave_in_any_order(cluster: Cluster) -> None:
    slow = [LinkEffect("site-0", "site-1", "latency", (("jitter", 0), ("latency", 60)))]
    slower = [LinkEffect("site-0", "site-1", "latency", (("jitter", 0), ("latency", 100)))]

    def delay() -> float:
        pings = [cluster.ping([("node-0", "node-1")], timeout=2.0)[0].forward_s for _ in range(3)]
        return min(value for value in pings if value is not None)

    cluster.enforce("a", slow)
    cluster.enforce("b", slower)
    assert delay() >= 0.155
    cluster.release("a")
    assert 0.095 <= delay() < 0.155
    cluster.release("b")
    assert delay() < 0.05
    assert cluster.disordered_links() == []


@pytest.mark.cluster(nodes=6, node={"k": 6})
def test_claims_on_the_same_member_leave_in_any_order(cluster: Cluster) -> None:
    cluster.enforce("pause", [MemberClaim("node-2", "paused")])
    cluster.enforce("kill", [MemberClaim("node-2", "dead")])
    assert cluster.process_state("node-2") == "dead"
    cluster.release("kill")
    assert cluster.process_state("node-2") == "paused"
    cluster.release("pause")
    assert cluster.process_state("node-2") == "running"


def test_an_effect_is_felt_in_the_direction_that_was_asked(cluster: Cluster, inject: Any) -> None:
    with inject("latency", latency="80ms", from_="node-0", to="node-1") as seen:
        assert seen[0].observed["least_ms"] >= 75
        back = cluster.ping([("node-1", "node-0")], timeout=2.0)[0]
        assert back.forward_s is not None
        assert back.forward_s < 0.06
