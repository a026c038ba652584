"""Real node processes on loopback: what they print, how they end, and what garbage does to them (nothing)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from node.client import Client
from node.errors import ClientDisconnected, ClientProtocolError, ClientRefused, ClientTimeout
from node.wire import FRAME_LIMIT, Contact, Envelope, FrameReader, Ping, Pong, Sender, decode, encode

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # tests of this file may run side by side
HOST, ELSEWHERE = f"127.20.249.{10 + WORKER}", f"127.20.249.{50 + WORKER}"
CLUSTER = "node-process-tests"
BASE = 21000
COMMAND = (sys.executable, "-P", "-m", "node")


def key(name: str) -> bytes:
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.02)


class Nodes:
    """Node processes of one test; node n listens at port BASE + n."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.clients: dict[int, Client] = {}

    def start(self, number: int, *options: str, bootstrap: int | None = 0, cluster: str = CLUSTER) -> dict[str, Any]:
        """Start one and wait for its line."""
        command = [*COMMAND, "serve", "--host", HOST, "--port", str(BASE + number), "--cluster", cluster, *options]
        command += ["--exit-with-parent", "--k", "4", "--log-level", "warning"]
        if bootstrap not in (None, number):
            command += ["--bootstrap", f"{HOST}:{BASE + (bootstrap or 0)}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes[number] = process
        assert process.stdout is not None
        line: dict[str, Any] = json.loads(process.stdout.readline())
        return line

    def client(self, number: int, cluster: str = CLUSTER) -> Client:
        """A client of that node, closed with the test."""
        if number not in self.clients:
            self.clients[number] = Client(HOST, BASE + number, cluster)
        return self.clients[number]

    def knows(self, number: int, count: int) -> bool:
        return self.client(number).inspect(timeout=2.0).table_size >= count

    def network(self, count: int, *options: str, first: int = 0) -> None:
        """So many nodes that know each other."""
        numbers = range(first, first + count)
        for number in numbers:
            self.start(number, *options, bootstrap=first)
        wait_until(lambda: all(self.knows(number, min(4, count - 1)) for number in numbers))

    def end(self, number: int, how: signal.Signals) -> int:
        process = self.processes.pop(number)
        process.send_signal(how)
        code = process.wait(5)
        close(process)
        return code

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        for number in list(self.processes):
            self.end(number, signal.SIGKILL)


def close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.close()


def connected(number: int = 0) -> socket.socket:
    return socket.create_connection((HOST, BASE + number), 2.0)


def contact(line: dict[str, Any]) -> Contact:
    return Contact(bytes.fromhex(line["id"]), line["host"], line["port"])


# --- life ---------------------------------------------------------------------------------------


def test_it_prints_one_line_when_it_serves_and_leaves_on_sigterm(nodes: Nodes) -> None:
    line = nodes.start(0, "--id", "ab" * 20)
    process = nodes.processes[0]
    expected = {"event": "serving", "id": "ab" * 20, "host": HOST, "port": BASE, "pid": process.pid}
    assert line == expected
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads where Linux lists them")
def test_a_node_at_an_address_and_its_dials_need_no_threads_of_a_resolver(nodes: Nodes) -> None:
    nodes.network(2)
    threads = [len(list(Path(f"/proc/{process.pid}/task").iterdir())) for process in nodes.processes.values()]
    assert threads == [2, 2], "the loop, and the watch over standard input"


def of_one_interface() -> str:
    """A link-local address, with its interface; empty where there is none."""
    known = (one.address for addresses in psutil.net_if_addrs().values() for one in addresses)
    return next((address for address in known if address.startswith("fe80:") and "%" in address), "")


@pytest.mark.parametrize("host", ["::1", "localhost", of_one_interface()])
def test_it_listens_at_addresses_of_any_kind_and_at_names(nodes: Nodes, host: str) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or "fe80::1", 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        pytest.skip(f"nobody can listen on {host or 'a link-local address'} here: {error}")
    nodes.start(WORKER, "--host", host)
    with contextlib.closing(Client(host, BASE + WORKER, CLUSTER)) as client:
        client.ping(timeout=2.0)


def test_a_port_that_is_taken_is_named_and_gives_exit_code_1(nodes: Nodes) -> None:
    nodes.start(0)
    second = subprocess.run(
        [*COMMAND, "serve", "--host", HOST, "--port", str(BASE)],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert second.returncode == 1
    assert f"cannot listen on {HOST}:{BASE}" in second.stderr
    assert second.stderr.count("\n") == 1


def test_it_ends_when_standard_input_ends(nodes: Nodes) -> None:
    nodes.start(0)
    stdin = nodes.processes[0].stdin
    assert stdin is not None
    stdin.close()
    assert nodes.processes[0].wait(5) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_it_dies_with_its_parent_even_if_standard_input_stays_open() -> None:
    serve = [*COMMAND, "serve", "--host", HOST, "--port", str(BASE), "--exit-with-parent"]
    keep, give = os.pipe()  # its standard input, whose other end this test holds
    script = f"import subprocess, sys; p = subprocess.Popen({serve!r}, stdin={keep}); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, pass_fds=(keep,))
    assert parent.stdout is not None
    pid = json.loads(parent.stdout.readline())["pid"]
    parent.kill()
    parent.wait(5)
    try:
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z (" in Path(f"/proc/{pid}/status").read_text(), 5.0)
    finally:
        close(parent)
        os.close(keep)
        os.close(give)


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    command = [*COMMAND, "serve", "--host", HOST, "--port", str(BASE), "--exit-with-parent", "--parent-pid", "999999"]
    ended = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=10, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


# --- a network ----------------------------------------------------------------------------------


def test_a_value_is_found_through_every_node_also_after_its_holders_were_killed(nodes: Nodes) -> None:
    nodes.network(6)
    stored = nodes.client(3).put(key("x"), b"value", timeout=5.0)
    assert stored.acks == 4
    for number in (1, 2):
        nodes.end(number, signal.SIGKILL)
    for number in (0, 3, 4, 5):
        found = nodes.client(number).get(key("x"), timeout=5.0)
        assert (found.found, found.value, found.error) == (True, b"value", "")


def test_a_node_killed_and_restarted_empty_gets_its_records_back(nodes: Nodes) -> None:
    nodes.network(5)
    identity = nodes.client(4).inspect(timeout=2.0).id.hex()
    for n in range(20):
        assert nodes.client(n % 4).put(key(f"{n}"), b"v", timeout=5.0).acks == 4
    before = nodes.client(4).inspect(records=True, timeout=2.0).records
    assert before
    nodes.end(4, signal.SIGKILL)
    nodes.start(4, "--id", identity)
    wanted = {held.key for held in before}
    wait_until(lambda: wanted <= {held.key for held in nodes.client(4).inspect(records=True, timeout=2.0).records})


def test_records_in_a_data_dir_survive_sigkill(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start(0, "--data-dir", str(tmp_path), bootstrap=None)
    for n in range(50):
        assert nodes.client(0).put(key(f"{n}"), b"%d" % n, timeout=5.0).holds
    nodes.end(0, signal.SIGKILL)
    nodes.start(0, "--data-dir", str(tmp_path), bootstrap=None)
    assert [nodes.client(0).get(key(f"{n}"), timeout=5.0).value for n in range(50)] == [b"%d" % n for n in range(50)]


def test_what_was_acknowledged_before_a_sigkill_amid_puts_is_there_after_it(nodes: Nodes, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    nodes.start(0, "--data-dir", str(tmp_path), bootstrap=None)
    client, acknowledged = nodes.client(0), set[int]()

    def put_on(first: int) -> None:
        """Put one after the other until the node is gone."""
        with contextlib.suppress(ClientDisconnected, ClientRefused):
            for n in itertools.count(first, 8):
                if client.put(key(f"{n}"), b"%d" % n * 200, timeout=5.0).acks:
                    acknowledged.add(n)

    with ThreadPoolExecutor(8) as pool:
        putting = [pool.submit(put_on, first) for first in range(8)]
        wait_until(lambda: len(acknowledged) >= 400)
        nodes.end(0, signal.SIGKILL)
        for each in putting:
            each.result(10.0)
    nodes.start(0, "--data-dir", str(tmp_path), bootstrap=None)
    lost = [n for n in sorted(acknowledged) if client.get(key(f"{n}"), timeout=5.0).value != b"%d" % n * 200]
    assert not lost


def test_one_shot_commands_store_look_up_and_look_inside(nodes: Nodes) -> None:
    nodes.network(3)

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *arguments[:1], "--at", f"{HOST}:{BASE}", "--cluster", CLUSTER, *arguments[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert json.loads(ask("put", "greeting", "hello").stdout)["acks"] == 3
    assert json.loads(ask("put", "greeting", "never", "--version", "1").stdout)["newer"] == 3
    assert ask("get", "greeting").stdout == "hello\n"
    assert ask("get", "nothing").returncode == 1
    assert json.loads(ask("inspect").stdout)["contacts"] == 2
    assert json.loads(ask("ping").stdout)["round_trip_ms"] > 0


def test_a_node_listens_at_another_address_than_others_dial_and_an_images_check_needs_no_options(nodes: Nodes) -> None:
    assert nodes.start(0, "--listen", ELSEWHERE, bootstrap=None)["host"] == HOST
    environment = {**os.environ, "KADEMLIA_AT": f"{ELSEWHERE}:{BASE}", "KADEMLIA_CLUSTER": CLUSTER}
    there = subprocess.run([*COMMAND, "ping"], env=environment, capture_output=True, timeout=20, check=True)
    assert json.loads(there.stdout)["round_trip_ms"] > 0
    with pytest.raises(ClientRefused):
        nodes.client(0).inspect(timeout=2.0)


@pytest.mark.parametrize(("size", "version"), [(FRAME_LIMIT, 0), (FRAME_LIMIT - 2000, 0), (1, 2**70)])
def test_a_value_or_version_that_does_not_fit_is_an_error_of_the_client(nodes: Nodes, size: int, version: int) -> None:
    nodes.start(0, bootstrap=None)
    with pytest.raises(ClientProtocolError, match=r"over the limit|serialize ints"):
        nodes.client(0).put(key("x"), bytes(size), version=version, timeout=5.0)
    assert nodes.client(0).put(key("x"), b"fits", timeout=5.0).holds


# --- pings for observers ------------------------------------------------------------------------


def test_a_ping_between_nodes_is_measured_with_the_clock_that_all_share(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    other = contact(nodes.start(1, bootstrap=None))
    before = time.monotonic_ns()
    report = nodes.client(0).ping_via(other, b"nonce-1", timeout=2.0, padding=1000)
    assert report.outcome == "ok"
    assert before < report.sent_at <= report.received_at <= report.returned_at < time.monotonic_ns()
    assert b"nonce-1" in nodes.client(1).inspect(timeout=2.0).nonces
    assert nodes.client(1).inspect(timeout=2.0).table_size == 0, "it teaches nobody"


def test_a_ping_of_a_dead_node_is_refused_and_one_over_a_dead_connection_dials_again(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    other = contact(nodes.start(1, "--id", "cd" * 20, bootstrap=None))
    ask = nodes.client(0)
    assert ask.ping_via(other, b"1", timeout=2.0).outcome == "ok"
    nodes.end(1, signal.SIGKILL)
    assert ask.ping_via(other, b"2", timeout=2.0).outcome == "refused"
    nodes.start(1, "--id", "cd" * 20, bootstrap=None)
    assert ask.ping_via(other, b"3", timeout=2.0).outcome == "ok"


def test_a_ping_of_a_frozen_node_times_out_when_told_to(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    other = contact(nodes.start(1, bootstrap=None))
    nodes.processes[1].send_signal(signal.SIGSTOP)
    for nonce in (b"first", b"while the first may still be answered late"):
        started = time.monotonic()
        assert nodes.client(0).ping_via(other, nonce, timeout=0.3).outcome == "timeout"
        assert 0.3 <= time.monotonic() - started < 0.8
    nodes.processes[1].send_signal(signal.SIGCONT)


def accept_and_close(listener: socket.socket) -> None:
    """What Toxiproxy does in front of a dead node."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_an_address_that_accepts_and_closes_counts_as_refused_at_once(nodes: Nodes) -> None:
    import threading

    nodes.start(0, bootstrap=None)
    with socket.create_server((HOST, BASE + 50)) as listener:
        thread = threading.Thread(target=accept_and_close, args=(listener,))
        thread.start()
        started = time.monotonic()
        report = nodes.client(0).ping_via(Contact(key("dead"), HOST, BASE + 50), b"1", timeout=3.0)
        took = time.monotonic() - started
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert report.outcome == "refused"
    assert took < 1.0


def test_a_connection_that_is_lost_while_a_request_waits_is_dialled_again_once(nodes: Nodes) -> None:
    import threading

    here, dialled = Contact(key("flaky"), HOST, BASE + 52), list[int]()

    def serve(listener: socket.socket) -> None:
        """Answer one request on each connection; when the second comes, hang up."""
        for _ in range(2):
            with listener.accept()[0] as sock:
                dialled.append(1)
                body = FrameReader().feed(sock.recv(4096))[0]
                asked = decode(body, CLUSTER)
                assert isinstance(asked.message, Ping)
                sock.sendall(encode(Envelope(CLUSTER, asked.rid, Sender(here, 1), Pong(asked.message.nonce, 7))))
                sock.recv(4096)

    nodes.start(0, bootstrap=None)
    with socket.create_server((HOST, BASE + 52)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        outcomes = [nodes.client(0).ping_via(here, b"%d" % n, timeout=2.0).outcome for n in range(2)]
        nodes.end(0, signal.SIGKILL)
        thread.join()
    assert outcomes == ["ok", "ok"]
    assert len(dialled) == 2


def test_with_egress_every_contact_is_dialled_at_the_offset(nodes: Nodes) -> None:
    nodes.start(0, "--egress", f"{HOST}:60", bootstrap=None)
    nodes.start(62, bootstrap=None)
    advertised = Contact(key("anything"), "192.0.2.1", BASE + 2)
    assert nodes.client(0).ping_via(advertised, b"offset", timeout=2.0).outcome == "ok"
    assert b"offset" in nodes.client(62).inspect(timeout=2.0).nonces


# --- operation ----------------------------------------------------------------------------------


def test_logs_are_an_object_a_line_if_asked(nodes: Nodes) -> None:
    command = [*COMMAND, "serve", "--host", HOST, "--port", str(BASE), "--log-format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, logged = process.communicate(timeout=10)
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [line["event"] for line in lines] == ["serving", "leaving", "left"]
    assert lines[0]["port"] == BASE
    assert "loop_lag_most_us" in lines[2]
    assert all(line["level"] == "info" and line["time"] > 0 for line in lines)


def test_bytes_and_frames_are_counted_by_kind(nodes: Nodes) -> None:
    nodes.network(3)
    nodes.client(0).put(key("x"), b"v" * 500, timeout=5.0)
    counters = nodes.client(0).inspect(timeout=2.0).counters
    assert counters["frames_out.Store"] == counters["rpcs_out.Store"] == 2
    assert counters["bytes_out.Store"] > 2 * 500
    assert counters["frames_in.Stored"] == 2
    assert counters["loop_lag_us"] >= 0
    assert counters["store_bytes"] == 500


def test_a_node_that_is_told_to_leave_hands_its_records_over(nodes: Nodes) -> None:
    for number in range(6):
        nodes.start(number, "--republish", "1h")
    wait_until(lambda: all(nodes.knows(number, 4) for number in range(6)))
    for n in range(10):
        assert nodes.client(0).put(key(f"{n}"), b"v", timeout=5.0).acks == 4
    assert nodes.end(5, signal.SIGTERM) == 0
    holders = [0] * 10
    for number in range(5):
        held = {each.key for each in nodes.client(number).inspect(records=True, timeout=2.0).records}
        for n in range(10):
            holders[n] += key(f"{n}") in held
    assert min(holders) == 4


# --- strangers and garbage ----------------------------------------------------------------------


def test_another_cluster_is_refused_and_counted(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    stranger = Client(HOST, BASE, "another")
    with pytest.raises(ClientDisconnected):
        stranger.get(key("x"), timeout=2.0)
    stranger.close()
    assert nodes.client(0).inspect(timeout=2.0).counters["foreign"] == 1


def test_nodes_of_another_cluster_never_get_into_the_table(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    nodes.start(1, cluster="another")
    wait_until(lambda: nodes.client(0).inspect(timeout=2.0).counters["foreign"] >= 2)
    assert nodes.client(0).inspect(timeout=2.0).table_size == 0


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "oversized": (FRAME_LIMIT + 1).to_bytes(4, "big"),
    "no msgpack": (4).to_bytes(4, "big") + b"\xc1\xc1\xc1\xc1",
    "wrong types": (3).to_bytes(4, "big") + b"\x92\x01\x02",
    "deep nesting": (100_000).to_bytes(4, "big") + b"\x91" * 100_000,
}


def not_held(nodes: Nodes, number: int, name: str) -> str:
    """A name like ``name`` whose record, put through another node, that node does not hold."""
    for n in range(100):
        stored = nodes.client(number + 1).put(key(f"{name} {n}"), b"value", timeout=5.0)
        held = {each.key for each in nodes.client(number).inspect(records=True, timeout=2.0).records}
        if stored.acks == 4 and key(f"{name} {n}") not in held:
            return f"{name} {n}"
    raise AssertionError(f"node {number} holds everything")


OTHERS = 100  # the first of their numbers


@pytest.fixture(scope="module")
def others() -> Iterator[Nodes]:
    """A network in which a node does not hold every record: there are more of them than k."""
    started = Nodes()
    started.network(7, "--cache", "off", first=OTHERS)
    yield started
    started.close()


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_closes_its_connection_is_counted_and_hurts_no_lookup_through_that_node(
    others: Nodes, garbage: bytes
) -> None:
    name = not_held(others, OTHERS, "amid garbage")
    before = others.client(OTHERS).inspect(timeout=2.0).counters["malformed"]
    with connected(OTHERS) as sock:
        sock.sendall(garbage)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    found = others.client(OTHERS).get(key(name), timeout=2.0)
    assert (found.found, found.value) == (True, b"value")
    assert found.rpcs > 0, "the lookup left the node"
    assert others.client(OTHERS).inspect(timeout=2.0).counters["malformed"] == before + 1


@pytest.mark.parametrize("sent", [0, 2, 4, 9], ids=["nothing", "half-a-length", "the-length", "half-a-body"])
def test_a_frame_that_ends_with_its_connection_hurts_no_lookup_through_that_node(others: Nodes, sent: int) -> None:
    name = not_held(others, OTHERS, "amid truncated frames")
    before = others.client(OTHERS).inspect(timeout=2.0).counters
    with connected(OTHERS) as sock:
        sock.sendall(encode(Envelope(CLUSTER, 1, None, Ping()))[:sent])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "neither answered nor kept open"
    found = others.client(OTHERS).get(key(name), timeout=2.0)
    assert (found.found, found.value) == (True, b"value")
    assert found.rpcs > 0, "the lookup left the node"
    after = others.client(OTHERS).inspect(timeout=2.0).counters
    assert after["connections_in"] <= before["connections_in"]
    assert after["malformed"] == before["malformed"], "what has not come to its end is not wrong"


def test_slow_bytes_and_many_idle_connections_do_not_get_in_the_way(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    frame = encode(Envelope(CLUSTER, 1, None, Ping()))
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(connected()) for _ in range(300)]
        for n, byte in enumerate(frame[:-1]):
            many[n % 300].sendall(bytes([byte]))
        nodes.client(0).put(key("x"), b"v", timeout=2.0)
        assert nodes.client(0).get(key("x"), timeout=2.0).found
        slow = many[-1]
        for byte in frame:
            slow.sendall(bytes([byte]))
        assert slow.recv(4)


MANY = 10_000


def test_ten_thousand_connections_and_all_garbage_at_once_leave_a_lookup_through_that_node_working(
    nodes: Nodes,
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < MANY + 500:
        pytest.skip(f"this machine allows {most} descriptors, and the test needs {MANY + 500}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    nodes.network(7)
    wanted = not_held(nodes, 0, "x")
    frame = encode(Envelope(CLUSTER, 1, None, Ping()))
    with contextlib.ExitStack() as stack:
        for n in range(MANY):
            sock = stack.enter_context(connected())
            if n % 50 == 0:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(list(GARBAGE.values())[n // 50 % len(GARBAGE)])
            elif n % 7 == 0:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(frame[: 1 + n % (len(frame) - 1)])  # truncated, or the first of slow bytes
                    if n % 2:
                        sock.shutdown(socket.SHUT_WR)
        fresh = Client(HOST, BASE, CLUSTER)  # one that comes when all places are taken
        found = fresh.get(key(wanted), timeout=30.0)
        assert (found.found, found.value) == (True, b"value")
        assert found.rpcs > 0, "the lookup left the node"
        assert fresh.put(key("y"), b"new", timeout=30.0).acks == 4
        counters = fresh.inspect(timeout=30.0).counters
        fresh.close()
    assert counters["connections_in"] <= 4096
    assert counters["malformed"] >= 100
    assert nodes.client(1).get(key("y"), timeout=5.0).value == b"new"


def test_who_does_not_take_its_answers_is_not_read_from_any_more(nodes: Nodes) -> None:
    nodes.start(0, bootstrap=None)
    frame = encode(Envelope(CLUSTER, 1, None, Ping(padding=bytes(2**19))))
    before = nodes.client(0).inspect(timeout=2.0).memory
    with connected() as sock:
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(400):  # 200 MiB, all of which would have to wait in the node's memory
                sock.sendall(frame)
        assert nodes.client(0).inspect(timeout=2.0).memory - before < 60 * 2**20


# --- the client ---------------------------------------------------------------------------------


def test_many_requests_are_in_flight_on_one_connection(nodes: Nodes) -> None:
    from concurrent.futures import ThreadPoolExecutor

    nodes.start(0, bootstrap=None)
    client = nodes.client(0)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: client.put(key(f"{n}"), b"%d" % n, timeout=5.0), range(200)))
        found = list(pool.map(lambda n: client.get(key(f"{n}"), timeout=5.0).value, range(200)))
    assert found == [b"%d" % n for n in range(200)]
    assert client.inspect(timeout=2.0).counters["connections_in"] == 1


def test_a_client_tells_refused_from_timeout_from_disconnected_and_recovers(nodes: Nodes) -> None:
    client = Client(HOST, BASE, CLUSTER)
    with pytest.raises(ClientRefused, match=f"{HOST}:{BASE}"):
        client.get(key("x"), timeout=1.0)
    nodes.start(0, bootstrap=None)
    assert not client.get(key("x"), timeout=2.0).found
    nodes.processes[0].send_signal(signal.SIGSTOP)
    with pytest.raises(ClientTimeout, match=r"no answer within 0\.2 s"):
        client.get(key("x"), timeout=0.2)
    nodes.end(0, signal.SIGKILL)
    with pytest.raises((ClientDisconnected, ClientRefused)):
        client.get(key("x"), timeout=1.0)
    nodes.start(0, bootstrap=None)
    assert not client.get(key("x"), timeout=2.0).found
    client.close()


def test_a_server_that_is_no_node_is_a_protocol_error() -> None:
    import threading

    def answer_nonsense(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall((2).to_bytes(4, "big") + b"\xc1\xc1")
            sock.recv(4096)

    with socket.create_server((HOST, BASE + 51)) as listener:
        thread = threading.Thread(target=answer_nonsense, args=(listener,))
        thread.start()
        client = Client(HOST, BASE + 51, CLUSTER)
        with pytest.raises(ClientProtocolError):
            client.get(key("x"), timeout=2.0)
        client.close()
        thread.join()
