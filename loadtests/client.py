"""What a load client is, and the one for Kademlia. Other targets bring theirs and name it in the worker's configuration.

Under gevent's monkey-patching the blocking client of the node is cooperative: its waits are greenlets' waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from node.client import Client
from node.errors import ClientDisconnected, ClientRefused, ClientTimeout, NodeError


@dataclass(frozen=True)
class Answer:
    """What a gateway answered. ``value`` is None if a lookup found nothing, or for a store; -1 is unknown."""

    value: bytes | None = None
    version: int = -1
    hops: int = -1
    rpcs: int = -1
    acks: int = -1
    error: str = ""


class OperationFailed(Exception):
    """An operation without an answer. ``outcome`` and ``error`` are those of its row; all of them speak against the gateway."""

    def __init__(self, outcome: str, error: str) -> None:
        super().__init__(error)
        self.outcome, self.error = outcome, error


class LoadClient(Protocol):
    """A connection to one gateway, used by many greenlets at once. Methods raise OperationFailed."""

    def __init__(self, host: str, port: int, cluster: str) -> None: ...

    def store(self, key: bytes, value: bytes, version: int, timeout: float) -> Answer:
        """Store a value; the answer's ``acks`` counts the holders."""
        ...

    def lookup(self, key: bytes, timeout: float) -> Answer:
        """Look a key up."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class KademliaClient:
    """See `LoadClient`."""

    def __init__(self, host: str, port: int, cluster: str) -> None:
        self._client = Client(host, port, cluster)

    def store(self, key: bytes, value: bytes, version: int, timeout: float) -> Answer:
        """See `LoadClient.store`."""
        try:
            done = self._client.put(key, value, version=version, timeout=timeout)
        except NodeError as error:
            raise failure(error) from error
        return Answer(None, version, done.hops, done.rpcs, done.acks, done.error)

    def lookup(self, key: bytes, timeout: float) -> Answer:
        """See `LoadClient.lookup`."""
        try:
            done = self._client.get(key, timeout=timeout)
        except NodeError as error:
            raise failure(error) from error
        return Answer(done.value if done.found else None, done.version, done.hops, done.rpcs, error=done.error)

    def close(self) -> None:
        """See `LoadClient.close`."""
        self._client.close()


def failure(error: NodeError) -> OperationFailed:
    """The node's errors in the words of a row."""
    if isinstance(error, ClientTimeout):
        return OperationFailed("timeout", "timeout")
    if isinstance(error, ClientRefused):
        return OperationFailed("refused", "refused")
    if isinstance(error, ClientDisconnected):
        return OperationFailed("error", "connection_lost")
    return OperationFailed("error", f"protocol: {error}")
