"""Many TCP connections over one pair of byte streams: what both ends of a tunnel run.

    listener or dialer here ── channels ══ one stream each way ══ channels ── connections to containers

The near end opens channels; the far end dials for them. A frame is a channel (4 bytes), a kind (1), a length (4, big-endian), and
so many bytes:

    open HOST:PORT   begin a channel              data BYTES   at most CHUNK, and within the credit that the receiver gave
    opened           the connection stands        credit N     so many more bytes may be sent
    refused REASON   it does not                  end          no more data from here (a half-close)
                                                  reset        the channel is over, whatever was on its way

Credit is per channel, so a reader that takes nothing holds up its own connection alone, and no end holds more than WINDOW bytes
of one. Whoever receives what the other may not send knows that the stream is garbled, and ends all of it.

This file runs at the far end as well, handed over as text to a bare interpreter: it imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

HEAD: Final = struct.Struct(">IBI")
OPEN, OPENED, REFUSED, DATA, CREDIT, END, RESET = range(7)
LONGEST: Final = {OPEN: 300, OPENED: 0, REFUSED: 1000, DATA: 65536, CREDIT: 4, END: 0, RESET: 0}  # bytes, by kind
CHUNK: Final = LONGEST[DATA]
WINDOW: Final = 262_144  # bytes that may be on their way in one channel and direction
GIVE_BACK: Final = WINDOW // 4  # bytes consumed after which credit is given back

Event = tuple[int, int, bytes]  # channel, kind, body


class Garbled(Exception):
    """The other end sent what it may not: nothing that comes after it can be understood."""


@dataclass
class Channel:
    """One connection's state at this end."""

    credit: int = WINDOW  # bytes that we may send
    allowed: int = WINDOW  # bytes that the other end may send
    consumed: int = 0  # of those that came, not given back yet
    pending: bytearray = field(default_factory=bytearray)  # what waits for credit
    ending: bool = False  # no more will be written here
    ended: bool = False  # and that has been sent
    heard_end: bool = False


class Channels:
    """One end's channels, without any I/O: calls and `receive` produce bytes to be sent, which `take` hands over."""

    def __init__(self, *, serves: bool) -> None:
        """``serves``: whether this end dials for the other, which opens channels."""
        self._serves = serves
        self._channels: dict[int, Channel] = {}
        self._last = 0  # the latest channel that was ever opened
        self._received = bytearray()
        self._out: list[bytes] = []

    def __contains__(self, number: int) -> bool:
        return number in self._channels

    def take(self) -> bytes:
        """What is to be sent now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    # --- what this end does ------------------------------------------------------------------------

    def open(self, host: str, port: int) -> int:
        """Begin a channel to an address at the far end; its number."""
        self._last += 1
        self._channels[self._last] = Channel()
        self._send(self._last, OPEN, f"{host}:{port}".encode())
        return self._last

    def opened(self, number: int) -> None:
        """The connection that was asked for stands."""
        if number in self._channels:
            self._send(number, OPENED)

    def refused(self, number: int, why: str) -> None:
        """It does not; the channel is over."""
        if self._channels.pop(number, None):
            self._send(number, REFUSED, why.encode()[: LONGEST[REFUSED]])

    def write(self, number: int, data: bytes) -> bool:
        """Send, or keep until there is credit; whether more may be written without a pause."""
        channel = self._channels.get(number)
        if channel is None:
            return True  # it is over: what is written to it is lost, as in a connection that was reset
        channel.pending += data
        self._send_pending(number, channel)
        return not channel.pending

    def end(self, number: int) -> None:
        """No more will be written here. What waits for credit is sent before the end is."""
        channel = self._channels.get(number)
        if channel is not None:
            channel.ending = True
            self._send_pending(number, channel)

    def reset(self, number: int) -> None:
        """The channel is over; harmless if it is already."""
        if self._channels.pop(number, None):
            self._send(number, RESET)

    def consume(self, number: int, count: int) -> None:
        """So many bytes that came have found their reader: the other end may send as many more."""
        channel = self._channels.get(number)
        if channel is None or channel.heard_end:
            return
        channel.consumed += count
        if channel.consumed >= GIVE_BACK:
            channel.allowed += channel.consumed
            self._send(number, CREDIT, channel.consumed.to_bytes(4, "big"))
            channel.consumed = 0

    # --- what it hears -----------------------------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Event]:
        """What of ``data`` concerns connections, in order. A CREDIT among it says that the channel may be written to again.

        To be used up: what has been taken note of is what was yielded. Raises Garbled.
        """
        self._received += data
        while len(self._received) >= HEAD.size:
            number, kind, length = HEAD.unpack_from(self._received)
            if length > LONGEST.get(kind, -1):
                raise Garbled(f"a frame of kind {kind} with {length} bytes")
            if len(self._received) < HEAD.size + length:
                return
            body = bytes(self._received[HEAD.size : HEAD.size + length])
            del self._received[: HEAD.size + length]
            if self._hear(number, kind, body):
                yield number, kind, body

    def _hear(self, number: int, kind: int, body: bytes) -> bool:
        """Take note of one frame; whether its connection is to hear of it. Raises Garbled."""
        if kind == OPEN:
            if not self._serves or number <= self._last:
                raise Garbled(f"channel {number} was opened by the wrong end, or twice")
            self._last, self._channels[number] = number, Channel()
            return True
        if number > self._last:
            raise Garbled(f"kind {kind} in channel {number}, which was never opened")
        channel = self._channels.get(number)
        if channel is None:
            return False  # it was reset here while this was on its way
        if kind == CREDIT:
            return self._hear_credit(number, channel, int.from_bytes(body, "big"))
        if kind == DATA:
            channel.allowed -= len(body)
        if channel.allowed < 0 or (channel.heard_end and kind != RESET):
            raise Garbled(f"kind {kind} in channel {number}, which is beyond its credit, or after its end")
        channel.heard_end = channel.heard_end or kind == END
        if kind in (REFUSED, RESET):
            del self._channels[number]
        self._forget_if_over(number, channel)
        return True

    def _hear_credit(self, number: int, channel: Channel, count: int) -> bool:
        channel.credit += count
        if channel.credit > WINDOW:
            raise Garbled(f"channel {number} was given {count} bytes of credit that nobody had used")
        waited = bool(channel.pending)
        self._send_pending(number, channel)
        return waited and not channel.pending

    def _send_pending(self, number: int, channel: Channel) -> None:
        while channel.pending and channel.credit:
            part = bytes(channel.pending[: min(CHUNK, channel.credit)])
            del channel.pending[: len(part)]
            channel.credit -= len(part)
            self._send(number, DATA, part)
        if channel.ending and not channel.pending and not channel.ended:
            channel.ended = True
            self._send(number, END)
            self._forget_if_over(number, channel)

    def _forget_if_over(self, number: int, channel: Channel) -> None:
        if channel.ended and channel.heard_end:
            self._channels.pop(number, None)

    def _send(self, number: int, kind: int, body: bytes = b"") -> None:
        self._out.append(HEAD.pack(number, kind, len(body)) + body)


class TunnelEnd:
    """One end of a tunnel on an event loop: channels, and the connection of each. ``send`` takes the stream's bytes."""

    def __init__(self, send: Callable[[bytes], object], *, serves: bool) -> None:
        self.channels = Channels(serves=serves)
        self.closed = False
        self._send = send
        self._connections: dict[int, Connection] = {}
        self._dials: set[asyncio.Task[None]] = set()

    def feed(self, data: bytes) -> None:
        """Take what came from the other end. Raises Garbled; then everything of it is closed."""
        try:
            for number, kind, body in self.channels.receive(data):
                if kind == OPEN:
                    self._dial(number, body.decode(errors="replace"))
                elif number in self._connections:
                    self._connections[number].hear(kind, body)
        except Garbled:
            self.close()
            raise
        self.flush()

    def flush(self) -> None:
        """Send what there is to send."""
        out = self.channels.take()
        if out and not self.closed:
            self._send(out)

    def close(self) -> None:
        """Cut every connection."""
        self.closed = True
        for task in self._dials:
            task.cancel()
        for connection in list(self._connections.values()):
            connection.cut()

    def join(self, number: int, connection: Connection) -> None:
        """From now on ``connection`` hears of a channel."""
        self._connections[number] = connection

    def leave(self, number: int) -> None:
        """Its connection is gone; the other end is told, if it does not know."""
        self._connections.pop(number, None)
        self.channels.reset(number)
        self.flush()

    def _dial(self, number: int, address: str) -> None:
        task = asyncio.get_running_loop().create_task(self._dialled(number, address))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dialled(self, number: int, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self, number), host, int(port)
            )
        except (OSError, ValueError, OverflowError) as error:  # the last two: no address at all
            self.channels.refused(number, str(error))
        else:
            if number not in self.channels:  # whoever asked for it has left
                connection.cut()
            self.channels.opened(number)
        self.flush()


class Connection(asyncio.Protocol):
    """One connection at one end. With ``address`` it asks the other end to dial that; else that is what it was made for."""

    def __init__(self, end: TunnelEnd, number: int = 0, address: tuple[str, int] | None = None) -> None:
        self._end, self._number, self._address = end, number, address
        self._slow = False  # its reader does not keep up
        self._unread = 0  # bytes that wait for such a reader
        self._transport: Any = None
        self.stands: asyncio.Future[None] | None = None  # for who waits until the far end has dialled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._end.closed:
            self.cut()
            return
        if self._address is not None:
            self._transport.pause_reading()  # until the other end has dialled
            self._number = self._end.channels.open(*self._address)
        self._end.join(self._number, self)
        self._end.flush()

    def data_received(self, data: bytes) -> None:
        if not self._end.channels.write(self._number, data):
            self._transport.pause_reading()
        self._end.flush()

    def eof_received(self) -> bool:
        self._end.channels.end(self._number)
        self._end.flush()
        return self._number in self._end.channels  # else both directions have ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(ConnectionResetError(str(exc or "the tunnel was closed")))
        self._end.leave(self._number)

    def pause_writing(self) -> None:
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        self._end.channels.consume(self._number, self._unread)
        self._unread = 0
        self._end.flush()

    def hear(self, kind: int, body: bytes) -> None:
        """Take what the other end said of this channel."""
        if kind == DATA:
            self._transport.write(body)
            self._unread += len(body)
            if not self._slow:
                self.resume_writing()
        elif kind in (REFUSED, RESET):
            self._settle(ConnectionRefusedError(body.decode(errors="replace")))
            self.cut()
        elif self._number not in self._end.channels:  # both directions have ended
            self._transport.close()  # once all is written
        elif kind == END:
            self._transport.write_eof()
        else:
            self._settle(None)
            self._transport.resume_reading()

    def cut(self) -> None:
        """Reset the connection: what it had not delivered is lost, and its peer knows."""
        peer = self._transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _settle(self, error: Exception | None) -> None:
        if self.stands is None or self.stands.done():
            return
        if error is None:
            self.stands.set_result(None)
        else:
            self.stands.set_exception(error)


class _Input(asyncio.Protocol):
    """The far end's standard input."""

    def __init__(self, end: TunnelEnd, done: asyncio.Future[None]) -> None:
        self._end, self._done = end, done

    def data_received(self, data: bytes) -> None:
        try:
            self._end.feed(data)
        except Garbled as error:
            if not self._done.done():
                self._done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _serve() -> None:
    """The far end: until standard input ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout.buffer)
    end = TunnelEnd(out.write, serves=True)
    await loop.connect_read_pipe(lambda: _Input(end, done), sys.stdin.buffer)
    try:
        await done
    finally:
        end.close()


if __name__ == "__main__":
    try:
        asyncio.run(_serve())
    except Garbled as garbled:
        sys.exit(f"the tunnel's stream is garbled: {garbled}")
