"""Sites, links and the dialing rule. Pure.

A *site* is the unit of a link's source. For every (source site, destination node) there is one Toxiproxy proxy, so
that faults can tell A→B from B→A and from C→B. No node learns a map: a node of site s dials every other node at that
node's port plus the site's offset, and so comes out at its site's proxy for it.

With C nodes in the whole plan (joiners too) and the block of ports beginning at ``base``:

    node i listens at base + i; the proxy of site s for node i at base + (s + 1)·C + i; the offset of s is (s + 1)·C

The block lies below the ephemeral range: a listener that is closed and opened again (refuse) must find its port free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.errors import PortsTaken
from harness.records import PlannedNode

BASE_PORT = 10_000


FEWEST_CONNECTIONS, MOST_CONNECTIONS = 16, 64  # that a node keeps to others
DESCRIPTORS_PER_CONNECTION = 2  # in Toxiproxy: the caller's side and the destination's
SPARE_DESCRIPTORS = 256  # of Toxiproxy, for its API and for dials that overlap


def descriptors_needed(nodes: int, links: int, connections: int = MOST_CONNECTIONS) -> int:
    """File descriptors of Toxiproxy, the hungriest process, if each node keeps ``connections`` to others, or one to all."""
    return links + DESCRIPTORS_PER_CONNECTION * nodes * min(connections, nodes) + SPARE_DESCRIPTORS


def connections_per_node(nodes: int, links: int, descriptors: int) -> int:
    """How many connections each node may keep, so that Toxiproxy's ``descriptors`` are enough for all.

    A node that talks to more others than it has connections closes and dials them without end, which costs it and
    Toxiproxy more than all else (benchmarks/boot.py).
    """
    fit = (descriptors - links - SPARE_DESCRIPTORS) // (DESCRIPTORS_PER_CONNECTION * nodes)
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, fit))


@dataclass(frozen=True)
class Link:
    """All that nodes of one site send to one node. ``proxy`` is its name in Toxiproxy."""

    site: str
    node: str

    @property
    def proxy(self) -> str:
        return f"{self.site}->{self.node}"


@dataclass(frozen=True)
class Topology:
    """Which node is in which site, and where everything listens. Names are in the plan's order everywhere."""

    host: str
    base_port: int
    names: tuple[str, ...]
    sites: tuple[str, ...]
    membership: tuple[str, ...]  # the site of each node, in the order of ``names``
    proxy_host: str = ""  # where proxies listen, if that is not ``host``
    node_hosts: Mapping[str, str] = field(default_factory=dict)  # where nodes are for each other, if not at ``host``

    @classmethod
    def build(cls, nodes: Sequence[PlannedNode], *, host: str, base_port: int = BASE_PORT) -> Topology:
        """The topology of a plan's nodes."""
        return cls(
            host,
            base_port,
            tuple(node.name for node in nodes),
            tuple(dict.fromkeys(node.site for node in nodes)),
            tuple(node.site for node in nodes),
        )

    def placed(self, *, proxy_host: str, node_hosts: Mapping[str, str]) -> Topology:
        """The same, with nodes and proxies at addresses of their own; ``host`` is where clients reach the nodes."""
        return replace(self, proxy_host=proxy_host, node_hosts=node_hosts)

    def listen_address(self, link: Link) -> str:
        """Where a link's proxy listens, as HOST:PORT."""
        return f"{self.proxy_host or self.host}:{self.proxy_port(link)}"

    def upstream_address(self, link: Link) -> str:
        """Where a link leads, as HOST:PORT."""
        return f"{self.host_of(link.node)}:{self.port_of(link.node)}"

    def host_of(self, node: str) -> str:
        """A node's address as other nodes know it."""
        return self.node_hosts.get(node, self.host)

    def check_ports(self, *, ephemeral_from: int) -> None:
        """See that the block of ports ends below the ephemeral range.

        Raises:
            PortsTaken: it does not; the text says what would help.
        """
        end = self.base_port + self.port_count
        if end > ephemeral_from:
            raise PortsTaken(
                f"{len(self.names)} nodes in {len(self.sites)} sites need ports {self.base_port} to {end - 1}, and the "
                f"ephemeral ports of this machine begin at {ephemeral_from}: take fewer nodes or lower cluster.sites"
            )

    @property
    def port_count(self) -> int:
        """Ports of all nodes and proxies together."""
        return len(self.names) * (len(self.sites) + 1)

    def site_of(self, node: str) -> str:
        """The site of a node. Raises KeyError."""
        return self.membership[self._node_index[node]]

    def nodes_of(self, site: str) -> tuple[str, ...]:
        """The nodes of a site. Raises KeyError."""
        return self._by_site[site]

    def port_of(self, node: str) -> int:
        """Where a node listens."""
        return self.base_port + self._node_index[node]

    def offset_of(self, site: str) -> int:
        """What nodes of a site add to another node's port."""
        return (self._site_index[site] + 1) * len(self.names)

    def proxy_port(self, link: Link) -> int:
        """Where a link's proxy listens."""
        return self.port_of(link.node) + self.offset_of(link.site)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """All links but those of a node that is alone in its site to itself."""
        return tuple(Link(site, node) for site in self.sites for node in self.names if self.nodes_of(site) != (node,))

    def between(self, source: str, destination: str) -> Iterator[Link]:
        """The links on which nodes of site ``source`` dial those of site ``destination``."""
        for node in self.nodes_of(destination):
            if self.nodes_of(source) != (node,):
                yield Link(source, node)

    @cached_property
    def _node_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _site_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.sites)}

    @cached_property
    def _by_site(self) -> dict[str, tuple[str, ...]]:
        return {
            site: tuple(name for name, its in zip(self.names, self.membership, strict=True) if its == site)
            for site in self.sites
        }
