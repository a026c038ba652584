"""The dialing rule as arithmetic: no two listeners on one port, and dialing by offset comes out at the right proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PortsTaken
from harness.links import (
    DESCRIPTORS_PER_CONNECTION,
    FEWEST_CONNECTIONS,
    MOST_CONNECTIONS,
    Link,
    Topology,
    connections_per_node,
    descriptors_needed,
)
from harness.records import PlannedNode

HOST = "127.20.245.1"


def topology_of(sites: list[int], base_port: int = 10_000) -> Topology:
    nodes = [PlannedNode(f"node-{i}", f"{i:040x}", f"site-{site}") for i, site in enumerate(sites)]
    return Topology.build(nodes, host=HOST, base_port=base_port)


topologies = st.lists(st.integers(0, 5), min_size=1, max_size=12).map(topology_of)


@given(topologies)
def test_no_two_listeners_share_a_port_and_all_lie_in_the_block(topology: Topology) -> None:
    ports = [topology.port_of(name) for name in topology.names]
    ports += [topology.proxy_port(link) for link in topology.links]
    assert len(ports) == len(set(ports))
    assert min(ports) == topology.base_port
    assert max(ports) < topology.base_port + topology.port_count


@given(topologies)
def test_dialing_a_port_plus_the_own_sites_offset_comes_out_at_the_own_sites_proxy(topology: Topology) -> None:
    for link in topology.links:
        assert topology.port_of(link.node) + topology.offset_of(link.site) == topology.proxy_port(link)


@given(topologies)
def test_every_node_has_a_link_to_every_other_node_and_none_is_only_to_itself(topology: Topology) -> None:
    links = set(topology.links)
    for source in topology.names:
        for destination in topology.names:
            if source != destination:
                assert Link(topology.site_of(source), destination) in links
    assert not [link for link in links if topology.nodes_of(link.site) == (link.node,)]


@given(topologies)
def test_links_between_all_pairs_of_sites_are_all_links_once(topology: Topology) -> None:
    between = [link for here in topology.sites for there in topology.sites for link in topology.between(here, there)]
    assert sorted(between, key=lambda link: link.proxy) == sorted(topology.links, key=lambda link: link.proxy)


@given(topologies)
def test_proxy_names_are_unique(topology: Topology) -> None:
    assert len({link.proxy for link in topology.links}) == len(topology.links)


def test_names_sites_and_links_keep_the_order_of_the_plan() -> None:
    topology = topology_of([2, 0, 2, 1])
    assert topology.names == ("node-0", "node-1", "node-2", "node-3")
    assert topology.sites == ("site-2", "site-0", "site-1")
    assert topology.nodes_of("site-2") == ("node-0", "node-2")
    assert [link.proxy for link in topology.links][:4] == [
        "site-2->node-0",
        "site-2->node-1",
        "site-2->node-2",
        "site-2->node-3",
    ]


def test_ports_are_where_the_architecture_puts_them() -> None:
    topology = topology_of([0, 1, 2])
    assert [topology.port_of(name) for name in topology.names] == [10_000, 10_001, 10_002]
    assert [topology.offset_of(site) for site in topology.sites] == [3, 6, 9]
    assert topology.proxy_port(Link("site-1", "node-2")) == 10_008


def test_one_node_alone_has_no_links() -> None:
    assert topology_of([0]).links == ()


def test_fifty_sites_of_one_node_have_2450_links() -> None:
    assert len(topology_of(list(range(50))).links) == 2450


def test_a_block_that_ends_right_below_the_ephemeral_range_is_accepted() -> None:
    topology = topology_of([0, 1])
    topology.check_ports(ephemeral_from=topology.base_port + topology.port_count)


def test_a_block_that_reaches_into_the_ephemeral_range_is_refused_with_a_remedy() -> None:
    topology = topology_of([0, 1], base_port=32_763)
    with pytest.raises(
        PortsTaken, match=r"2 nodes in 2 sites need ports 32763 to 32768.*begin at 32768.*lower"
    ) as caught:
        topology.check_ports(ephemeral_from=32_768)
    assert "cluster.sites" in str(caught.value)


@given(nodes=st.integers(1, 2000), links=st.integers(0, 100_000), descriptors=st.integers(256, 2**20))
def test_nodes_keep_as_many_connections_as_toxiproxys_descriptors_allow(
    nodes: int, links: int, descriptors: int
) -> None:
    kept = connections_per_node(nodes, links, descriptors)
    assert FEWEST_CONNECTIONS <= kept <= MOST_CONNECTIONS
    needed = links + nodes * kept * DESCRIPTORS_PER_CONNECTION
    assert needed <= descriptors or kept == FEWEST_CONNECTIONS
    if kept < MOST_CONNECTIONS and kept > FEWEST_CONNECTIONS:
        assert needed + (nodes + 256) * DESCRIPTORS_PER_CONNECTION > descriptors, "a connection more would have fitted"


@given(
    nodes=st.integers(1, 2000), links=st.integers(0, 100_000), wanted=st.integers(FEWEST_CONNECTIONS, MOST_CONNECTIONS)
)
def test_the_descriptors_that_are_said_to_be_needed_are_enough_and_one_less_is_not(
    nodes: int, links: int, wanted: int
) -> None:
    needed = descriptors_needed(nodes, links, wanted)
    assert connections_per_node(nodes, links, needed) >= min(wanted, nodes)
    if FEWEST_CONNECTIONS < wanted <= nodes:
        assert connections_per_node(nodes, links, needed - 1) < wanted


def test_three_hundred_nodes_in_sixteen_sites_need_more_than_many_machines_allow() -> None:
    assert descriptors_needed(300, 16 * 300) == 4_800 + 2 * 300 * 64 + 256
    assert connections_per_node(300, 16 * 300, 20_000) == 24
