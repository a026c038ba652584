"""A fresh connection from the harness through one link, timed and counted: the way to see what pings between nodes hide.

Nodes pool their connections, so a ping cannot tell how a connection begins, ends, or is cut into pieces. Here a socket is
opened to a link's proxy, sends requests that the node at its other end answers with as many bytes, and is then closed for
writing; what comes back, in how many reads, and when the other end closes, is all that is noted.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Literal, Protocol

Ending = Literal["answered", "closed", "reset", "refused", "silent"]
RECEIVE = 65536  # bytes


class Dial(Protocol):
    """A way to an address: a connection to it within ``timeout`` seconds, as `socket.create_connection`. Raises OSError."""

    def __call__(self, address: tuple[str, int], timeout: float, /) -> socket.socket: ...


@dataclass(frozen=True)
class Transfer:
    """What one connection saw. Times in seconds.

    ``ending``: all answers came (`answered`), the other end closed or reset the connection before, it was not even
    opened (`refused`), or the time was up (`silent`). ``answered_s`` counts from the first byte sent to the last byte of
    the answers, or to what happened instead; ``closed_s`` from our half-close to the end of the stream (None: not seen).
    """

    ending: Ending
    answered_s: float
    received: int
    reads: int
    closed_s: float | None = None


def transfer(
    address: tuple[str, int],
    request: bytes,
    expected: int,
    *,
    timeout: float,
    dial: Dial = socket.create_connection,
) -> Transfer:
    """Send ``request``, read ``expected`` bytes, half-close, and wait for the end. Never raises for what the network does."""
    try:
        connection = dial(address, timeout)
    except TimeoutError:
        return Transfer("silent", timeout, 0, 0)
    except OSError:
        return Transfer("refused", 0.0, 0, 0)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _converse(connection, request, expected, timeout)


def _converse(connection: socket.socket, request: bytes, expected: int, timeout: float) -> Transfer:
    began = time.monotonic()
    received = reads = 0
    ending: Ending = "answered"
    try:
        connection.sendall(request)
        while received < expected:
            connection.settimeout(max(0.001, began + timeout - time.monotonic()))
            data = connection.recv(RECEIVE)
            if not data:
                ending = "closed"
                break
            received, reads = received + len(data), reads + 1
    except TimeoutError:
        ending = "silent"
    except OSError:
        ending = "reset"
    took = time.monotonic() - began
    closed = _closed_after(connection, timeout) if ending == "answered" else None
    return Transfer(ending, took, received, reads, closed)


def _closed_after(connection: socket.socket, timeout: float) -> float | None:
    began = time.monotonic()
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(timeout)
        while connection.recv(RECEIVE):
            pass
    except TimeoutError:
        return None
    except OSError:  # reset: closed all the same
        return time.monotonic() - began
    return time.monotonic() - began
