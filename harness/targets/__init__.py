"""What is tested: a target says how one kind of node is started, asked and watched. Kademlia is the first, not a special case.

One file each; found by the entry-point group ``kadstorm.targets``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Place = Literal["process", "container"]
PingOutcome = Literal["ok", "timeout", "refused", "disconnected", "unknown"]


@dataclass(frozen=True)
class NodeAddress:
    """A node as others know it. ``id`` is 40 hexadecimal digits. Clients dial ``client_host``, if that is another one."""

    name: str
    id: str
    host: str
    port: int
    client_host: str = ""

    @property
    def dial(self) -> tuple[str, int]:
        """Where clients outside of the cluster's network reach it."""
        return self.client_host or self.host, self.port


@dataclass(frozen=True)
class NodeSettings:
    """All that one node is started with."""

    address: NodeAddress
    cluster: str
    egress_offset: int | None  # the dialing rule: contact.port + this, on the session's address; None: dial directly
    bootstrap: tuple[NodeAddress, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # the experiment's `cluster.node`, resolved
    data_dir: str | None = None
    connections: int = 16  # to other nodes, that it may keep
    place: Place = "process"
    egress_host: str = ""  # where the dialing rule leads, if that is not the node's own host
    callers: tuple[str, ...] = ()  # the only networks from which it takes connections; () is any


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


@dataclass(frozen=True)
class Preload:
    """Code that all members of a cluster have in common, so that a backend may load it once for all of them.

    ``main`` is the path (`module:function`) of a function that takes command-line arguments and returns an exit code;
    ``modules`` are imported beside it if they are there.
    """

    main: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageRecipe:
    """What a container image of a target is built of.

    ``files`` is the build's context (path -> content) with its ``Dockerfile``, which takes the base as ``ARG BASE`` and has
    node/init.py, or a program that takes the same options, as its entry point. ``packages`` are the distributions of this
    environment that belong into a base made of it.
    """

    name: str
    files: Mapping[str, bytes]
    packages: tuple[str, ...] = ()


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


@runtime_checkable
class HasTable(Protocol):
    """What a handle may do besides: tell whom its node knows."""

    def table(self, *, timeout: float) -> set[str]:
        """The ids (40 hexadecimal digits) in the node's routing table. Raises as the others do."""
        ...


class Target(Protocol):
    """One kind of node."""

    load_client: str  # dotted path of the client that load workers use, as `module:Class`
    watches_parent: bool  # its command ends by itself when its parent dies
    preload: Preload | None  # what its nodes can be forked from; None: each is started by its command

    def command(self, settings: NodeSettings) -> tuple[str, ...]:
        """The command line of one node. It prints one line on standard output when it serves.

        In a container (``settings.place``) it is what the image's first process runs (docs/containers.md).
        """
        ...

    def image(self) -> ImageRecipe:
        """What its container image is built of. Raises UsageError if it has none."""
        ...

    def warm_arguments(self, settings: NodeSettings) -> tuple[str, ...]:
        """What the preloaded function is called with to be one node; it need not watch its parent. Unused without it."""
        ...

    def connect(self, address: NodeAddress, cluster: str) -> NodeHandle:
        """A handle on a node; nothing is sent yet."""
        ...

    def unready(
        self,
        nodes: Sequence[NodeAddress],
        handles: Mapping[str, NodeHandle],
        options: Mapping[str, Any],
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        """The nodes that do not know their true closest of ``nodes`` yet: name -> what is missing, for people.

        Only those ``among`` are asked, if it is given: each question costs a node that is busy joining some of its time.
        """
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
