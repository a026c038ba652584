"""A blocking client for one node: many requests in flight on one connection, from any number of threads.

Plain sockets and threads only. That makes it cooperative under gevent's monkey-patching, so that load generators use
the same client as tests and people do. There is one reader per connection; it pairs answers with their requests by
``rid``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TypeVar

from node.errors import ClientDisconnected, ClientProtocolError, ClientRefused, ClientTimeout, WireError
from node.wire import (
    Body,
    Contact,
    Envelope,
    FrameReader,
    Get,
    GetResult,
    Inspect,
    Inspection,
    Ping,
    PingReport,
    PingVia,
    Pong,
    Put,
    PutResult,
    Refusal,
    Request,
    decode,
    encode,
)

RECEIVE = 65536  # bytes a read
SEND_LIMIT = 5.0  # s; a frozen node whose buffers are full must not block its clients for ever
# s for a connection to be accepted, so that one lost request for it is made up for (TCP sends it again after 1 s). A port
# without a node refuses at once; a container that has ended is silent, since nobody answers for its address.
CONNECT_WITHIN = 1.2
ABANDONED = 1.0  # s after its time is up: a dial whose thread was interrupted has no end
ANSWER_SLACK = 1.0  # s on top of a ping's own timeout, for the answer that says that it timed out

A = TypeVar("A", bound=Body)


@dataclass
class _Pending:
    """A request that waits for its answer."""

    done: threading.Event = field(default_factory=threading.Event)
    answer: Body | None = None
    failure: Exception | None = None


class _Connection:
    """One connection and its reader. When it breaks, everything that waits on it fails, and it stays broken."""

    def __init__(self, sock: socket.socket, cluster: str) -> None:
        self._socket = sock
        self._cluster = cluster
        self._rids = itertools.count(1)
        self._waiting: dict[int, _Pending] = {}
        self._lock = threading.Lock()
        self.broken: Exception | None = None
        self._reader = threading.Thread(target=self._read, name="node-client", daemon=True)
        self._reader.start()

    def request(self, message: Request, timeout: float, spent: float = 0.0) -> Body:
        """Send and wait, of ``timeout`` seconds for what is not ``spent``.

        Raises ClientTimeout, ClientDisconnected or ClientProtocolError.
        """
        pending, rid = _Pending(), next(self._rids)
        frame = self._frame(rid, message)
        try:
            with self._lock:
                if self.broken is not None:
                    raise self.broken
                self._waiting[rid] = pending
                self._socket.sendall(frame)
            if not pending.done.wait(max(0.0, timeout - spent)):
                raise ClientTimeout(f"no answer within {timeout:g} s")
        except OSError as error:  # half a frame may have left: nothing more can be said on this connection
            self._fail(ClientDisconnected(f"the connection was lost: {error.strerror or error}"))
            self.hang_up()
            raise ClientDisconnected(f"the connection was lost: {error.strerror or error}") from error
        finally:
            self._waiting.pop(rid, None)
        if pending.failure is not None:
            raise pending.failure
        assert pending.answer is not None
        return pending.answer

    def _frame(self, rid: int, message: Request) -> bytes:
        try:
            return encode(Envelope(self._cluster, rid, None, message))
        except (WireError, OverflowError) as error:  # too long, or a number beyond 64 bits
            raise ClientProtocolError(f"cannot be sent: {error}") from error

    def close(self) -> None:
        """Break the connection and wait for its reader."""
        self.hang_up()
        if self._reader is not threading.current_thread():
            self._reader.join()

    def hang_up(self) -> None:
        """Break the connection; its reader ends by that."""
        with contextlib.suppress(OSError):  # not connected any more: the reader has noticed or is about to
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        reader, failure = FrameReader(), ClientDisconnected("the gateway closed the connection")
        try:
            while data := self._receive():
                for body in reader.feed(data):
                    self._deliver(decode(body, self._cluster))
        except OSError as error:
            failure = ClientDisconnected(f"the connection was lost: {error.strerror or error}")
        except WireError as error:
            self._fail(ClientProtocolError(str(error)))
        self._fail(failure)
        self._socket.close()

    def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(RECEIVE)
            except TimeoutError:  # the limit is for sending: an answer may take as long as its request allows
                continue

    def _deliver(self, envelope: Envelope) -> None:
        pending = self._waiting.pop(envelope.rid, None)
        if pending is not None:  # else it came after its deadline
            pending.answer = envelope.message
            pending.done.set()

    def _fail(self, failure: Exception) -> None:
        with self._lock:
            self.broken = self.broken or failure
            waiting, self._waiting = self._waiting, {}
        for pending in waiting.values():
            pending.failure = failure
            pending.done.set()


@dataclass
class _Dial:
    """An attempt to connect, of which all who need the connection wait for the end."""

    ends: float  # monotonic; it takes no longer
    over: threading.Event = field(default_factory=threading.Event)
    connection: _Connection | None = None
    failure: Exception | None = None  # neither, if nobody answered

    @property
    def lost_at(self) -> float:
        """From when on nobody waits for it any more."""
        return self.ends + ABANDONED

    def wait(self, until: float = math.inf) -> None:
        """Until it is over, or lost."""
        self.over.wait(max(0.0, min(until, self.lost_at) - time.monotonic()))


class Client:
    """Talks to one node. Connects when first used, and anew after a connection broke. Thread-safe.

    All methods raise a `ClientError`: ClientRefused if the node cannot be connected to (it has seen nothing of the request),
    ClientTimeout after ``timeout`` seconds without an answer, ClientDisconnected if the connection breaks meanwhile,
    ClientProtocolError for an answer that is not of this protocol and cluster, and for a request that does not fit into it.
    """

    def __init__(self, host: str, port: int, cluster: str) -> None:
        self._address = (host, port)
        self._cluster = cluster
        self._connection: _Connection | None = None
        self._dial: _Dial | None = None  # under way
        self._closings = 0
        self._lock = threading.Lock()

    def put(self, key: bytes, value: bytes, *, version: int = 0, ttl: float | None = None, timeout: float) -> PutResult:
        """Store ``value`` through this node. Of what is stored under a key, the greatest ``version`` is kept."""
        return self._ask(Put(key, value, version, ttl or 0.0), PutResult, timeout)

    def get(self, key: bytes, *, timeout: float) -> GetResult:
        """Look ``key`` up through this node."""
        return self._ask(Get(key), GetResult, timeout)

    def inspect(self, *, table: bool = False, records: bool = False, timeout: float) -> Inspection:
        """Counters and sizes; the routing table and the list of records if asked for."""
        return self._ask(Inspect(table, records), Inspection, timeout)

    def ping(self, *, timeout: float) -> Pong:
        """See whether the node answers."""
        return self._ask(Ping(), Pong, timeout)

    def ping_via(self, contact: Contact, nonce: bytes, *, timeout: float, padding: int = 0) -> PingReport:
        """Have this node ping ``contact``, waiting at most ``timeout`` seconds for the answer."""
        return self._ask(PingVia(contact, nonce, timeout, padding), PingReport, timeout + ANSWER_SLACK)

    def close(self) -> None:
        """Close the connection, and let go of those that wait for one; the next request opens a new one."""
        with self._lock:
            self._closings += 1
            dial = self._dial
        if dial is not None:
            dial.wait()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, message: Request, expected: type[A], timeout: float) -> A:
        began = time.monotonic()
        connection = self._connected(timeout)
        answer = connection.request(message, timeout, time.monotonic() - began)
        if isinstance(answer, expected):
            return answer
        said = answer.why if isinstance(answer, Refusal) else type(answer).__name__
        raise ClientProtocolError(f"expected {expected.__name__}, got: {said}")

    def _connected(self, timeout: float) -> _Connection:
        patience = max(0.0, min(timeout, CONNECT_WITHIN))
        until, closings = time.monotonic() + patience, self._closings
        while True:
            now = time.monotonic()
            with self._lock:
                if self._connection is not None and self._connection.broken is None:
                    return self._connection
                if self._closings > closings:
                    raise ClientDisconnected("the client was closed")
                if now >= until:
                    raise self._refused(f"nobody answered within {patience:g} s")
                under_way = self._dial_under_way(now)
                dial = self._dial = under_way or _Dial(until)
            if under_way is None:
                self._carry_out(dial)
            else:
                dial.wait(until)
            if dial.failure is not None:
                raise self._refused(getattr(dial.failure, "strerror", "") or str(dial.failure)) from dial.failure
            if dial.connection is not None:
                return dial.connection

    def _dial_under_way(self, now: float) -> _Dial | None:
        """The dial that somebody else carries out, unless it was lost."""
        return self._dial if self._dial is not None and now <= self._dial.lost_at else None

    def _carry_out(self, dial: _Dial) -> None:
        """Connect once. That nobody answers in time is no failure of those who have more time."""
        try:
            dial.connection = self._connect(max(0.001, dial.ends - time.monotonic()))
        except TimeoutError:
            pass
        except (OSError, ValueError, OverflowError) as error:  # the last two: no address at all
            dial.failure = error
        finally:
            with self._lock:
                if self._dial is dial:
                    self._connection, self._dial = dial.connection, None
                elif dial.connection is not None:  # another took its place, as that of one that was interrupted
                    dial.connection.hang_up()
            dial.over.set()

    def _connect(self, timeout: float) -> _Connection:
        sock = socket.create_connection(self._address, timeout)
        try:
            sock.settimeout(SEND_LIMIT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Connection(sock, self._cluster)
        except BaseException:
            sock.close()
            raise

    def _refused(self, why: str) -> ClientRefused:
        host, port = self._address
        return ClientRefused(f"cannot connect to {host}:{port}: {why}")
