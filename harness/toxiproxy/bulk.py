"""Many requests to one Toxiproxy at once: pipelined over a few keep-alive connections.

A partition of 50 nodes is 2,500 requests. One by one over one connection they take seconds, pipelined over four a
tenth of that (benchmarks/links.py). Requests on one proxy stay on one connection, in order; those on different
proxies have no order.
"""

from __future__ import annotations

import json
import socket
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httptools

from harness.errors import ToxiproxyFailed, ToxiproxySilent

CONNECTIONS = 4
WINDOW = 32  # requests on their way on one connection; their answers fit the socket's buffer: nobody waits in a circle
RECEIVE = 65536  # bytes
DEADLINE = 15.0  # s for all requests of one call; Toxiproxy itself gives up on a disable after 25 s


@dataclass(frozen=True)
class ApiRequest:
    """One call of Toxiproxy's API. ``proxy`` is the proxy that it concerns, which decides the connection."""

    method: str
    path: str
    body: Any = None
    proxy: str = ""

    def encode(self, host: str) -> bytes:
        """As HTTP/1.1."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@dataclass
class ApiResponse:
    """What came back for one request."""

    request: ApiRequest
    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status < 400

    def __str__(self) -> str:
        said = self.body[:300].decode(errors="replace").strip()
        return f"{self.request.method} {self.request.path}: HTTP {self.status} {said}"


@dataclass
class _Collector:
    """Receives what httptools parses, response by response."""

    done: list[tuple[int, bytes]] = field(default_factory=list)
    parser: Any = None
    _body: bytes = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.done.append((self.parser.get_status_code(), self._body))
        self._body = b""


class BulkWriter:
    """Sends requests to the Toxiproxy at ``host``:``port``. Each call opens its connections and closes them."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def send(self, requests: Sequence[ApiRequest], *, deadline: float = DEADLINE) -> list[ApiResponse]:
        """All answers, in the order of the requests.

        Raises:
            ToxiproxyFailed: the API cannot be reached or breaks off.
            ToxiproxySilent: it takes longer than ``deadline`` seconds. In both cases it is not known which of the
                requests have been carried out.
        """
        until = time.monotonic() + deadline
        shares: list[list[int]] = [[] for _ in range(CONNECTIONS)]
        for index, request in enumerate(requests):
            shares[zlib.crc32(request.proxy.encode()) % CONNECTIONS].append(index)
        used = [share for share in shares if share]
        answers: dict[int, ApiResponse] = {}
        with ThreadPoolExecutor(max(1, len(used))) as pool:
            for share, received in zip(
                used, pool.map(lambda share: self._pipeline([requests[i] for i in share], until), used), strict=True
            ):
                answers.update(zip(share, received, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _pipeline(self, requests: list[ApiRequest], until: float) -> list[ApiResponse]:
        collector = _Collector()
        collector.parser = httptools.HttpResponseParser(collector)
        try:
            with socket.create_connection(
                (self._host, self._port), timeout=max(0.01, until - time.monotonic())
            ) as sock:
                for start in range(0, len(requests), WINDOW):
                    window = requests[start : start + WINDOW]
                    sock.sendall(b"".join(request.encode(self._host) for request in window))
                    self._receive(sock, collector, start + len(window), until)
        except TimeoutError as error:
            raise ToxiproxySilent(
                f"Toxiproxy's API at {self._host}:{self._port} did not answer in time; "
                f"{len(requests) - len(collector.done)} requests are open, the first is "
                f"{requests[len(collector.done)].method} {requests[len(collector.done)].path}"
            ) from error
        except (OSError, httptools.HttpParserError) as error:
            raise ToxiproxyFailed(f"Toxiproxy's API at {self._host}:{self._port} failed: {error}") from error
        return [ApiResponse(request, *answer) for request, answer in zip(requests, collector.done, strict=True)]

    @staticmethod
    def _receive(sock: socket.socket, collector: _Collector, count: int, until: float) -> None:
        while len(collector.done) < count:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            data = sock.recv(RECEIVE)
            if not data:
                raise ConnectionError("the connection was closed in the middle of its answers")
            collector.parser.feed_data(data)
