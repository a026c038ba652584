"""The transport's limits, on loopback in one process: in-work, idle, stuck and surplus connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest

from node import connections
from node import transport as module
from node.errors import RpcDisconnected, RpcError, RpcRefused, RpcTimeout
from node.transport import TcpTransport
from node.wire import HEADER, Answer, Contact, Envelope, FrameReader, Ping, Pong, Request, Sender, decode, encode

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # tests of this file may run side by side
HOST, PORT = f"127.20.249.{2 + WORKER}", 21500
HERE = Sender(Contact(b"h" * 20, HOST, PORT), 1)

Reply = Callable[[Answer], None]


def run(test: Callable[[TcpTransport, list[Reply]], Awaitable[None]]) -> None:
    """Run a test against a transport that keeps its requests' replies in a list, and answers none of them."""

    async def whole() -> None:
        transport, replies = TcpTransport(HERE, "c", None), list[Reply]()

        def keep(_sender: Sender | None, _message: Request, reply: Reply) -> None:
            replies.append(reply)

        transport.handler = keep
        await transport.listen()
        try:
            await asyncio.wait_for(test(transport, replies), 10.0)
        finally:
            await transport.close()

    asyncio.run(whole())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until it is so."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def answering(number: int) -> AsyncIterator[TcpTransport]:
    """Another node, at the port so many further on, that answers at once."""
    other = TcpTransport(Sender(Contact(b"%d" % number * 20, HOST, PORT + number), 1), "c", None)
    other.handler = lambda _sender, _message, reply: reply(Pong(b"", 0))
    await other.listen()
    try:
        yield other
    finally:
        await other.close()


def ping(rid: int = 1) -> bytes:
    return encode(Envelope("c", rid, None, Ping()))


def test_too_many_requests_in_work_stop_the_reading_until_some_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IN_WORK", 10)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        _, writer = await asyncio.open_connection(HOST, PORT)
        for rid in range(10):
            writer.write(ping(rid))
        await until(lambda: len(replies) == 10)
        for rid in range(10, 15):
            writer.write(ping(rid))
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(replies) == 10
        for reply in list(replies):
            reply(Pong(b"", 0))
        await until(lambda: len(replies) == 15)
        writer.close()

    run(test)


def test_large_requests_in_work_stop_the_reading_though_they_are_few() -> None:
    """Each of them lies in the memory once more for each node to which it is sent on."""
    large = Ping(padding=bytes(2**20))

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        _, writer = await asyncio.open_connection(HOST, PORT)
        for rid in range(20):
            writer.write(encode(Envelope("c", rid, None, large)))
        await until(lambda: len(replies) == 4)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(replies) == 4
        for answered in range(1, 17):
            replies[answered - 1](Pong(b"", 0))
            await until(lambda expected=answered + 4: len(replies) == expected)
        writer.close()

    run(test)


def test_requests_that_come_in_one_read_wait_too_while_answers_are_not_taken() -> None:
    """Else one read of small requests for large values would fill the memory with answers that nobody reads."""
    big = Pong(bytes(2**20), 0)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        served = 0

        def answer(_sender: Sender | None, _message: Request, reply: Reply) -> None:
            nonlocal served
            served += 1
            reply(big)

        transport.handler = answer
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(b"".join(ping(rid) for rid in range(50)))
        await until(lambda: served)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert served < 20
        frames, read = FrameReader(), 0
        while read < 50:
            read += len(frames.feed(await reader.read(2**20)))
        assert served == 50
        writer.close()

    run(test)


def test_connections_take_turns_however_much_one_of_them_asks_at_once() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        asked: list[bytes] = []

        def answer(_sender: Sender | None, message: Request, reply: Reply) -> None:
            assert isinstance(message, Ping)
            asked.append(message.nonce)
            reply(Pong(b"", 0))

        transport.handler = answer
        (reader, greedy), (_, modest) = [await asyncio.open_connection(HOST, PORT) for _ in range(2)]
        greedy.write(ping() * 5000)
        modest.write(encode(Envelope("c", 1, None, Ping(b"modest"))))
        await until(lambda: b"modest" in asked)
        assert asked.index(b"modest") <= 4 * connections.AT_A_TURN
        frames, read = FrameReader(), 0
        while read < 5000:
            read += len(frames.feed(await reader.read(2**20)))
        assert len(asked) == 5001
        for writer in (greedy, modest):
            writer.close()

    run(test)


def test_no_more_is_read_until_what_has_come_is_dealt_with() -> None:
    many = 40_000

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.handler = lambda _sender, _message, reply: reply(Pong(b"", 0))
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(ping() * many)
        frames, read, waiting = FrameReader(), 0, list[int]()
        while read < many:
            read += len(frames.feed(await reader.read(2**14)))
            waiting += (each._undealt_bytes for each in transport.incoming)
        assert 0 < max(waiting) <= 2**18 * (1 + connections.BODY_COST / len(ping())), "one read"
        assert waiting[-1] == transport._held.total == 0
        writer.close()

    run(test)


def test_a_defect_that_strikes_what_has_waited_ends_its_connection_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "AT_A_TURN", 1)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        served, struck = transport.handler, list[object]()

        def breaks_later(sender: Sender | None, message: Request, reply: Reply) -> None:
            if replies:
                raise RuntimeError("a defect")
            served(sender, message, reply)

        transport.handler = breaks_later
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: struck.append(context["exception"]))
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(ping() * 3)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        assert [str(error) for error in struck] == ["a defect"]
        writer.close()

    run(test)


def test_requests_that_wait_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 10_000)
    monkeypatch.setattr(connections, "IN_WORK", 1)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(ping() * 1000)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        assert transport.count["overfull"] == 1
        assert transport._held.total == 0
        writer.close()

    run(test)


def test_one_connection_too_many_costs_the_one_that_never_sent_a_frame_its_place() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.most_incoming = 3
        useful = await asyncio.open_connection(HOST, PORT)
        useful[1].write(ping())
        await until(lambda: replies)
        replies[0](Pong(b"", 0))
        silent = [await asyncio.open_connection(HOST, PORT) for _ in range(3)]
        await until(lambda: transport.count["crowded_out"] == 1)
        assert await silent[0][0].read(1) == b"", "the oldest of those that said nothing"
        useful[1].write(ping(2))
        await until(lambda: len(replies) == 2)
        for _, writer in (useful, *silent):
            writer.close()

    run(test)


def test_where_all_connections_are_busy_it_is_the_newcomer_that_has_no_place() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.most_incoming = 3
        busy = [await asyncio.open_connection(HOST, PORT) for _ in range(3)]
        for _, writer in busy:
            writer.write(ping())
        await until(lambda: len(replies) == 3)
        reader, newcomer = await asyncio.open_connection(HOST, PORT)
        assert await reader.read(1) == b""
        for reply in replies:
            reply(Pong(b"", 0))
        for reader, writer in busy:
            assert await reader.readexactly(HEADER)
            writer.close()
        assert transport.count["crowded_out"] == 1
        newcomer.close()

    run(test)


def test_a_newcomer_is_not_among_those_that_make_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CROWD", 1)  # of the idle ones all go

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.most_incoming = 3
        others = [await asyncio.open_connection(HOST, PORT) for _ in range(3)]
        for _, writer in others[:2]:  # these are busy, and the third one is idle
            writer.write(ping())
        await until(lambda: len(replies) == 2)
        newcomer = await asyncio.open_connection(HOST, PORT)
        await until(lambda: transport.count["crowded_out"])
        newcomer[1].write(ping())
        await until(lambda: len(replies) == 3)
        for _, writer in (newcomer, *others):
            writer.close()

    run(test)


def named(rid: int, identifier: bytes) -> bytes:
    return encode(Envelope("c", rid, Sender(Contact(identifier, HOST, 1), 1), Ping()))


def test_a_connection_on_which_a_second_node_speaks_is_closed() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(named(1, b"a" * 20) + named(2, b"a" * 20))
        await until(lambda: len(replies) == 2)
        writer.write(named(3, b"b" * 20))
        assert await reader.read(1) == b""
        assert len(replies) == 2
        assert transport.count["malformed"] == 1
        writer.close()

    run(test)


def test_one_node_gets_its_share_of_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_ONE", 2)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        greedy = []
        for rid in range(3):
            greedy.append(await asyncio.open_connection(HOST, PORT))
            greedy[-1][1].write(named(rid, b"a" * 20))
            await until(lambda: len(replies) == rid + 1)  # noqa: B023
            replies[-1](Pong(b"", 0))
        assert len(await greedy[0][0].read()) > HEADER, "its answer, and then the end"
        assert transport.counters()["connections_in"] == 2
        for _, writer in greedy:
            writer.close()

    run(test)


def test_frames_that_never_end_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 2**20)
    long = encode(Envelope("c", 1, None, Ping(padding=bytes(300_000))))[:-1]

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        waiting = []
        for _ in range(12):
            waiting.append(await asyncio.open_connection(HOST, PORT))
            waiting[-1][1].write(long)
        await until(lambda: transport.count["overfull"] >= 9)
        assert transport._held.total <= 2**20
        useful = await asyncio.open_connection(HOST, PORT)
        useful[1].write(ping())
        await until(lambda: replies)
        for _, writer in (useful, *waiting):
            writer.close()

    run(test)


def test_answers_that_nobody_takes_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those to requests that were in work already when the other side stopped to read: back-pressure comes too late for them."""
    monkeypatch.setattr(module, "MOST_HELD", 8 * 2**20)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        _, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(b"".join(ping(rid) for rid in range(100)))
        await until(lambda: len(replies) == 100)
        for reply in replies:
            reply(Pong(bytes(2**20), 0))
        await until(lambda: transport.count["overfull"])
        assert transport._held.total == 0
        await until(lambda: not transport.incoming)
        writer.close()

    run(test)


def test_the_connection_that_was_chosen_is_not_closed_to_make_room_for_it() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.connections = 1
        dialled: dict[int, list[asyncio.StreamWriter]] = {}

        async def serve(port: int) -> asyncio.Server:
            def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                dialled.setdefault(port, []).append(writer)

            return await asyncio.start_server(met, HOST, port)

        servers = [await serve(PORT + 1), await serve(PORT + 2)]
        ignore = lambda *_: None  # noqa: E731
        transport.send(Contact(b"a" * 20, HOST, PORT + 1), Ping(), 5.0, ignore)  # keeps its connection busy
        await until(lambda: dialled.get(PORT + 1))
        chosen = Contact(b"b" * 20, HOST, PORT + 2)
        transport.send(chosen, Ping(), 0.02, ignore)
        await until(lambda: transport._pool[HOST, PORT + 2].idle() and dialled.get(PORT + 2))
        sent = transport._pool[HOST, PORT + 2]
        transport.send(chosen, Ping(), 5.0, ignore)
        assert transport._pool[HOST, PORT + 2] is sent
        assert sent.wire is not None
        assert not sent.wire.is_closing()
        assert len(transport._pool) == 2, "nobody waits for the chosen one, but for the other somebody does"
        for server in servers:
            server.close()
        for writer in itertools.chain(*dialled.values()):
            writer.close()

    run(test)


def test_a_loop_that_is_late_each_time_puts_timeouts_off_once_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL", 0.01)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        results: list[object] = []

        def block() -> None:
            if not results:
                time.sleep(0.05)
                transport.loop.call_soon(block)

        transport.send(HERE.contact, Ping(), 0.05, lambda result, _sent, _sender: results.append(result))
        await until(lambda: replies)
        block()
        await until(lambda: results)
        assert isinstance(results[0], RpcTimeout)

    run(test)


@pytest.mark.parametrize("sent", [b"", ping()[: HEADER + 3]], ids=["idle", "half-a-frame"])
def test_an_idle_connection_and_a_stuck_one_are_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(module, "TIDY", 0.01)
    where, limit = (connections, "FRAME_TIME") if sent else (module, "IDLE_IN")
    monkeypatch.setattr(where, limit, 0.02)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(sent)
        assert await reader.read() == b""
        assert transport.count["closed_idle"] == 1
        writer.close()

    run(test)


def test_connections_are_taken_from_the_networks_that_are_named_and_no_others() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.admitted = (ip_network("127.20.249.96/30"),)
        reader, uninvited = await asyncio.open_connection(HOST, PORT, local_addr=("127.20.249.100", 0))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        assert transport.count["uninvited"] == 1
        _, invited = await asyncio.open_connection(HOST, PORT, local_addr=("127.20.249.99", 0))
        invited.write(ping())
        await until(lambda: replies)
        for writer in (uninvited, invited):
            writer.close()

    run(test)


def test_it_is_remembered_who_may_connect_but_not_of_any_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = module.ip_address
    monkeypatch.setattr(module, "ip_address", lambda host: parsed.append(host) or parse(host))  # type: ignore[func-returns-value]

    async def test(transport: TcpTransport, _: list[Reply]) -> None:
        parsed.clear()
        transport.admitted = (ip_network("10.1.0.0/16"),)
        for _ in range(3):
            assert transport.admits(("10.1.0.9", 5))
            assert not transport.admits(("10.2.0.9", 5))
        assert parsed == ["10.1.0.9", "10.2.0.9"]
        for number in range(3 * module.CALLERS):
            assert transport.admits((f"10.1.{number // 250}.{number % 250}", 5))
        assert len(transport._callers) <= module.CALLERS

    run(test)


def test_a_connection_that_is_always_within_a_frame_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FRAME_TIME", 0.05)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        _, writer = await asyncio.open_connection(HOST, PORT)
        half = len(ping(0)) // 2
        writer.write(ping(0)[:half])
        began, rid = time.monotonic(), 0
        while time.monotonic() - began < 0.2:
            writer.write(ping(rid)[half:] + ping(rid + 1)[:half])
            rid += 1
            await until(lambda: len(replies) == rid)  # noqa: B023
            (incoming,) = transport.incoming
            assert not incoming.stuck(transport.loop.time())
        await until(lambda: incoming.stuck(transport.loop.time()))
        writer.close()

    run(test)


def test_an_address_that_is_none_is_refused_as_one_where_nobody_is() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        results: list[object] = []
        for host in ("a\0b", "a..b"):
            there = Contact(b"t" * 20, host, 1)
            transport.send(there, Ping(), 5.0, lambda result, _sent_at, _sender: results.append(result))
        await until(lambda: len(results) == 2)
        assert all(isinstance(result, RpcRefused) for result in results)

    run(test)


def test_a_connection_with_a_request_in_work_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIDY", 0.01)
    monkeypatch.setattr(module, "IDLE_IN", 0.02)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(ping())
        await until(lambda: replies)
        await asyncio.sleep(0.1)
        assert not reader.at_eof()
        replies[0](Pong(b"", 0))
        assert await reader.readexactly(HEADER)
        writer.close()

    run(test)


def test_an_idle_outgoing_connection_is_closed_and_dialled_again_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIDY", 0.01)
    monkeypatch.setattr(module, "IDLE_OUT", 0.05)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.handler = lambda _sender, _message, reply: reply(Pong(b"", 0))
        answers: list[Answer | RpcError] = []
        for asked in (1, 2):
            transport.send(HERE.contact, Ping(), 5.0, lambda answer, _sent, _sender: answers.append(answer))
            await until(lambda: len(answers) == asked)  # noqa: B023
            assert transport.counters()["connections_out"] == 1
            await until(lambda: not transport.counters()["connections_out"])
        assert all(isinstance(answer, Pong) for answer in answers)

    run(test)


def test_a_connection_that_is_closed_without_a_word_is_dialled_again() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.handler = lambda _sender, _message, reply: reply(Pong(b"", 0))
        answers: list[Answer | RpcError] = []

        def done(answer: Answer | RpcError, _sent: float, _sender: Sender | None) -> None:
            answers.append(answer)

        transport.send(HERE.contact, Ping(), 5.0, done)
        await until(lambda: answers)
        broken = next(iter(transport._pool.values()))
        broken.wire = Broken()  # type: ignore[assignment]
        transport.send(HERE.contact, Ping(), 5.0, done)
        await until(lambda: len(answers) == 2)
        assert isinstance(answers[1], Pong)

    run(test)


def test_answers_of_one_turn_of_the_loop_leave_together_and_in_order() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(b"".join(ping(rid) for rid in range(30)))
        await until(lambda: len(replies) == 30)
        connection = next(iter(transport.incoming))
        assert connection.wire is not None
        counting = Counting(connection.wire)
        connection.wire = counting  # type: ignore[assignment]
        for reply in replies:
            reply(Pong(b"", 0))
        cut = FrameReader()
        rids: list[int] = []
        while len(rids) < 30:
            rids += [decode(body, "c").rid for body in cut.feed(await reader.read(65536))]
        assert rids == list(range(30))
        assert counting.writes == 2  # AT_ONCE, and the rest
        writer.close()

    assert connections.AT_ONCE < 30 <= 2 * connections.AT_ONCE
    run(test)


def test_what_was_answered_last_still_leaves_when_the_transport_closes() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(ping(7))
        await until(lambda: replies)
        replies[0](Pong(b"", 0))
        await transport.close()
        received = await reader.read()
        assert [decode(body, "c").rid for body in FrameReader().feed(received)] == [7]
        writer.close()

    run(test)


def test_an_answer_that_comes_after_its_deadline_is_told_all_the_same() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        results: list[object] = []
        async with answering(1) as other:
            waiting: list[Reply] = []
            other.handler = lambda _sender, _message, reply: waiting.append(reply)
            transport.send(other.sender.contact, Ping(), 0.05, lambda result, _, __: results.append(result))
            await until(lambda: results)
            waiting[0](Pong(b"", 7))
            await until(lambda: len(results) == 2)
        assert isinstance(results[0], RpcTimeout)
        assert results[1] == Pong(b"", 7)

    run(test)


def test_nobody_is_dialled_any_more_when_the_transport_has_closed() -> None:
    async def whole() -> None:
        results: list[object] = []
        async with answering(1) as other:
            other.handler = lambda _sender, _message, _reply: None
            transport = TcpTransport(HERE, "c", None)
            await transport.listen()
            transport.send(other.sender.contact, Ping(), 5.0, lambda result, _, __: results.append(result))
            await until(lambda: other.incoming)
            await asyncio.sleep(connections.FRESH)
            await transport.close()
            transport.send(other.sender.contact, Ping(), 5.0, lambda result, _, __: results.append(result))
            await until(lambda: len(results) == 2)
            await asyncio.sleep(0.05)
            assert not other.incoming
        assert [type(result) for result in results] == [RpcDisconnected, RpcRefused]

    asyncio.run(asyncio.wait_for(whole(), 5.0))


def test_no_more_requests_wait_for_one_peer_than_may_and_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_WAITING", 10)

    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        results: list[Answer | RpcError] = []

        def ask(count: int) -> None:
            for _ in range(count):
                transport.send(HERE.contact, Ping(), 5.0, lambda result, _sent, _sender: results.append(result))

        ask(11)  # all before the connection stands
        assert not results, "nobody is called back before `send` returns"
        await until(lambda: len(replies) == 10 and results)
        assert [type(result) for result in results] == [RpcRefused]
        assert "10 requests wait" in str(results[0])
        ask(1)
        await until(lambda: len(results) == 2)
        assert isinstance(results[1], RpcRefused)
        replies.pop()(Pong(b"", 0))
        await until(lambda: len(results) == 3)
        ask(1)  # in the place of the one that was answered
        await until(lambda: len(replies) == 10)
        assert isinstance(results[2], Pong)

    run(test)


def test_the_pool_closes_the_connection_that_was_not_used_for_longest() -> None:
    async def test(transport: TcpTransport, replies: list[Reply]) -> None:
        transport.connections = 2
        results: list[Answer | RpcError] = []
        async with answering(1) as kept, answering(2) as least, answering(3) as new:
            for asked, other in enumerate((kept, least, kept, new), 1):
                there = other.sender.contact
                transport.send(there, Ping(), 5.0, lambda result, _sent, _sender: results.append(result))
                await until(lambda: len(results) == asked)  # noqa: B023
            assert all(isinstance(result, Pong) for result in results)
            await until(lambda: not least.incoming)
            assert (len(kept.incoming), len(new.incoming)) == (1, 1)
            assert transport.counters()["connections_out"] == 2

    run(test)


class Counting:
    """A connection that counts what is written to it."""

    def __init__(self, wire: asyncio.Transport) -> None:
        self._wire, self.writes = wire, 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._wire.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._wire, name)


class Broken:
    """What uvloop leaves of a connection whose dial was cut short: it passes for open, and cannot be written to."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    def abort(self) -> None: ...

    close = abort
