"""TCP under a node: all its connections, request ids, deadlines. Only this and `connections.py` know asyncio.

- Requests go out only over connections that this node has dialled itself, by its dialing rule; answers come back on the
  connection on which the request came. Many requests are in flight on one connection.
- There is one timer for all deadlines, set for the first of them, and no task or `wait_for` per request (a third of the
  rate, measured).
- A pool keeps POOL outgoing connections, least recently used out. One that turns out to be dead is dialled again once
  for the requests that waited on it (all are idempotent); one that is closed at once after dialling counts as refused:
  that is how a dead destination looks behind Toxiproxy.
- At most MOST_INCOMING connections are taken; one more costs those that are idle for longest their places, who never sent
  a whole frame first.
- A connection on which nothing happens, or whose frame does not come to its end, is closed. So is the one that holds most,
  once frames that are not whole and what is not taken fill MOST_HELD bytes.
- One node gets MOST_OF_ONE incoming connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from node.budget import Budget
from node.connections import Frames, Incoming, Outgoing, Pending
from node.deadlines import TICK, Deadlines
from node.environment import Done
from node.errors import ListenError, RpcDisconnected, RpcError, RpcRefused, RpcTimeout, WireError
from node.wire import (
    Answer,
    Body,
    Contact,
    Refusal,
    Request,
    Sender,
)

BACKLOG = 4096  # a frozen node must not block Toxiproxy's dial, which knows no time limit
# Outgoing connections. Less than three times k (20), and a store's burst closes connections that the next one dials again.
POOL = 64
MOST_INCOMING = 4096  # connections, or what the descriptors allow
CROWD = 32  # of them one is closed when there are too many
SPARE_DESCRIPTORS = 128  # for outgoing connections, files and the rest
CALLERS = (
    256  # addresses of which it is remembered whether they may connect: to parse one takes longer than all the rest
)
MOST_OF_ONE = 8  # incoming connections; one is usual, and a few more while old ones are not known to be dead
# Bytes in frames that are not whole and in writes that are not taken, of all connections together.
MOST_HELD = 128 * 2**20
# s without a frame; clients may be slower than nodes, which check contacts every minute
IDLE_OUT, IDLE_IN = 120.0, 600.0
TIDY = 5.0  # s between two looks for such connections
SWEEP = TICK  # s at least between two looks at the deadlines
STALL = 0.1  # s by which a look that is late is put off once more
LATE = 10.0  # s for which a timed-out request still takes its answer
DIAL_TIMEOUT = 2.0  # s
CLOSE_GRACE = 0.2  # s for answers on their way when the node leaves

COUNTED = ("bytes_in", "bytes_out", "malformed", "foreign", "uninvited", "crowded_out", "overfull", "closed_idle")

Handler = Callable[[Sender | None, Request, Callable[[Answer], None]], None]
Egress = tuple[str, int] | None


def _why(error: Exception) -> str:
    """What the system says of it, without what its library adds; resolvers have numbers of their own, below zero."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", "") or str(error)


class LoopClock:
    """See `environment.Clock`: the time of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def call_later(self, delay: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(delay, call)


def _refuse_all(sender: Sender | None, message: Request, reply: Callable[[Answer], None]) -> None:  # noqa: ARG001
    reply(Refusal("this node does not serve yet"))


def _most_incoming() -> int:
    """How many incoming connections the limit on descriptors leaves room for."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(MOST_INCOMING, descriptors - SPARE_DESCRIPTORS))


@dataclass
class TcpTransport:
    """See `environment.Transport`. ``sender`` is this node: it listens where it says that it does, or at ``listen_at``.

    ``egress`` is the dialing rule: (host, port offset), or None to dial contacts where they say that they are.
    ``admitted`` are the only networks from which connections are taken; none named is any.
    """

    sender: Sender
    cluster: str
    egress: Egress
    handler: Handler = _refuse_all
    admitted: tuple[IPv4Network | IPv6Network, ...] = ()
    listen_at: str = ""
    connections: int = POOL
    count: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.kinds_in: dict[type[Body], list[int]] = {}  # by kind: frames and bytes
        self.kinds_out: dict[type[Body], list[int]] = {}
        self.most_incoming = _most_incoming()
        self.rids = itertools.count(1)
        self.incoming: dict[Incoming, None] = {}
        self._callers: dict[str, bool] = {}  # whether connections are taken from there
        self._pool: dict[tuple[str, int], Outgoing] = {}  # least recently used first
        self._deadlines = Deadlines[Pending]()
        self._held = Budget[Frames](MOST_HELD)
        self._dials: set[asyncio.Task[None]] = set()
        self._unflushed: list[Frames] = []
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._tidier: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._put_off = False  # whether the last look at the deadlines was
        self._closed = False

    async def listen(self) -> None:
        """Begin to serve. Raises ListenError."""
        host, port = self.listen_at or self.sender.contact.host, self.sender.contact.port
        try:
            self._server = await self._serve_at(host, port)
        except (OSError, OverflowError, ValueError) as error:  # the last two: no address at all
            raise ListenError(f"cannot listen on {host}:{port}: {_why(error)}") from error
        self._tidier = self.loop.call_later(TIDY, self._tidy)

    async def _serve_at(self, host: str, port: int) -> asyncio.Server:
        """An address needs no resolver, for which uvloop starts four threads and Python loads a codec, in every node."""
        try:
            family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        except ValueError:
            family = socket.AF_UNSPEC
        if family == socket.AF_UNSPEC or "%" in host:  # a name, or an address of one interface, which is named
            return await self.loop.create_server(lambda: Incoming(self), host, port, backlog=BACKLOG)
        with contextlib.ExitStack() as opened:
            door = opened.enter_context(socket.create_server((host, port), family=family, backlog=BACKLOG))
            server = await self.loop.create_server(lambda: Incoming(self), sock=door, backlog=BACKLOG)
            opened.pop_all()  # it is the server's from now on
        return server

    async def close(self) -> None:
        """Stop serving and close every connection."""
        if self._server is not None:
            self._server.close()
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._tidier is not None:
            self._tidier.cancel()
        for task in self._dials:
            task.cancel()
        for connection in [*self._pool.values(), *self.incoming]:
            if connection.wire is not None:
                connection.flush()
                connection.wire.close()
        deadline = time.monotonic() + CLOSE_GRACE
        while self.incoming and time.monotonic() < deadline:
            await asyncio.sleep(0.01)  # the transports close as soon as what is written has left

    def counters(self) -> dict[str, int]:
        """See `Transport.counters`."""
        told = {**self.count, "connections_in": len(self.incoming), "connections_out": len(self._pool)}
        for way, kinds in (("in", self.kinds_in), ("out", self.kinds_out)):
            told |= {f"bytes_{way}.{kind.__name__}": size for kind, (_, size) in kinds.items()}
            told |= {f"frames_{way}.{kind.__name__}": frames for kind, (frames, _) in kinds.items()}
        return told

    @staticmethod
    def count_kind(kinds: dict[type[Body], list[int]], message: Body, size: int) -> None:
        """Count one frame."""
        kind = type(message)
        if kind in kinds:
            counts = kinds[kind]
            counts[0] += 1
            counts[1] += size
        else:
            kinds[kind] = [1, size]

    def flush_soon(self, connection: Frames) -> None:
        """Have `Frames.flush` called when all that has come by now has been dealt with."""
        if not self._unflushed:
            self.loop.call_soon(self._flush)
        self._unflushed.append(connection)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            connection.flush()

    def send(self, contact: Contact, message: Request, timeout: float, done: Done) -> None:
        """See `Transport.send`."""
        pending = Pending(contact, message, done)
        if self._closed:
            self.loop.call_soon(self._fail, pending, RpcRefused("this node has left", dead=False))
            return
        self._watch(time.monotonic() + timeout, pending)
        self.submit(self._connection_to(contact), pending)

    def admits(self, peer: tuple[str, int] | None) -> bool:
        """Whether somebody at that address may connect at all: nobody named means everybody."""
        if not self.admitted:
            return True
        if peer is None:
            return False
        host = peer[0]
        if host not in self._callers:
            if len(self._callers) >= CALLERS:
                self._callers.clear()
            self._callers[host] = any(ip_address(host) in network for network in self.admitted)
        return self._callers[host]

    def submit(self, connection: Outgoing, pending: Pending) -> None:
        """Send a request over a connection, or have it fail."""
        try:
            connection.submit(pending)
        except (RpcRefused, WireError) as error:
            refused = error if isinstance(error, RpcRefused) else RpcRefused(str(error), dead=False)
            self.loop.call_soon(self._fail, pending, refused)  # a caller is never called back before `send` returns

    # --- connections -----------------------------------------------------------------------------

    def _connection_to(self, contact: Contact) -> Outgoing:
        address = (contact.host, contact.port)
        connection = self._pool.pop(address, None)
        if connection is None:
            connection = Outgoing(self, address)
            self._dial(connection)
        self._pool[address] = connection
        if len(self._pool) > self.connections:
            self._trim(connection)
        return connection

    def make_room(self, newcomer: Incoming) -> None:
        """If there are too many incoming connections, close those of least use: a share at once, not to look for each.

        Where all are busy, it is the newcomer that has no place.
        """
        if len(self.incoming) <= self.most_incoming:
            return
        count = max(1, self.most_incoming // CROWD)
        idle = [each for each in self.incoming if each.idle() and each is not newcomer]
        for least in heapq.nsmallest(count, idle, key=lambda c: (c.frames > 0, c.used_at)) or [newcomer]:
            self.count["crowded_out"] += 1
            del self.incoming[least]
            least.abort()

    def hold_to_its_share(self, identifier: bytes) -> None:
        """Close the longest idle of one node's connections if it has too many."""
        its = [each for each in self.incoming if each.named == identifier]
        if len(its) > MOST_OF_ONE:
            self.count["crowded_out"] += 1
            min(its, key=lambda each: (not each.idle(), each.used_at)).abort()

    def note_held(self, connection: Frames, size: int) -> None:
        """Take down what a connection makes us hold, in bytes, and close whichever holds most if it is too much."""
        too_much = self._held.note(connection, size)
        if too_much is not None:
            self.count["overfull"] += 1
            too_much.abort()

    def _tidy(self) -> None:
        """Close what is idle or stuck."""
        self._tidier = self.loop.call_later(TIDY, self._tidy)
        now = self.loop.time()
        for incoming in [each for each in self.incoming if each.partial_since or now - each.used_at >= IDLE_IN]:
            if incoming.stuck(now) or (incoming.idle() and now - incoming.used_at >= IDLE_IN):
                self._close_idle(incoming)
        for outgoing in [each for each in self._pool.values() if each.partial_since or now - each.used_at >= IDLE_OUT]:
            if outgoing.stuck(now) or (outgoing.idle() and now - outgoing.used_at >= IDLE_OUT):
                self._close_idle(outgoing)
        self._trim()  # those that were too many, and busy, when they were dialled

    def _close_idle(self, connection: Frames) -> None:
        self.count["closed_idle"] += 1
        connection.abort()

    def _trim(self, chosen: Outgoing | None = None) -> None:
        """Close what the pool has too many of, least recently used first: nobody may wait for it, and never ``chosen``."""
        for address, connection in list(self._pool.items()):
            if len(self._pool) <= self.connections:
                return
            if connection is not chosen and connection.idle() and connection.wire is not None:
                del self._pool[address]
                connection.wire.close()

    def _dial(self, connection: Outgoing) -> None:
        task = self.loop.create_task(self._connect(connection))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, connection: Outgoing) -> None:
        host, port = connection.address
        if self.egress is not None:
            host, port = self.egress[0], port + self.egress[1]
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):  # `wait_for` would take a second task
                await self.loop.create_connection(lambda: connection, host, port)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:  # the middle two: no address at all
            self._forget(connection)
            waiting = [*connection.queue, *connection.waiting.values()]
            connection.queue, connection.waiting = [], {}
            for pending in waiting:
                refused = isinstance(error, ConnectionRefusedError | ConnectionResetError)
                self._fail(pending, RpcRefused(f"cannot dial {host}:{port}: {error}", dead=refused))

    def lost(self, connection: Outgoing) -> None:
        """A connection of ours has ended: what waited on it is sent once more, or has failed."""
        self._forget(connection)
        waiting, connection.waiting = connection.waiting, {}
        for pending in waiting.values():
            if pending.timed_out:
                continue
            if connection.met_nobody():
                self._fail(pending, RpcRefused("nobody is behind that address"))
            elif self._closed:
                self._fail(pending, RpcDisconnected("this node has left"))
            elif pending.redialled:
                self._fail(pending, RpcDisconnected("the connection was closed twice before the answer"))
            else:
                pending.redialled = True
                self.submit(self._connection_to(pending.contact), pending)

    def _forget(self, connection: Outgoing) -> None:
        if self._pool.get(connection.address) is connection:
            del self._pool[connection.address]

    # --- outcomes --------------------------------------------------------------------------------

    def settle(self, pending: Pending, answer: Answer, sender: Sender | None) -> None:
        """An answer came, in time or late."""
        pending.settled = True
        if isinstance(answer, Refusal):
            pending.done(answer.as_error(), pending.sent_at, sender)
        else:
            pending.done(answer, pending.sent_at, sender)

    def _fail(self, pending: Pending, error: RpcError) -> None:
        if not pending.timed_out:
            pending.settled = True
            pending.done(error, pending.sent_at, None)

    def _watch(self, deadline: float, pending: Pending) -> None:
        if self._deadlines.note(deadline, pending) and (self._sweeper is None or deadline < self._sweep_at):
            self._schedule_sweep()

    def _schedule_sweep(self) -> None:
        """Look again when the first deadline is over."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        first = self._deadlines.first()
        if first is not None and not self._closed:
            now = time.monotonic()
            self._sweep_at = max(now + SWEEP, first)
            self._sweeper = self.loop.call_later(self._sweep_at - now, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        if (
            now - self._sweep_at >= STALL and not self._put_off
        ):  # it is we who are late: answers may be waiting to be read
            self._put_off = True
            self._sweep_at = now + SWEEP
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)
            return
        self._put_off = False
        try:
            self._expire(now)
        finally:
            self._schedule_sweep()

    def _expire(self, now: float) -> None:
        for pending in self._deadlines.take(now):
            if pending.timed_out:  # and its late answer is not waited for any longer
                if pending.connection is not None:
                    pending.connection.waiting.pop(pending.rid, None)
                continue
            pending.timed_out = True
            self._watch(now + LATE, pending)
            pending.done(RpcTimeout("no answer in time"), pending.sent_at, None)
