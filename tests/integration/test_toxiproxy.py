"""A real Toxiproxy: its life, single calls, bulk calls; and servers that die, hang, break off or talk nonsense."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import ToxiproxyFailed, ToxiproxySilent
from harness.spawner import Spawner
from harness.toxiproxy import binary
from harness.toxiproxy import server as server_module
from harness.toxiproxy.bulk import CONNECTIONS, ApiRequest, BulkWriter
from harness.toxiproxy.control import ToxiproxyControl
from harness.toxiproxy.server import ToxiproxyServer

HOST = f"127.20.245.{2 + os.getpid() % 250}"  # one address a test process: two runs of the tests do not meet
API_PORT = 9474


@pytest.fixture(scope="module")
def toxiproxy_binary() -> Path:
    return binary.find(None)


@pytest.fixture(scope="module")
def spawn() -> Iterator[Spawner]:
    spawner = Spawner("test-toxiproxy")
    yield spawner
    spawner.close()


NewServer = Callable[..., ToxiproxyServer]


@pytest.fixture
def new_server(toxiproxy_binary: Path, spawn: Spawner, tmp_path: Path) -> Iterator[NewServer]:
    """Makes servers, not started; all are stopped in the end."""
    with ExitStack() as stack:

        def new(program: Path = toxiproxy_binary, port: int = API_PORT) -> ToxiproxyServer:
            server = ToxiproxyServer(program, HOST, port, log=tmp_path / f"toxiproxy-{port}.log", spawn=spawn)
            stack.callback(server.stop)
            return server

        yield new


@pytest.fixture
def server(new_server: NewServer) -> ToxiproxyServer:
    started = new_server()
    started.start()
    return started


def proxies(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"p{i}", "listen": f"{HOST}:{10_000 + i}", "upstream": f"{HOST}:{20_000 + i}", "enabled": True}
        for i in range(count)
    ]


def latency(proxy: str, *, name: str = "slow", milliseconds: float = 1) -> ApiRequest:
    toxic = {"name": name, "type": "latency", "stream": "upstream", "attributes": {"latency": milliseconds}}
    return ApiRequest("POST", f"/proxies/{proxy}/toxics", toxic, proxy)


def pid_of(server: ToxiproxyServer) -> int:
    """The process that listens at the server's address."""
    listening = [each for each in psutil.net_connections("tcp4") if each.status == psutil.CONN_LISTEN]
    (pid,) = {each.pid for each in listening if each.laddr == (server.host, server.port)}
    assert pid is not None
    return pid


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- its life --------------------------------------------------------------------------------------------------------


def test_a_started_server_answers_and_a_stopped_one_is_gone(new_server: NewServer) -> None:
    server = new_server()
    assert server.start().startswith("2.")
    assert server.alive()
    server.stop()
    assert not server.alive()
    assert server.exit() in ("exit code 0", "killed by SIGTERM")


def test_a_server_listens_on_its_loopback_address_alone(server: ToxiproxyServer) -> None:
    listening = psutil.Process(pid_of(server)).net_connections("inet")
    assert {(each.laddr.ip, each.laddr.port) for each in listening if each.status == psutil.CONN_LISTEN} == {
        (HOST, API_PORT)
    }


def test_a_frozen_server_is_killed_after_a_grace(server: ToxiproxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_GRACE", 0.2)
    os.kill(pid_of(server), signal.SIGSTOP)
    server.stop()
    assert server.exit() == "killed by SIGKILL"


def test_a_program_that_ends_at_once_is_told_at_once_with_its_exit_code_and_log(
    new_server: NewServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "START_DEADLINE", 3600)  # which nobody waits for
    broken = script(tmp_path / "broken", "echo no such flag -host >&2; exit 3")
    with pytest.raises(ToxiproxyFailed, match=rf"(?s){broken}.*{HOST}:{API_PORT}: exit code 3.*no such flag -host"):
        new_server(broken).start()


def test_a_program_that_never_answers_is_told_when_the_time_is_up(
    new_server: NewServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "START_DEADLINE", 0.3)
    mute = script(tmp_path / "mute", "exec sleep 60")
    with pytest.raises(ToxiproxyFailed, match=r"(?s)did not start .*Connection refused.*the log is empty"):
        new_server(mute).start()


def test_a_taken_port_is_told_by_the_end_of_the_log(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "START_DEADLINE", 1.0)
    with socket.create_server((HOST, API_PORT)) as taken:
        threading.Thread(target=refuse_all, args=(taken,), daemon=True).start()
        with pytest.raises(ToxiproxyFailed, match="address already in use"):
            new_server().start()


def refuse_all(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return  # the test is over


# --- single calls ----------------------------------------------------------------------------------------------------


def test_two_controls_in_one_process_speak_each_to_their_own_server(new_server: NewServer) -> None:
    first, second = new_server(), new_server(port=API_PORT + 1)
    first.start()
    second.start()
    first.control.populate(proxies(1))
    assert list(first.control.states()) == ["p0"]
    assert second.control.states() == {}


def test_a_populate_makes_all_proxies_and_tells_them_as_they_are(server: ToxiproxyServer) -> None:
    server.control.populate(proxies(3))
    states = server.control.states()
    assert sorted(states) == ["p0", "p1", "p2"]
    assert states["p1"]["listen"] == f"{HOST}:10001"
    assert states["p1"]["toxics"] == []


def test_a_populate_that_fails_is_told_with_status_and_body(server: ToxiproxyServer) -> None:
    with socket.create_server((HOST, 10_000)), pytest.raises(ToxiproxyFailed, match=r"500.*address already in use"):
        server.control.populate(proxies(1))


def test_a_server_that_died_is_told_with_its_address(server: ToxiproxyServer) -> None:
    os.kill(pid_of(server), signal.SIGKILL)
    with pytest.raises(ToxiproxyFailed, match=f"API at {HOST}:{API_PORT} failed"):
        server.control.states()


def test_a_silent_server_is_waited_for_no_longer_than_the_limit(server: ToxiproxyServer) -> None:
    os.kill(pid_of(server), signal.SIGSTOP)
    control = ToxiproxyControl(HOST, API_PORT, timeout=0.2)
    with pytest.raises(ToxiproxySilent, match="did not answer in time"):
        control.version()
    control.close()


def test_single_calls_share_one_connection_and_use_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    callers: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            callers.append(self.client_address)
            body = b'{"version": "2.12.0"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer((HOST, API_PORT), Handler) as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        control = ToxiproxyControl(HOST, API_PORT)
        try:
            assert [control.version() for _ in range(3)] == ["2.12.0"] * 3
        finally:
            control.close()
            fake.shutdown()
            thread.join()
    assert len(set(callers)) == 1


# --- bulk calls ------------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests(server: ToxiproxyServer) -> None:
    server.control.populate(proxies(60))
    requests = [latency(f"p{i % 60}", name=f"t{i // 60}", milliseconds=i) for i in range(300)]
    answers = BulkWriter(HOST, API_PORT).send(requests)
    assert [answer.request for answer in answers] == requests
    assert all(answer.status == 200 and f'"latency":{i},'.encode() in answer.body for i, answer in enumerate(answers))


def test_requests_on_one_proxy_are_carried_out_in_order(server: ToxiproxyServer) -> None:
    server.control.populate(proxies(20))
    delete = [ApiRequest("DELETE", f"/proxies/p{i}/toxics/slow", None, f"p{i}") for i in range(20)]
    requests = [each for i in range(20) for each in (latency(f"p{i}"), delete[i], latency(f"p{i}"))]
    assert {answer.status for answer in BulkWriter(HOST, API_PORT).send(requests)} == {200, 204}
    assert all(len(told["toxics"]) == 1 for told in server.control.states().values())


def test_a_refused_request_is_told_and_the_others_are_carried_out(server: ToxiproxyServer) -> None:
    server.control.populate(proxies(2))
    bad, good = BulkWriter(HOST, API_PORT).send([latency("p0", milliseconds=0.5), latency("p1")])
    assert not bad.ok
    assert str(bad).startswith("POST /proxies/p0/toxics: HTTP 400 ")
    assert good.ok


def test_no_requests_are_no_answers_and_need_no_server() -> None:
    assert BulkWriter(HOST, API_PORT).send([]) == []


def test_a_dead_server_is_told_with_its_address() -> None:
    with pytest.raises(ToxiproxyFailed, match=f"{HOST}:{API_PORT} failed: .*refused"):
        BulkWriter(HOST, API_PORT).send([latency("p0")])


def test_a_frozen_server_hits_the_deadline_and_the_first_open_request_is_named(server: ToxiproxyServer) -> None:
    server.control.populate(proxies(1))
    os.kill(pid_of(server), signal.SIGSTOP)
    with pytest.raises(ToxiproxySilent, match=r"2 requests are open, the first is POST /proxies/p0/toxics"):
        BulkWriter(HOST, API_PORT).send([latency("p0"), latency("p0", name="more")], deadline=0.2)


Behaviour = Callable[[socket.socket], None]


@contextmanager
def fake_api(behaviour: Behaviour) -> Iterator[list[socket.socket]]:
    """A listener that does ``behaviour`` with every connection; yields those it has accepted."""
    accepted: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            accepted.append(connection)
            threads.append(threading.Thread(target=behaviour, args=(connection,)))
            threads[-1].start()

    with socket.create_server((HOST, API_PORT)) as listener:
        acceptor = threading.Thread(target=serve)
        acceptor.start()
        try:
            yield accepted
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in accepted:
                connection.close()
            for thread in threads:
                thread.join()


def never_answer(connection: socket.socket) -> None:
    """Keep it open."""


def break_off(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"HTTP/1.1 200 OK\r\nContent-")
    connection.close()


def talk_nonsense(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"220 mail.example ESMTP\r\n")


def trickle(connection: socket.socket) -> None:
    try:
        for _ in range(100):  # 2 s, far beyond the deadline
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10)
            threading.Event().wait(0.02)
        connection.close()
    except OSError:
        return  # the writer has given up


def test_an_api_that_accepts_and_never_answers_hits_the_deadline() -> None:
    with fake_api(never_answer), pytest.raises(ToxiproxySilent, match="1 requests are open"):
        BulkWriter(HOST, API_PORT).send([latency("p0")], deadline=0.2)


def test_the_deadline_is_for_the_whole_call_and_not_for_each_piece() -> None:
    with fake_api(trickle), pytest.raises(ToxiproxySilent):
        BulkWriter(HOST, API_PORT).send([latency("p0")], deadline=0.3)


def test_an_api_that_breaks_off_is_a_failure() -> None:
    with fake_api(break_off), pytest.raises(ToxiproxyFailed, match=r"closed in the middle|reset by peer"):
        BulkWriter(HOST, API_PORT).send([latency("p0"), latency("p0")])


def test_something_else_that_listens_there_is_a_failure() -> None:
    with fake_api(talk_nonsense), pytest.raises(ToxiproxyFailed, match=f"API at {HOST}:{API_PORT} failed"):
        BulkWriter(HOST, API_PORT).send([latency("p0")])


def test_a_bulk_takes_four_connections_at_most() -> None:
    with fake_api(never_answer) as accepted:
        with pytest.raises(ToxiproxySilent):
            BulkWriter(HOST, API_PORT).send([latency(f"p{i}") for i in range(200)], deadline=0.3)
        assert len(accepted) == CONNECTIONS == 4
