"""How a client connects: whoever needs a connection waits for one dial, and a silent address is no timeout of the request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from node import client as module
from node.client import CONNECT_WITHIN, Client
from node.errors import ClientDisconnected, ClientRefused, ClientTimeout

HOST, CLUSTER = "127.0.0.1", "c"
LIMIT = 20.0  # s
CALLERS = 12


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that answers no dial, like the address of a container that has ended: its queue of connections is full."""
    with socket.create_server((HOST, 0), backlog=0) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)):
            yield port


class Dials:
    """Stands in for the network: each dial is told ``then``, once ``waiting`` others wait for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: list[Callable[[float], socket.socket]]) -> None:
        self.then, self.count = iter(then), 0
        self.waiting = threading.Semaphore(0)
        self._connect = socket.create_connection
        monkeypatch.setattr(module.socket, "create_connection", self._dial)
        dials = self

        class Over(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                dials.waiting.release()
                return super().wait(timeout)

        dial = module._Dial
        monkeypatch.setattr(module, "_Dial", lambda ends: dial(ends, over=Over()))

    def _dial(self, _: tuple[str, int], timeout: float) -> socket.socket:
        self.count += 1
        return next(self.then)(timeout)

    def connect(self, server: socket.socket) -> socket.socket:
        return self._connect(server.getsockname())

    def await_waiting(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=LIMIT)


def ping(client: Client, timeout: float = LIMIT) -> Exception | None:
    try:
        client.ping(timeout=timeout)
    except Exception as error:
        return error
    return None


def test_a_silent_address_has_seen_nothing_of_the_request_which_is_refused(silent: int) -> None:
    client = Client(HOST, silent, CLUSTER)
    with pytest.raises(ClientRefused, match=rf"cannot connect to {HOST}:{silent}: nobody answered within 1\.2 s"):
        client.ping(timeout=LIMIT)
    with pytest.raises(ClientRefused, match=r"nobody answered within 0\.1 s"):
        client.ping(timeout=0.1)


def test_those_who_dial_a_silent_address_do_not_queue(silent: int) -> None:
    client = Client(HOST, silent, CLUSTER)
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        said = list(pool.map(lambda _: ping(client), range(CALLERS)))
    assert {type(one) for one in said} == {ClientRefused}
    assert time.monotonic() - began < CALLERS / 2 * CONNECT_WITHIN, "one after the other it is twice that"


def test_all_who_need_a_connection_wait_for_one_dial_and_hear_what_it_was_told(monkeypatch: Any) -> None:
    def refuse(_: float) -> socket.socket:
        dials.await_waiting(CALLERS - 1)
        raise ConnectionRefusedError(111, "Connection refused")

    dials = Dials(monkeypatch, [refuse])
    client = Client(HOST, 1, CLUSTER)
    monkeypatch.setattr(module, "CONNECT_WITHIN", LIMIT)
    with ThreadPoolExecutor(CALLERS) as pool:
        said = list(pool.map(lambda _: ping(client), range(CALLERS)))
    assert {str(one) for one in said} == {f"cannot connect to {HOST}:1: Connection refused"}
    assert len({id(one) for one in said}) == CALLERS, "each has its own, with its own way to it"
    assert dials.count == 1


def test_who_has_more_time_dials_again_where_the_first_gave_up(monkeypatch: Any) -> None:
    server = socket.create_server((HOST, 0))

    def give_up(timeout: float) -> socket.socket:
        dials.await_waiting(1)
        threading.Event().wait(timeout)
        raise TimeoutError("timed out")

    def accept(_: float) -> socket.socket:
        connected = dials.connect(server)
        server.accept()[0].close()
        return connected

    dials = Dials(monkeypatch, [give_up, accept])
    client = Client(HOST, 1, CLUSTER)
    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(ping, client, 0.2)
        while not dials.count:
            time.sleep(0.001)
        patient = pool.submit(ping, client)
        assert isinstance(hasty.result(LIMIT), ClientRefused)
        assert isinstance(patient.result(LIMIT), ClientDisconnected), "it had a connection"
    client.close()
    server.close()


def test_closing_waits_for_the_dial_under_way_and_leaves_no_connection(monkeypatch: Any) -> None:
    server, may_connect = socket.create_server((HOST, 0)), threading.Event()

    def accept(_: float) -> socket.socket:
        assert may_connect.wait(LIMIT)
        return dials.connect(server)

    dials = Dials(monkeypatch, [accept])
    client = Client(HOST, 1, CLUSTER)
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(ping, client)
        while not dials.count:
            time.sleep(0.001)
        closing = pool.submit(client.close)
        dials.await_waiting(1)
        may_connect.set()
        closing.result(LIMIT)
        assert isinstance(asking.result(LIMIT), ClientDisconnected)
    there, _ = server.accept()
    there.settimeout(LIMIT)
    while there.recv(4096):
        pass  # its end is what we wait for
    there.close()
    server.close()


def test_who_waits_for_a_silent_dial_of_a_client_that_is_closed_does_not_dial_again(monkeypatch: Any) -> None:
    may_end = threading.Event()

    def silent(_: float) -> socket.socket:
        assert may_end.wait(LIMIT)
        raise TimeoutError("timed out")

    dials = Dials(monkeypatch, [silent])
    monkeypatch.setattr(module, "CONNECT_WITHIN", LIMIT)
    client = Client(HOST, 1, CLUSTER)
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ping, client) for _ in range(2)]
        dials.await_waiting(1)
        closing = pool.submit(client.close)
        dials.await_waiting(1)
        may_end.set()
        closing.result(LIMIT)
        assert {str(one.result(LIMIT)) for one in asking} == {"the client was closed"}
    assert dials.count == 1


def test_a_dial_whose_thread_was_interrupted_holds_nobody_up_for_ever(monkeypatch: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "ABANDONED", 0.1)
    client = Client(HOST, 1, CLUSTER)
    with monkeypatch.context() as patched:
        patched.setattr(Client, "_carry_out", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.ping(timeout=0.1)
    client.close()
    with socket.create_server((HOST, 0)) as server:
        client._address = server.getsockname()
        asking = threading.Thread(target=ping, args=(client,))
        asking.start()
        server.settimeout(LIMIT)
        server.accept()[0].close()
        asking.join(LIMIT)
        assert not asking.is_alive()


def test_a_request_without_time_is_no_refusal_where_there_is_a_connection() -> None:
    with socket.create_server((HOST, 0)) as server:
        client = Client(*server.getsockname(), CLUSTER)
        with pytest.raises(ClientTimeout):
            client.ping(timeout=0.1)
        with pytest.raises(ClientTimeout):
            client.ping(timeout=0.0)
        client.close()
