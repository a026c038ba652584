"""Effects felt with real sockets through a real Toxiproxy: in the direction that was asked, at once, and gone after.

The nodes are echo servers in this process that note what arrives and when, so that each direction is seen apart. Bounds in
time are floors: what was delayed came late enough. What was not delayed is compared with the floor of what was.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from harness.effects import LinkEffect, LinkEffectKind
from harness.errors import ToxiproxyFailed, ToxiproxySilent
from harness.links import Link, Topology
from harness.reconciler import LinkReconciler, desired_state, state_told
from harness.records import PlannedNode
from harness.spawner import Spawner
from harness.toxiproxy import binary
from harness.toxiproxy.bulk import ApiRequest, ApiResponse, BulkWriter
from harness.toxiproxy.server import ToxiproxyServer

HOST = f"127.20.246.{2 + os.getpid() % 250}"  # one address a test process: two runs of the tests do not meet
API_PORT = 9474
PATIENCE = 10.0  # s; only a failing test waits so long
DELAY = 150  # ms

A_TO_B, B_TO_A = Link("site-0", "node-1"), Link("site-1", "node-0")  # the connections that A, and that B opens


def topology_of(*sites: int) -> Topology:
    nodes = [PlannedNode(f"node-{i}", f"{i:040x}", f"site-{site}") for i, site in enumerate(sites)]
    return Topology.build(nodes, host=HOST)


PAIR = topology_of(0, 1)  # A is node-0 in site-0, B is node-1 in site-1


def effect(kind: LinkEffectKind, *, toxicity: int = 1000, **attributes: int) -> LinkEffect:
    """An effect on what travels from A to B."""
    return LinkEffect("site-0", "site-1", kind, tuple(sorted(attributes.items())), toxicity)


SLOW = effect("latency", latency=DELAY, jitter=0)


# --- the two nodes and what is between them --------------------------------------------------------------------------


class Node(socketserver.ThreadingTCPServer):
    """An echo server that notes what arrives. `say` sends on all connections unasked; a quiet one does not echo."""

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, port: int) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.ends: list[float] = []
        self.callers: list[socket.socket] = []
        self.changed = threading.Condition()
        super().__init__((HOST, port), _Echo)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def note(self, change: Callable[[], None]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)

    def heard(self) -> bytes:
        return b"".join(data for _, data in self.arrivals)

    def say(self, data: bytes) -> None:
        for caller in self.callers:
            caller.sendall(data)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        node, caller = self.server, self.request
        assert isinstance(node, Node)
        node.note(lambda: node.callers.append(caller))
        try:
            while data := caller.recv(65536):
                arrival = (time.monotonic(), data)
                node.note(lambda arrival=arrival: node.arrivals.append(arrival))  # type: ignore[misc]
                caller.sendall(data)
        except ConnectionError:
            pass  # cut by a fault
        node.note(lambda: (node.callers.remove(caller), node.ends.append(time.monotonic())))  # type: ignore[arg-type,func-returns-value]


class Hasty(BulkWriter):
    """A bulk writer with little patience, for tests of what hangs."""

    def send(self, requests: Sequence[ApiRequest], *, deadline: float = 1.0) -> list[ApiResponse]:
        return super().send(requests, deadline=deadline)


@pytest.fixture(scope="module")
def toxiproxy_binary() -> Path:
    return binary.find(None)


@pytest.fixture(scope="module")
def spawn() -> Iterator[Spawner]:
    spawner = Spawner("test-reconciler")
    yield spawner
    spawner.close()


@pytest.fixture
def nodes() -> Iterator[dict[str, Node]]:
    with ExitStack() as stack:
        made = {}
        for name in PAIR.names:
            made[name] = Node(PAIR.port_of(name))
            stack.callback(made[name].close)
        yield made


@pytest.fixture
def server(toxiproxy_binary: Path, spawn: Spawner, tmp_path: Path) -> Iterator[ToxiproxyServer]:
    started = ToxiproxyServer(toxiproxy_binary, HOST, API_PORT, log=tmp_path / "toxiproxy.log", spawn=spawn)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def links(nodes: dict[str, Node], server: ToxiproxyServer) -> LinkReconciler:
    """The links of the pair, without effects. Depends on the nodes, so that Toxiproxy ends before them."""
    made = LinkReconciler(PAIR, server.control, Hasty(HOST, API_PORT))
    made.create()
    return made


Dial = Callable[[Link], socket.socket]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connects as nodes of the link's site do."""
    with ExitStack() as stack:

        def connect(link: Link) -> socket.socket:
            address = (HOST, PAIR.port_of(link.node) + PAIR.offset_of(link.site))
            return stack.enter_context(socket.create_connection(address, PATIENCE))

        yield connect


def exchange(connection: socket.socket, node: Node) -> tuple[float, float]:
    """One byte there and back: milliseconds of the way there and of the way back."""
    count = len(node.arrivals)
    sent = time.monotonic()
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    back = time.monotonic()
    there = node.arrivals[count][0]
    return (there - sent) * 1000, (back - there) * 1000


def quickest(connection: socket.socket, node: Node, tries: int = 5) -> tuple[float, float]:
    """The least of each way: what a busy machine adds is not the fault's."""
    ways = [exchange(connection, node) for _ in range(tries)]
    return min(there for there, _ in ways), min(back for _, back in ways)


def ended(connection: socket.socket) -> str:
    """How a connection ends: 'closed' or 'reset'; what comes before its end is read away."""
    try:
        while connection.recv(65536):
            continue
    except ConnectionResetError:
        return "reset"
    return "closed"


def pid_of(server: ToxiproxyServer) -> int:
    listening = [each for each in psutil.net_connections("tcp4") if each.status == psutil.CONN_LISTEN]
    (pid,) = {each.pid for each in listening if each.laddr == (server.host, server.port)}
    assert pid is not None
    return pid


# --- bytes from A to B -----------------------------------------------------------------------------------------------


def test_latency_delays_requests_of_a_and_answers_to_b_and_nothing_else(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    from_a, from_b = dial(A_TO_B), dial(B_TO_A)
    exchange(from_a, nodes["node-1"])
    exchange(from_b, nodes["node-0"])
    links.apply([SLOW])  # on connections that live
    there, back = quickest(from_a, nodes["node-1"])
    assert there >= DELAY - 1 > back
    there, back = quickest(from_b, nodes["node-0"])
    assert back >= DELAY - 1 > there


def test_latencies_of_two_faults_add_up_and_leave_one_by_one(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    from_a = dial(A_TO_B)
    links.apply([SLOW, SLOW])
    assert quickest(from_a, nodes["node-1"], 2)[0] >= 2 * DELAY - 1
    links.apply([SLOW])
    assert 2 * DELAY > quickest(from_a, nodes["node-1"])[0] >= DELAY - 1
    links.apply([])
    assert quickest(from_a, nodes["node-1"])[0] < DELAY


def test_a_black_hole_swallows_what_a_says_on_both_connections_and_lets_b_be_heard(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    a, b = nodes["node-0"], nodes["node-1"]
    from_a, from_b = dial(A_TO_B), dial(B_TO_A)
    exchange(from_a, b)
    exchange(from_b, a)
    links.apply([effect("blackhole")])
    from_a.sendall(b"lost request")
    b.say(b"heard on A's connection")
    assert from_a.recv(65536) == b"heard on A's connection"
    from_b.sendall(b"heard request")
    a.wait(lambda: a.heard() == b"xheard request")  # A got it, and its echo is lost
    links.apply([])
    assert [ended(from_a), ended(from_b)] == ["closed", "closed"]  # what is held is dropped, not sent late
    b.wait(lambda: b.ends)
    assert b.heard() == b"x"


def test_connections_stay_open_in_a_black_hole_and_fresh_ones_work_after_the_heal(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    links.apply([effect("blackhole")])
    held = dial(A_TO_B)
    held.sendall(b"lost")
    held.settimeout(0.2)
    with pytest.raises(TimeoutError):
        held.recv(1)
    links.apply([])
    exchange(dial(A_TO_B), nodes["node-1"])
    assert nodes["node-1"].heard() == b"x"


def test_bandwidth_is_a_ceiling_from_a_to_b(links: LinkReconciler, nodes: dict[str, Node], dial: Dial) -> None:
    links.apply([effect("bandwidth", rate=100), effect("bandwidth", rate=1000)])
    from_a, b = dial(A_TO_B), nodes["node-1"]
    began = time.monotonic()
    from_a.sendall(bytes(40_000))
    b.wait(lambda: len(b.heard()) == 40_000)
    assert time.monotonic() - began >= 0.3  # 40 KB at 100 KB/s are 0.4 s; the first piece may go at once


def test_stacked_slicers_cut_the_bytes_small_and_lose_none(
    links: LinkReconciler, server: ToxiproxyServer, nodes: dict[str, Node], dial: Dial
) -> None:
    links.apply(
        [
            effect("slicer", average_size=10, size_variation=0, delay=0),
            effect("slicer", average_size=1000, size_variation=500, delay=10),  # alone or not: never a panic
        ]
    )
    from_a, b = dial(A_TO_B), nodes["node-1"]
    sent = bytes(range(256)) * 40
    for start in range(0, len(sent), 1024):
        from_a.sendall(sent[start : start + 1024])
    b.wait(lambda: len(b.heard()) == len(sent))
    assert b.heard() == sent
    assert len(b.arrivals) > 10
    assert server.alive()


def test_a_connection_with_limited_data_ends_after_so_many_bytes(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    links.apply([effect("limit_data", bytes=100)])
    from_a, b = dial(A_TO_B), nodes["node-1"]
    from_a.sendall(bytes(150))
    b.wait(lambda: b.ends)
    assert len(b.heard()) == 100


def test_a_slow_close_keeps_b_waiting_for_the_end(links: LinkReconciler, nodes: dict[str, Node], dial: Dial) -> None:
    links.apply([effect("slow_close", delay=DELAY)])
    from_a, b = dial(A_TO_B), nodes["node-1"]
    exchange(from_a, b)
    closed = time.monotonic()
    from_a.shutdown(socket.SHUT_WR)
    b.wait(lambda: b.ends)
    assert (b.ends[0] - closed) * 1000 >= DELAY - 1


# --- connections from A to B -----------------------------------------------------------------------------------------


def test_refusal_ends_and_refuses_connections_of_a_to_b_and_leaves_those_of_b_to_a(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    from_a, from_b = dial(A_TO_B), dial(B_TO_A)
    exchange(from_a, nodes["node-1"])
    exchange(from_b, nodes["node-0"])
    links.apply([effect("refuse")])
    assert ended(from_a) in ("closed", "reset")
    with pytest.raises(ConnectionRefusedError):
        dial(A_TO_B)
    exchange(from_b, nodes["node-0"])
    links.apply([])
    exchange(dial(A_TO_B), nodes["node-1"])


def test_a_reset_ends_live_connections_and_resets_new_ones(
    links: LinkReconciler, nodes: dict[str, Node], dial: Dial
) -> None:
    live, from_b = dial(A_TO_B), dial(B_TO_A)
    exchange(live, nodes["node-1"])
    exchange(from_b, nodes["node-0"])
    links.apply([effect("reset", timeout=0)])
    assert ended(live) in ("closed", "reset")
    fresh = dial(A_TO_B)
    fresh.sendall(b"x")
    assert ended(fresh) == "reset"
    exchange(from_b, nodes["node-0"])
    links.apply([])
    exchange(dial(A_TO_B), nodes["node-1"])


# --- a destination that cannot answer --------------------------------------------------------------------------------

PAUSED_NODE = """
import socket, sys
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[1], int(sys.argv[2])))
    listener.listen(0)
    print("up", flush=True)
    kept = []
    while True:
        kept.append(listener.accept())
"""


@pytest.fixture
def paused_node() -> Iterator[subprocess.Popen[bytes]]:
    """B as a process of its own with a short backlog, stopped by SIGSTOP."""
    argv = [sys.executable, "-c", PAUSED_NODE, HOST, str(PAIR.port_of("node-1"))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def stuck(paused_node: subprocess.Popen[bytes], server: ToxiproxyServer, dial: Dial) -> LinkReconciler:
    """The links, with Toxiproxy in the middle of a connect to B, whose backlog is full."""
    made = LinkReconciler(PAIR, server.control, Hasty(HOST, API_PORT))
    made.create()
    for _ in range(6):
        dial(A_TO_B)
    wait_connecting(server, True)
    return made


def wait_connecting(server: ToxiproxyServer, wanted: bool) -> None:
    """Wait until a connect of Toxiproxy is pending, or until none is."""
    process, deadline = psutil.Process(pid_of(server)), time.monotonic() + PATIENCE
    while any(each.status == psutil.CONN_SYN_SENT for each in process.net_connections("tcp4")) != wanted:
        assert time.monotonic() < deadline, f"connects of Toxiproxy are still {'not ' if wanted else ''}pending"
        threading.Event().wait(0.01)


def test_disabling_the_proxy_of_a_paused_node_hangs_which_is_why_we_never_do(stuck: LinkReconciler) -> None:
    with pytest.raises(ToxiproxySilent):
        stuck.apply([effect("refuse")], unresponsive=())  # as if nobody had said that B is paused


@pytest.mark.parametrize("kind", ["refuse", "reset", "blackhole"])
def test_a_fault_on_a_paused_node_with_a_full_backlog_never_freezes_the_api(
    stuck: LinkReconciler, server: ToxiproxyServer, kind: LinkEffectKind
) -> None:
    attributes = {"timeout": 0} if kind == "reset" else {}
    fault = effect(kind, **attributes)
    stuck.apply([SLOW], unresponsive={"node-1"})
    stuck.apply([SLOW, fault], unresponsive={"node-1"})
    assert stuck.verify() == []
    stuck.apply([], unresponsive={"node-1"})
    assert stuck.verify() == []
    assert all(told["enabled"] for told in server.control.states().values())


def test_a_refused_link_is_refused_again_when_its_node_is_back(
    stuck: LinkReconciler, server: ToxiproxyServer, paused_node: subprocess.Popen[bytes], dial: Dial
) -> None:
    stuck.apply([effect("refuse")], unresponsive={"node-1"})
    dial(A_TO_B)  # a black hole: it connects
    paused_node.send_signal(signal.SIGCONT)
    wait_connecting(server, False)  # the kernel knocks again a second after it found the backlog full
    stuck._writer = BulkWriter(HOST, API_PORT)  # patient: each caller that still waits may cost another such second
    stuck.apply([effect("refuse")])
    with pytest.raises(ConnectionRefusedError):
        dial(A_TO_B)
    assert stuck.verify() == []


# --- Toxiproxy that fails --------------------------------------------------------------------------------------------


def test_a_crash_of_toxiproxy_is_told(links: LinkReconciler, server: ToxiproxyServer) -> None:
    os.kill(pid_of(server), signal.SIGKILL)
    with pytest.raises(ToxiproxyFailed, match=f"API at {HOST}:{API_PORT} failed"):
        links.apply([SLOW])


def test_after_a_hang_the_next_call_goes_on_from_the_truth(links: LinkReconciler, server: ToxiproxyServer) -> None:
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ToxiproxySilent, match="did not answer in time"):
        links.apply([SLOW])
    os.kill(pid, signal.SIGCONT)
    links.apply([effect("refuse")])
    assert links.verify() == []
    links.apply([])
    assert links.verify() == []


def test_what_somebody_else_changed_is_seen_and_mended(links: LinkReconciler, server: ToxiproxyServer) -> None:
    links.apply([SLOW])
    BulkWriter(HOST, API_PORT).send([ApiRequest("POST", "/reset")])
    assert links.verify() == [A_TO_B.proxy, B_TO_A.proxy]
    links.apply([])  # the toxic to be removed is not there: refused, read back, and there is nothing left to do
    assert links.verify() == []


# --- any sequence of faults ------------------------------------------------------------------------------------------

SHARED = topology_of(0, 1, 0, 1, 2)
ATTRIBUTES: dict[LinkEffectKind, st.SearchStrategy[tuple[tuple[str, int], ...]]] = {
    "latency": st.tuples(
        st.tuples(st.just("jitter"), st.integers(0, 20)), st.tuples(st.just("latency"), st.integers(20, 90))
    ),
    "bandwidth": st.tuples(st.tuples(st.just("rate"), st.integers(1, 900))),
    "slicer": st.tuples(
        st.tuples(st.just("average_size"), st.integers(1, 99)), st.tuples(st.just("size_variation"), st.integers(0, 99))
    ),
    "slow_close": st.tuples(st.tuples(st.just("delay"), st.integers(0, 99))),
    "limit_data": st.tuples(st.tuples(st.just("bytes"), st.integers(0, 99))),
    "reset": st.tuples(st.tuples(st.just("timeout"), st.integers(0, 99))),
    "blackhole": st.just(()),
    "refuse": st.just(()),
}


SEQUENCES = [
    15,
    pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
]


@pytest.mark.parametrize("sequences", SEQUENCES)
def test_any_sequence_of_faults_leaves_toxiproxy_as_the_model_says(server: ToxiproxyServer, sequences: int) -> None:
    reconciler = LinkReconciler(SHARED, server.control, BulkWriter(HOST, API_PORT))

    class Faults(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            BulkWriter(HOST, API_PORT).send([ApiRequest("POST", "/reset")])
            reconciler.create()
            self.in_force: list[LinkEffect] = []
            self.down: set[str] = set()

        def apply(self) -> None:
            reconciler.apply(self.in_force, self.down)

        @rule(data=st.data(), kind=st.sampled_from(sorted(ATTRIBUTES)), toxicity=st.sampled_from([1000, 333]))
        def inject(self, data: st.DataObject, kind: LinkEffectKind, toxicity: int) -> None:
            here, there = data.draw(st.tuples(*[st.sampled_from(SHARED.sites)] * 2))
            self.in_force.append(LinkEffect(here, there, kind, data.draw(ATTRIBUTES[kind]), toxicity))
            self.apply()

        @rule(data=st.data())
        def heal(self, data: st.DataObject) -> None:
            if self.in_force:
                self.in_force.pop(data.draw(st.integers(0, len(self.in_force) - 1)))
            self.apply()

        @rule(node=st.sampled_from(SHARED.names))
        def go_down_or_come_back(self, node: str) -> None:
            self.down ^= {node}
            self.apply()

        @invariant()
        def toxiproxy_is_as_the_model_says(self) -> None:
            assert reconciler.verify() == []
            told: dict[str, Any] = server.control.states()
            assert {name: state_told(each) for name, each in told.items()} == desired_state(
                SHARED, self.in_force, self.down
            )

        def teardown(self) -> None:
            reconciler.apply([])
            assert all(each["enabled"] and not each["toxics"] for each in server.control.states().values())

    bounded = settings(
        max_examples=sequences,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(Faults, settings=bounded)
