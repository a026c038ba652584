"""One TCP connection of a node: cuts frames, decodes them, counts, and holds back whoever asks or sends too much.

- Who is slow to take our answers is not read from any more, so that it cannot fill our memory; and to whom is slow to
  answer no more than MOST_WAITING requests are sent.
- A connection with too many requests in work, or too many bytes of them, is not read from until some are answered.
- Connections take turns: one read may bring thousands of requests, of which AT_A_TURN are served before others have their
  turn. What waits counts as held, and nothing more is read until it has been dealt with.
- An incoming connection is of one node: whoever speaks for another one on it is closed.
- Frames of one turn of the event loop leave a connection together, AT_ONCE in a write: half of what an answer cost was its
  own system call, and were all of them held back, one end would sleep while the other works.
- Any frame that cannot be decoded closes its connection and is counted.

`transport.py` has all connections together.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import msgspec

from node.environment import Done
from node.errors import RpcRefused, WireError
from node.wire import (
    Answer,
    Contact,
    Envelope,
    ForeignClusterError,
    FrameReader,
    Refusal,
    Request,
    decode,
    encode,
)

if TYPE_CHECKING:
    from node.transport import TcpTransport

AT_ONCE = 16  # frames in a write; benchmarks/peers.py --only find-node: of 1, 4, 8, 16, 32 and all, this is the fastest
MUCH = 65536  # bytes that are written without waiting for more: then it is known whether the other side reads them
IN_WORK = 512  # requests of one connection that have no answer yet
IN_WORK_BYTES = 4 * 2**20  # of them; a value that is being stored lies in our memory once for each of its k holders
AT_A_TURN = 64  # requests of one connection; 256 KiB of them at once held the loop up for .2 s, times the connections
BODY_COST = 48  # bytes of memory that a body takes beside its own
FRAME_TIME = 30.0  # s from a frame's first byte to its last
MOST_WAITING = 1024  # requests on one connection
FRESH = 0.25  # s; closed without an answer before that age, a connection has met nobody


class Pending(msgspec.Struct, eq=False):
    """A request that has no answer yet."""

    contact: Contact
    message: Request
    done: Done
    connection: Outgoing | None = None
    rid: int = 0
    sent_at: float = 0.0
    redialled: bool = False
    timed_out: bool = False
    settled: bool = False


class Frames(asyncio.Protocol):
    """One connection, of either direction: cuts frames and counts."""

    answers = False  # whether what is written is others' to take: what we ask ourselves has a limit of its own

    def __init__(self, owner: TcpTransport) -> None:
        self._owner = owner
        self._reader = FrameReader()
        self.wire: asyncio.Transport | None = None
        self.used_at = owner.loop.time()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._held = 0  # reasons for which what comes has to wait
        self._undealt: list[bytes] = []  # bodies that do
        self._undealt_bytes = 0
        self.frames = 0
        self._choked = False  # whether the other side does not take what is written
        self._holds = 0  # bytes, as far as the budget knows
        self.partial_since = 0.0  # when the first bytes of a frame came that is not whole yet; 0: none are waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        self._owner.count["bytes_in"] += len(data)
        try:
            bodies = self._reader.feed(data)
        except WireError as error:
            self._malformed(error)
            return
        self.used_at = self._owner.loop.time()
        if not self._reader.waiting:
            self.partial_since = 0.0
        elif bodies or not self.partial_since:
            self.partial_since = self.used_at
        if self._holds or self._reader.waiting:
            self._tell_held()
        if self._held or self._undealt:
            self._put_by(bodies)
        else:
            self._deal(bodies)

    def _put_by(self, bodies: list[bytes]) -> None:
        """Keep what has to wait."""
        self._undealt += bodies
        self._undealt_bytes += sum(map(len, bodies)) + BODY_COST * len(bodies)
        self._tell_held()

    def _deal(self, bodies: list[bytes]) -> None:
        """Decode what has come and pass it on, until it has to wait: one read may bring more than may be in work."""
        owner = self._owner
        try:
            for number, body in enumerate(bodies):
                if number == AT_A_TURN:
                    self._give_way()
                if self._held:
                    self._put_by(bodies[number:])
                    return
                envelope = decode(body, owner.cluster)
                owner.count_kind(owner.kinds_in, envelope.message, len(body))
                self.frames += 1
                self.received(envelope, len(body))
        except WireError as error:
            self._malformed(error)

    def go_on(self) -> None:
        """Pass on what has waited."""
        if not self._held and self.wire is not None and not self.wire.is_closing():
            bodies, self._undealt, self._undealt_bytes = self._undealt, [], 0
            try:
                self._deal(bodies)
            except BaseException:
                self.abort()  # as the event loop does where this comes of reading; else nobody would ever read on
                raise
            if not self._undealt:
                self._tell_held()
                self._read_on()

    def _give_way(self) -> None:
        """Let others have their turn, if this connection is one that has to."""

    def _read_on(self) -> None:
        """Read again, if reading was paused and nothing has to wait any more."""

    def _malformed(self, error: WireError) -> None:
        self._owner.count["foreign" if isinstance(error, ForeignClusterError) else "malformed"] += 1
        self.abort()

    def send(self, envelope: Envelope) -> None:
        """Send it before the event loop waits again. Raises WireError if it is too long."""
        frame = encode(envelope)
        wire, owner = self.wire, self._owner
        if wire is not None and not wire.is_closing():
            owner.count["bytes_out"] += len(frame)
            owner.count_kind(owner.kinds_out, envelope.message, len(frame))
            if not self._unsent:
                owner.flush_soon(self)
            self._unsent.append(frame)
            self._unsent_bytes += len(frame)
            if len(self._unsent) == AT_ONCE or self._unsent_bytes >= MUCH:
                self.flush()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the other side does not read."""
        self._choked = True
        self._tell_held()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`: it reads again."""
        self._choked = False
        self._tell_held()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._tell_held()

    def _tell_held(self) -> None:
        """Have the budget know what this connection makes us hold."""
        holds = 0
        if self.wire is not None and not self.wire.is_closing():
            untaken = self.wire.get_write_buffer_size() if self._choked and self.answers else 0
            holds = self._reader.held + self._undealt_bytes + untaken
        if holds != self._holds:
            self._holds = holds
            self._owner.note_held(self, holds)

    def flush(self) -> None:
        """Write what `send` was given."""
        frames, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not frames or self.wire is None or self.wire.is_closing():
            return
        try:
            self.wire.write(frames[0] if len(frames) == 1 else b"".join(frames))
            if self._choked:
                self._tell_held()
        except RuntimeError:  # uvloop has closed it without a word, as it does when a dial is cut short
            self._owner.loop.call_soon(self.connection_lost, None)

    def abort(self) -> None:
        if self.wire is not None:
            self.wire.abort()

    def stuck(self, now: float) -> bool:
        """Whether a frame does not come to its end."""
        return bool(self.partial_since) and now - self.partial_since >= FRAME_TIME

    def received(self, envelope: Envelope, size: int) -> None:
        raise NotImplementedError


class Incoming(Frames):
    """A connection that others dialled: requests in, answers out. No reading while the other side does not read.

    `Outgoing` has no such rule: if both ends waited for each other to read, both would wait for ever.
    """

    answers = True

    def __init__(self, owner: TcpTransport) -> None:
        super().__init__(owner)
        self._in_work = self._in_work_bytes = 0
        self._full = False  # whether that is too much
        self.named = b""  # the identifier of the node that speaks on it; empty for clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner.incoming[self] = None
        if not self._owner.admits(transport.get_extra_info("peername")):
            self._owner.count["uninvited"] += 1
            self.abort()
            return
        self._owner.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.incoming.pop(self, None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._resume()

    def _pause(self) -> None:
        self._held += 1
        if self._held == 1 and self.wire is not None and not self.wire.is_closing():
            self.wire.pause_reading()

    def _resume(self) -> None:
        self._held -= 1
        if self._undealt:
            self._owner.loop.call_soon(self.go_on)
        else:
            self._read_on()

    def _read_on(self) -> None:
        if not self._held and self.wire is not None and not self.wire.is_closing():
            self.wire.resume_reading()

    def _give_way(self) -> None:
        self._pause()
        self._owner.loop.call_soon(self._resume)

    def idle(self) -> bool:
        """Whether no request of it is in work, or waits."""
        return not self._in_work and not self._undealt

    def received(self, envelope: Envelope, size: int) -> None:
        message, rid, sender = envelope.message, envelope.rid, envelope.sender
        if not isinstance(message, Request):
            raise WireError(f"a {type(message).__name__} is no request")
        if sender is not None and sender.contact.id != self.named:
            self._name(sender.contact.id)
        self._note_work(1, size)
        self._owner.handler(sender, message, lambda answer: self._answer(rid, size, answer))

    def _note_work(self, requests: int, size: int) -> None:
        """Take down what is in work, and read no more while that is too much."""
        self._in_work += requests
        self._in_work_bytes += size
        full = self._in_work >= IN_WORK or self._in_work_bytes >= IN_WORK_BYTES
        if full != self._full:
            self._full = full
            self._pause() if full else self._resume()

    def _name(self, identifier: bytes) -> None:
        if self.named:
            raise WireError("a connection is of one node, and another one speaks on it")
        self.named = identifier
        self._owner.hold_to_its_share(identifier)

    def _answer(self, rid: int, size: int, answer: Answer) -> None:
        owner = self._owner
        try:
            self.send(Envelope(owner.cluster, rid, owner.sender, answer))
        except WireError as error:
            self.send(Envelope(owner.cluster, rid, owner.sender, Refusal(str(error))))
        self._note_work(-1, -size)


class Outgoing(Frames):
    """A connection that we dialled: requests out, answers in."""

    def __init__(self, owner: TcpTransport, address: tuple[str, int]) -> None:
        super().__init__(owner)
        self.address = address
        self.waiting: dict[int, Pending] = {}
        self.queue: list[Pending] = []  # until it is connected
        self.stood_at = 0.0
        self.answered = False  # whether anything ever came back on it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.stood_at = self.used_at = self._owner.loop.time()
        queue, self.queue = self.queue, []
        for pending in queue:
            if not pending.timed_out:
                self._owner.submit(self, pending)

    def submit(self, pending: Pending) -> None:
        """Send now, or as soon as the connection stands. Raises RpcRefused if too many wait, WireError if too long."""
        if len(self.waiting) + len(self.queue) >= MOST_WAITING:
            raise RpcRefused(f"{MOST_WAITING} requests wait for its answers already", dead=False)
        if self.wire is None:
            self.queue.append(pending)
            return
        owner = self._owner
        rid = next(owner.rids)
        pending.connection, pending.rid, pending.sent_at = self, rid, time.monotonic()
        self.send(Envelope(owner.cluster, rid, owner.sender, pending.message))
        self.waiting[rid] = pending

    def idle(self) -> bool:
        """Whether nobody waits for anything on it; requests that have timed out do not count."""
        return not self.queue and all(pending.timed_out for pending in self.waiting.values())

    def received(self, envelope: Envelope, size: int) -> None:
        self.answered = True
        pending = self.waiting.pop(envelope.rid, None)
        if pending is None:
            return
        if not isinstance(envelope.message, Answer):
            raise WireError(f"a {type(envelope.message).__name__} is no answer")
        self._owner.settle(pending, envelope.message, envelope.sender)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.lost(self)

    def met_nobody(self) -> bool:
        """Whether it was closed at once after dialling."""
        return not self.answered and self._owner.loop.time() - self.stood_at < FRESH
