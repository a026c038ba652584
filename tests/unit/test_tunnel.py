"""Many connections over one stream: whatever the order, every byte arrives once, and a slow reader holds up nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.containers.channels import (
    CHUNK,
    CREDIT,
    DATA,
    END,
    HEAD,
    OPEN,
    OPENED,
    REFUSED,
    RESET,
    WINDOW,
    Channels,
    Connection,
    Garbled,
    TunnelEnd,
)  # fmt: skip
from harness.containers.tunnel import FAR_END, Tunnel

LIMIT = 20.0  # s


def frame(number: int, kind: int, body: bytes = b"") -> bytes:
    return HEAD.pack(number, kind, len(body)) + body


class Ends:
    """A near end and a far one, and the bytes that are on their way between them."""

    def __init__(self) -> None:
        self.near, self.far = Channels(serves=False), Channels(serves=True)
        self.to_far, self.to_near = bytearray(), bytearray()
        self.heard: dict[tuple[str, int], bytearray] = {}
        self.ended: set[tuple[str, int]] = set()
        self.unread: dict[tuple[str, int], int] = {}

    def channels(self, end: str) -> Channels:
        return self.near if end == "near" else self.far

    def deliver(self, end: str, count: int) -> bool:
        """Hand so many of the bytes that are on their way to an end over to it; whether there were any."""
        self.to_far += self.near.take()
        self.to_near += self.far.take()
        way = self.to_near if end == "near" else self.to_far
        part = bytes(way[:count])
        del way[:count]
        for number, kind, body in self.channels(end).receive(part):
            if kind == OPEN:
                self.far.opened(number)
            elif kind == DATA:
                self.heard.setdefault((end, number), bytearray()).extend(body)
                self.unread[end, number] = self.unread.get((end, number), 0) + len(body)
            elif kind == END:
                self.ended.add((end, number))
        return bool(part)

    def read(self, end: str, number: int) -> None:
        self.channels(end).consume(number, self.unread.pop((end, number), 0))

    def settle(self, *, reading: Callable[[str, int], bool] = lambda _end, _number: True) -> None:
        """Deliver and read until nothing moves any more."""
        moved = True
        while moved:
            moved = False
            for end in ("near", "far"):
                moved = self.deliver(end, 1 << 30) or moved
                for key in [key for key in self.unread if reading(*key)]:
                    self.read(*key)
                    moved = True


STEPS = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("write"), st.sampled_from(["near", "far"]), st.integers(1, 3), st.integers(1, 3 * CHUNK)),
    st.tuples(st.just("deliver"), st.sampled_from(["near", "far"]), st.integers(1, 200_000)),
    st.tuples(st.just("read"), st.sampled_from(["near", "far"]), st.integers(1, 3)),
    st.tuples(st.just("end"), st.sampled_from(["near", "far"]), st.integers(1, 3)),
    st.tuples(st.just("reset"), st.sampled_from(["near", "far"]), st.integers(1, 3)),
)


@given(steps=st.lists(STEPS, max_size=60))
def test_whatever_is_interleaved_each_channel_carries_its_bytes_in_order(steps: list[Any]) -> None:
    ends, other = Ends(), {"near": "far", "far": "near"}
    written: dict[tuple[str, int], bytearray] = {}
    over: set[tuple[str, int]] = set()
    was_reset: set[int] = set()
    for step in steps:
        what, end, *rest = (*step, None, None)[:4] if step[0] == "open" else step
        if what == "open":
            ends.near.open("10.192.0.1", 1)
        elif what == "deliver":
            ends.deliver(end, rest[0])
        elif rest[0] in ends.channels(end):
            if what == "write" and (end, rest[0]) not in over:
                data = bytes([len(written) % 256]) * rest[1]
                written.setdefault((end, rest[0]), bytearray()).extend(data)
                ends.channels(end).write(rest[0], data)
            elif what == "read":
                ends.read(end, rest[0])
            elif what == "end":
                over.add((end, rest[0]))
                ends.channels(end).end(rest[0])
            elif what == "reset":
                was_reset.add(rest[0])
                ends.channels(end).reset(rest[0])
    ends.settle()
    for (end, number), data in written.items():
        got = ends.heard.get((other[end], number), bytearray())
        assert data.startswith(got)
        assert got == data or number in was_reset
    assert {(other[end], number) for end, number in over if number not in was_reset} <= ends.ended
    closed = {number for number in range(1, 4) if {("near", number), ("far", number)} <= over} | was_reset
    assert not any(number in ends.near or number in ends.far for number in closed)  # nothing is kept of what is over


def test_a_reader_that_takes_nothing_holds_up_its_own_channel_alone() -> None:
    ends = Ends()
    stuck, free = ends.near.open("a", 1), ends.near.open("b", 2)
    assert not ends.near.write(stuck, bytes(3 * WINDOW))
    ends.settle(reading=lambda _, number: number != stuck)
    assert len(ends.heard["far", stuck]) == WINDOW
    ends.near.write(free, bytes(3 * WINDOW))
    ends.settle(reading=lambda _, number: number != stuck)
    assert len(ends.heard["far", free]) == 3 * WINDOW
    ends.settle()
    assert len(ends.heard["far", stuck]) == 3 * WINDOW


def test_nothing_is_kept_of_a_channel_that_has_ended_in_both_directions() -> None:
    ends = Ends()
    number = ends.near.open("a", 1)
    ends.settle()
    ends.near.end(number)
    ends.settle()
    assert number in ends.near
    assert number in ends.far
    ends.far.write(number, b"still open this way")
    ends.far.end(number)
    ends.settle()
    assert ends.heard["near", number] == b"still open this way"
    assert number not in ends.near
    assert number not in ends.far


def test_what_comes_for_a_channel_that_was_reset_here_is_no_offence() -> None:
    near = Channels(serves=False)
    number = near.open("a", 1)
    near.reset(number)
    late = frame(number, OPENED) + frame(number, DATA, b"x") + frame(number, END) + frame(number, RESET)
    assert list(near.receive(late)) == []


@pytest.mark.parametrize(
    ("serves", "said"),
    [
        (True, frame(1, 99)),
        (True, HEAD.pack(1, DATA, CHUNK + 1)),
        (True, b"HTTP/1.1 400 Bad Request\r\n"),
        (True, frame(1, DATA, b"x")),  # never opened
        (True, frame(1, OPEN, b"a:1") * 2),
        (True, frame(1, OPEN, b"a:1") + frame(1, DATA, bytes(CHUNK)) * (WINDOW // CHUNK + 1)),
        (True, frame(1, OPEN, b"a:1") + frame(1, END) + frame(1, DATA, b"x")),
        (True, frame(1, OPEN, b"a:1") + frame(1, CREDIT, (1).to_bytes(4, "big"))),
        (False, frame(1, OPEN, b"a:1")),
    ],
)
def test_what_may_not_be_said_is_known_as_garbled(*, serves: bool, said: bytes) -> None:
    with pytest.raises(Garbled):
        list(Channels(serves=serves).receive(said))


@given(said=st.binary(max_size=200))
def test_garbage_is_garbled_or_waited_for_and_nothing_else(said: bytes) -> None:
    with suppress(Garbled):
        list(Channels(serves=True).receive(said))


# --- both ends, with real connections ----------------------------------------------------------------------------------


class Attached:
    """A far end in a process, attached to as the engine does it: frames of both of its outputs on one connection."""

    def __init__(self) -> None:
        self.near, self._engine = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, *FAR_END[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._threads = [threading.Thread(target=self._pass_in), threading.Thread(target=self._pass_out)]
        for thread in self._threads:
            thread.start()

    def say(self, body: bytes) -> None:
        """As the far end."""
        self._engine.sendall(bytes([1, 0, 0, 0]) + len(body).to_bytes(4, "big") + body)

    def _pass_in(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            while data := self._engine.recv(65536):
                self.process.stdin.write(data)
                self.process.stdin.flush()
        self.process.stdin.close()

    def _pass_out(self) -> None:
        assert self.process.stdout is not None
        with suppress(OSError):
            while data := os.read(self.process.stdout.fileno(), 65536):
                self.say(data)
            self._engine.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.process.kill()
        for thread in self._threads:
            thread.join()
        self._engine.close()
        self.near.close()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def attached() -> Iterator[Attached]:
    one = Attached()
    yield one
    one.close()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def tunnel(attached: Attached, lost: list[str], tmp_path: Path) -> Iterator[Tunnel]:
    one = Tunnel(attached.near, tmp_path / "log", lost.append)
    yield one
    one.close()


@pytest.fixture
def door() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        one.settimeout(LIMIT)
        yield one


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def through(tunnel: Tunnel, door: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connection through the tunnel, and its other side."""
    here = tunnel.dial(door.getsockname(), LIMIT)
    there, _ = door.accept()
    for side in (here, there):
        side.settimeout(LIMIT)
    return here, there


def test_all_bytes_of_a_published_port_come_out_and_so_do_both_ends(tunnel: Tunnel, door: socket.socket) -> None:
    port = free_port()
    tunnel.publish("127.0.0.1", port, door.getsockname())
    tunnel.publish("127.0.0.1", port, door.getsockname())  # again, as each life of a member does
    assert tunnel.published() == [("127.0.0.1", port, door.getsockname())]
    data = os.urandom(5 * WINDOW)
    with socket.create_connection(("127.0.0.1", port), LIMIT) as here, door.accept()[0] as there:
        sending = threading.Thread(target=lambda: (here.sendall(data), here.shutdown(socket.SHUT_WR)))
        sending.start()
        got = bytearray()
        while chunk := there.recv(65536):
            got += chunk
        sending.join()
        assert got == data
        there.sendall(b"still open this way")
        there.shutdown(socket.SHUT_WR)
        assert here.recv(100, socket.MSG_WAITALL) == b"still open this way"


def test_a_refused_connection_is_refused_to_who_dials_and_reset_to_who_connects(tunnel: Tunnel) -> None:
    nobody, port = free_port(), free_port()
    with pytest.raises(ConnectionRefusedError):
        tunnel.dial(("127.0.0.1", nobody), LIMIT)
    tunnel.publish("127.0.0.1", port, ("127.0.0.1", nobody))
    with socket.create_connection(("127.0.0.1", port), LIMIT) as here, pytest.raises(ConnectionResetError):
        here.recv(1)


@pytest.mark.parametrize("from_here", [True, False])
def test_a_reset_passes_as_a_reset(tunnel: Tunnel, door: socket.socket, *, from_here: bool) -> None:
    here, there = through(tunnel, door)
    first, other = (here, there) if from_here else (there, here)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    first.close()
    with other, pytest.raises(ConnectionResetError):
        other.recv(1)


def test_a_connection_that_nobody_reads_holds_up_no_other(tunnel: Tunnel, door: socket.socket) -> None:
    stuck, unread = through(tunnel, door)
    stuck.settimeout(1.0)
    with pytest.raises(TimeoutError):  # nor is it held here without a limit
        stuck.sendall(bytes(200 * WINDOW))
    here, there = through(tunnel, door)
    here.sendall(b"past it")
    assert there.recv(100) == b"past it"
    for side in (stuck, unread, here, there):
        side.close()


def test_a_far_end_that_dies_is_told_once_and_cuts_all(
    attached: Attached, tunnel: Tunnel, lost: list[str], door: socket.socket
) -> None:
    here, there = through(tunnel, door)
    attached.process.kill()
    with here, pytest.raises(ConnectionResetError):
        here.recv(1)
    there.close()
    deadline = time.monotonic() + LIMIT
    while not lost:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (len(lost), tunnel.over) == (1, True)
    with pytest.raises(ConnectionResetError, match="the tunnel to the session's network has ended"):
        tunnel.dial(door.getsockname(), LIMIT)


def test_a_near_end_that_hears_garbage_cuts_all_and_says_why(
    attached: Attached, tunnel: Tunnel, lost: list[str], door: socket.socket
) -> None:
    here, there = through(tunnel, door)
    attached.say(b"garbage, as an engine's error page would be")
    with here, pytest.raises(ConnectionResetError):
        here.recv(1)
    there.close()
    attached.process.wait(LIMIT)  # its standard input has ended
    tunnel.close()
    assert "a frame of kind" in lost[0]


def test_a_far_end_that_hears_garbage_ends(attached: Attached) -> None:
    attached.near.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert attached.process.wait(LIMIT) == 1
    assert attached.process.stderr is not None
    assert b"the tunnel's stream is garbled" in attached.process.stderr.read()


def test_closing_is_no_loss_and_ends_the_far_end(attached: Attached, tunnel: Tunnel, lost: list[str]) -> None:
    port = free_port()
    tunnel.publish("127.0.0.1", port, ("127.0.0.1", 1))
    tunnel.close()
    assert attached.process.wait(LIMIT) == 0
    assert not lost
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), LIMIT)


def test_an_end_that_is_closed_takes_no_more_connections() -> None:
    async def connect() -> bytes:
        end = TunnelEnd(lambda _: None, serves=False)
        end.close()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(end, address=("a", 1)), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return await reader.read()
        finally:
            writer.close()
            server.close()

    with pytest.raises(ConnectionResetError):
        asyncio.run(connect())


def test_a_refusal_says_why() -> None:
    ends = Ends()
    number = ends.near.open("a", 1)
    list(ends.far.receive(ends.near.take()))
    ends.far.refused(number, "no route")
    assert list(ends.near.receive(ends.far.take())) == [(number, REFUSED, b"no route")]
    assert number not in ends.near
