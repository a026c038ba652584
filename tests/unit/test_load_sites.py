"""Where clients in sites dial, and what they hear when that is out of reach."""

import socket
from dataclasses import replace

import pytest

from harness.errors import LoadFailed
from harness.links import Topology
from harness.loading import client_site, see_that_sites_are_in_reach
from harness.records import PlannedNode

NODES = [PlannedNode(f"node-{n}", f"{n:040x}", f"site-{n % 2}") for n in range(4)]
ELSEWHERE = "127.20.251.7"


def topology(proxy_host: str) -> Topology:
    with socket.create_server((ELSEWHERE, 0)) as free:
        port = free.getsockname()[1]
    built = Topology.build(NODES, host="127.20.251.6", base_port=port - 4)  # site-0's first proxy listens there
    return built.placed(proxy_host=proxy_host, node_hosts={})


def test_clients_dial_where_their_proxies_listen() -> None:
    site = client_site(topology(ELSEWHERE), "site-1")
    assert (site["host"], site["offset"], site["direct"]) == (ELSEWHERE, 8, [])


def test_proxies_out_of_reach_are_told_before_anything_starts() -> None:
    with pytest.raises(LoadFailed, match=rf"`load.sites`: .*{ELSEWHERE}:\d+ cannot be reached"):
        see_that_sites_are_in_reach(topology(ELSEWHERE), ["site-0"])


def test_proxies_in_reach_and_clients_without_sites_are_no_trouble() -> None:
    there = topology(ELSEWHERE)
    see_that_sites_are_in_reach(there, [])
    see_that_sites_are_in_reach(replace(there, proxy_host=there.host), ["site-0"])
    with socket.create_server((ELSEWHERE, there.base_port + 4)):
        see_that_sites_are_in_reach(there, ["site-0"])
