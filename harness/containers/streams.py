"""What containers say: one thread reads the output of all of them, and hears by its end that one has ended.

The engine sends both streams of a container over one connection, in frames: a byte for the stream (1 standard output, 2
standard error), three of nothing, four for the length (big-endian), then the bytes (Docker Engine API, "Attach to a container").
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

STDOUT = 1
HEAD = 8  # bytes
CHUNK = 65536


@dataclass
class _Stream:
    """One container's output: where it goes, and what of a frame has come so far."""

    source: Any  # holds the connection open; has a fileno
    log: IO[bytes]
    said: Callable[[bytes], None]
    ended: Callable[[], None]
    pending: bytes = b""


class Streams:
    """Standard output goes to a callback, standard error to a log, the end to another callback (on the reading thread)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._read_all, name="kadstorm-containers", daemon=True)
        self._thread.start()

    def add(self, source: Any, log: Path, said: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Read ``source`` from now on. Raises OSError if the log cannot be opened, or if nothing is read any more."""
        stream = _Stream(source, log.open("ab", buffering=0), said, ended)
        with self._lock:
            if self._closing:
                close_source(source)
                stream.log.close()
                raise OSError("its output is not read any more")
            self._selector.register(source.fileno(), selectors.EVENT_READ, stream)
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Read no further."""
        with self._lock:
            self._closing = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                close_source(key.data.source)
                key.data.log.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _read_all(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._read(key.data)

    def _read(self, stream: _Stream) -> None:
        try:
            chunk = stream.source.read(CHUNK) if _is_tls(stream.source) else os.read(stream.source.fileno(), CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""  # the engine has gone; what has become of the container is asked next
        if chunk:
            whole, stream.pending = frames(stream.pending + chunk)
            for which, body in whole:
                if which == STDOUT:
                    stream.said(body)
                else:
                    _write(stream.log, body)
            return
        with self._lock:
            self._selector.unregister(stream.source.fileno())
        close_source(stream.source)
        stream.log.close()
        stream.ended()


def frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames that ``data`` begins with, as (stream, bytes), and what is left."""
    whole, at = [], 0
    while len(data) >= at + HEAD:
        end = at + HEAD + int.from_bytes(data[at + 4 : at + HEAD], "big")
        if len(data) < end:
            break
        whole.append((data[at], data[at + HEAD : end]))
        at = end
    return whole, data[at:]


def heard(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Each whole frame that comes, as (stream, bytes), until the other end has closed. Raises OSError."""
    pending = b""
    while chunk := connection.recv(CHUNK):
        whole, pending = frames(pending + chunk)
        yield from whole


def _write(log: IO[bytes], body: bytes) -> None:
    try:
        log.write(body)
    except OSError:
        return  # a full disk: the journal, written to the same disk, tells it; the member is not to be lost for it


def connection_of(source: Any) -> socket.socket:
    """The socket of an attached container, for who writes to it as well. It waits as long as there is nothing to read."""
    connection: socket.socket = getattr(source, "_sock", source)
    connection.settimeout(None)  # the engine's client has set one, for answers
    return connection


def close_source(source: Any) -> None:
    """Close what the engine's client gave: a file over a socket, or with TLS a socket that its answer holds open."""
    holder = source._response if _is_tls(source) else getattr(source, "_sock", None)
    source.close()
    if holder is not None:
        holder.close()


def _is_tls(source: Any) -> bool:
    return hasattr(source, "cipher")
