"""What a boot sees to beside starting things."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import pytest

from harness import boot
from harness.errors import HarnessError
from harness.links import Topology
from harness.records import PlannedNode
from harness.session import API_PORT

HOST, ELSEWHERE = "127.20.248.1", "127.20.248.2"
NODES = [PlannedNode(f"node-{i}", f"{i:040x}", f"site-{i}") for i in range(2)]
HOSTS: Mapping[str, str] = {"node-0": "127.20.248.3", "node-1": "127.20.248.4"}


def placed(proxy_host: str, nodes: list[PlannedNode] = NODES) -> Topology:
    return Topology.build(nodes, host=HOST).placed(proxy_host=proxy_host, node_hosts=HOSTS)


def test_a_toxiproxy_that_cannot_be_dialled_from_here_is_told_with_what_to_do() -> None:
    def unroutable(address: tuple[str, int], timeout: float, /) -> socket.socket:
        raise TimeoutError("timed out")

    with pytest.raises(HarnessError) as caught:
        boot.see_that_toxiproxy_is_in_reach(placed("10.192.0.3"), unroutable)
    for text in (f"10.192.0.3:{API_PORT}", "(timed out)", "firewall", "--backend process"):
        assert text in str(caught.value)


def test_a_toxiproxy_that_answers_or_refuses_is_in_reach() -> None:
    topology = placed(ELSEWHERE)
    with socket.create_server((ELSEWHERE, API_PORT)) as api:
        boot.see_that_toxiproxy_is_in_reach(topology)
        api.settimeout(10)
        api.accept()[0].close()
    boot.see_that_toxiproxy_is_in_reach(topology)


def test_a_toxiproxy_on_the_sessions_own_address_is_not_dialled() -> None:
    def dial(address: tuple[str, int], timeout: float, /) -> socket.socket:
        raise AssertionError(f"{address} was dialled")

    boot.see_that_toxiproxy_is_in_reach(placed(HOST), dial)
    boot.see_that_toxiproxy_is_in_reach(Topology.build(NODES, host=HOST), dial)
