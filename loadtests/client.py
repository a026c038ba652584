"""What a load worker needs of a target's client, and the one for Kademlia.

Another target brings its own: any class of this shape, named by the configuration as ``module:Class``. Workers run
under gevent's monkey-patching, so a client of plain blocking sockets is cooperative without knowing it. A worker holds
one client per gateway and has many operations in flight on it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from loadtests.errors import BadAnswer, ConnectionLost, NoAnswer, Refused
from node.client import Client
from node.errors import ClientDisconnected, ClientError, ClientRefused, ClientTimeout


class Stored(NamedTuple):
    """A gateway's answer to a store. ``hops`` and ``rpcs`` as the gateway counts them, -1 where unknown."""

    acks: int  # holders that acknowledged; the gateway counts once if it holds the record
    hops: int = -1
    rpcs: int = -1
    error: str = ""


class LookedUp(NamedTuple):
    """A gateway's answer to a lookup. A non-empty ``error`` says that the search itself failed."""

    found: bool
    value: bytes = b""
    version: int = -1
    hops: int = -1
    rpcs: int = -1
    error: str = ""


class LoadClient(Protocol):
    """One gateway, as a client sees it. Safe to use from many greenlets. Methods raise `ClientFailure` only."""

    def __init__(self, host: str, port: int, cluster: str) -> None: ...

    def store(self, key: bytes, value: bytes, *, version: int, timeout: float) -> Stored:
        """Store through this gateway; ``timeout`` in seconds."""
        ...

    def lookup(self, key: bytes, *, timeout: float) -> LookedUp:
        """Look up through this gateway; ``timeout`` in seconds."""
        ...

    def close(self) -> None:
        """Let the connection go; what waits on it fails."""
        ...


class KademliaClient:
    """`LoadClient` over `node.client`."""

    def __init__(self, host: str, port: int, cluster: str) -> None:
        self._client = Client(host, port, cluster)

    def store(self, key: bytes, value: bytes, *, version: int, timeout: float) -> Stored:
        """See `LoadClient.store`."""
        try:
            result = self._client.put(key, value, version=version, timeout=timeout)
        except ClientError as error:
            raise _translated(error) from error
        # Who keeps a newer record has had this one: a key's versions are one worker's, which overtakes itself at most.
        return Stored(result.acks + result.newer, result.hops, result.rpcs, result.error)

    def lookup(self, key: bytes, *, timeout: float) -> LookedUp:
        """See `LoadClient.lookup`."""
        try:
            result = self._client.get(key, timeout=timeout)
        except ClientError as error:
            raise _translated(error) from error
        return LookedUp(result.found, result.value, result.version, result.hops, result.rpcs, result.error)

    def close(self) -> None:
        """See `LoadClient.close`."""
        self._client.close()


def _translated(error: ClientError) -> NoAnswer | Refused | ConnectionLost | BadAnswer:
    """The node's error in loadtests' terms."""
    if isinstance(error, ClientTimeout):
        return NoAnswer("no_answer")
    if isinstance(error, ClientRefused):
        return Refused("connection_refused")  # whose it was is in the row: the gateway
    if isinstance(error, ClientDisconnected):
        return ConnectionLost("connection_lost")
    return BadAnswer(f"bad_answer: {error}")
