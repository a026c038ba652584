"""What is tested: a target says how one kind of node is started, asked and watched. Kademlia is the first, not a special case.

One file each; found by the entry-point group ``kadstorm.targets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

PingOutcome = Literal["ok", "timeout", "refused", "disconnected", "unknown"]


@dataclass(frozen=True)
class NodeAddress:
    """A node as others know it. ``id`` is 40 hexadecimal digits."""

    name: str
    id: str
    host: str
    port: int


@dataclass(frozen=True)
class NodeSettings:
    """All that one node is started with."""

    address: NodeAddress
    cluster: str
    egress_offset: int | None  # the dialing rule: contact.port + this, on the session's address; None: dial directly
    bootstrap: tuple[NodeAddress, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # the experiment's `cluster.node`, resolved
    data_dir: str | None = None


@dataclass(frozen=True)
class Ping:
    """One ping from one node to another, as the two nodes saw it. Delays are one-way, in seconds.

    ``outcome`` is `unknown` if the asking node itself could not be reached. ``arrived`` says whether the destination
    received it; None if neither node could tell.
    """

    source: str
    destination: str
    outcome: PingOutcome
    forward_s: float | None = None
    backward_s: float | None = None
    arrived: bool | None = None


class NodeHandle(Protocol):
    """A connection to one node, for questions. Methods raise `TargetError` if the node does not answer in ``timeout`` s."""

    def sample(self, *, timeout: float) -> dict[str, int]:
        """Counters for `nodes.parquet`: those of records.NODE_COLUMNS but t, name and up."""
        ...

    def store(self, key: str, value: bytes, *, timeout: float) -> int:
        """Store a value through this node; how many holders acknowledged."""
        ...

    def lookup(self, key: str, *, timeout: float) -> bytes | None:
        """Look a key up through this node; None if nothing is there."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class Target(Protocol):
    """One kind of node."""

    load_client: str  # dotted path of the client that load workers use, as `module:Class`
    watches_parent: bool  # its command ends by itself when its parent dies

    def command(self, settings: NodeSettings) -> tuple[str, ...]:
        """The command line of one node. It prints one line on standard output when it serves."""
        ...

    def connect(self, address: NodeAddress, cluster: str) -> NodeHandle:
        """A handle on a node; nothing is sent yet."""
        ...

    def unready(
        self, nodes: Sequence[NodeAddress], handles: Mapping[str, NodeHandle], options: Mapping[str, Any]
    ) -> dict[str, str]:
        """The nodes that do not know their true closest nodes yet: name -> what is missing, for people."""
        ...

    def ping(
        self,
        source: NodeHandle,
        destination: NodeHandle,
        pair: tuple[NodeAddress, NodeAddress],
        *,
        timeout: float,
        padding: int = 0,
    ) -> Ping:
        """Have one node ping another over the network between them; never raises for what the network does.

        ``padding`` bytes travel with the ping, and come back with its answer (1 MiB at most).
        """
        ...

    def echo(self, cluster: str, size: int) -> tuple[bytes, int]:
        """A request of about ``size`` bytes, and how many bytes a node answers it with at least: about as many."""
        ...
