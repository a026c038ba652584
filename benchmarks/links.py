"""What the harness adds to the bare cost of Toxiproxy's API: making 2,450 links, and a one-way partition of 50 nodes.

Run: ``python benchmarks/links.py [--quick] [--json FILE]`` (a Toxiproxy binary as `harness.toxiproxy.binary` finds it).

Each figure is the least of all rounds, each round on a fresh server: what other programs add to a time is not ours. The
bare side is the least that can be asked of any client: bytes made beforehand, answers counted and not read. A ratio of
1.00 is nothing added.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from figures import Figure, at_most, write

from harness.effects import LinkEffect
from harness.links import Topology
from harness.reconciler import LinkReconciler, ProxyState, desired_state, proxy_payloads, requests_for
from harness.records import PlannedNode
from harness.spawner import Spawner
from harness.toxiproxy import binary
from harness.toxiproxy.bulk import CONNECTIONS, WINDOW, ApiRequest, BulkWriter
from harness.toxiproxy.server import ToxiproxyServer

HOST, API_PORT = "127.20.247.1", 9474
NODES = 50
TOPOLOGY = Topology.build([PlannedNode(f"node-{i}", f"{i:040x}", f"site-{i}") for i in range(NODES)], host=HOST)
RATIO_LIMIT = 2.0
HALF = NODES // 2
PARTITION = [LinkEffect(a, b, "blackhole") for a in TOPOLOGY.sites[:HALF] for b in TOPOLOGY.sites[HALF:]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else 5
    found = binary.find(progress=print)
    payloads, requests = proxy_payloads(TOPOLOGY), partition_requests()
    print(f"{found}; the least of {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "toxiproxy.log"
        bare, ours = least(rounds, lambda: time_links(found, log, payloads))
        figures = [tell(f"{len(payloads)} links: create() against POST /populate", ours, bare)]
        bare, ours = least(rounds, lambda: time_toxics(found, log, requests))
        figures.append(tell(f"{len(requests)} toxics: apply() against {CONNECTIONS} bare pipelines", ours, bare))
    write(arguments.json, figures)
    began = time.perf_counter()
    desired_state(TOPOLOGY, PARTITION)
    print(f"of which desired_state {(time.perf_counter() - began) * 1000:.1f} ms")


def least(rounds: int, measure: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The least of each of the two times of ``measure``."""
    times = [measure() for _ in range(rounds)]
    return min(bare for bare, _ in times), min(ours for _, ours in times)


def tell(what: str, ours: float, bare: float) -> Figure:
    """One line: what, our time, the bare time, their ratio; and the same as a figure."""
    one = at_most(what, ours * 1000, bare * 1000, RATIO_LIMIT, "ms")
    print(f"{what}: {one.ours:.0f} ms, {one.theirs:.0f} ms, ratio {one.ratio:.2f}")
    return one


def time_links(found: Path, log: Path, payloads: list[dict[str, object]]) -> tuple[float, float]:
    """Seconds of a bare populate and of ours, each on a fresh server."""
    body = ApiRequest("POST", "/populate", payloads).encode(HOST)
    with fresh(found, log):
        began = time.perf_counter()
        bare_pipeline([body])
        bare = time.perf_counter() - began
    with fresh(found, log) as server:
        reconciler = LinkReconciler(TOPOLOGY, server.control, BulkWriter(HOST, API_PORT))
        began = time.perf_counter()
        reconciler.create()
        return bare, time.perf_counter() - began


def time_toxics(found: Path, log: Path, requests: list[ApiRequest]) -> tuple[float, float]:
    """Seconds of a bare loop on four connections and of `apply`, each on a fresh server."""
    encoded = [request.encode(HOST) for request in requests]
    with fresh(found, log) as server, ThreadPoolExecutor(CONNECTIONS) as pool:
        server.control.populate(proxy_payloads(TOPOLOGY))
        began = time.perf_counter()
        list(pool.map(bare_pipeline, [encoded[share::CONNECTIONS] for share in range(CONNECTIONS)]))
        bare = time.perf_counter() - began
    with fresh(found, log) as server:
        reconciler = LinkReconciler(TOPOLOGY, server.control, BulkWriter(HOST, API_PORT))
        reconciler.create()
        began = time.perf_counter()
        applied = reconciler.apply(PARTITION)
        ours = time.perf_counter() - began
        assert applied.requests == len(requests)
        assert reconciler.verify() == []
        return bare, ours


def partition_requests() -> list[ApiRequest]:
    """What the partition asks of fresh links."""
    wanted = desired_state(TOPOLOGY, PARTITION)
    return [each for proxy, state in wanted.items() for each in requests_for(proxy, ProxyState(), state)]


def bare_pipeline(encoded: list[bytes]) -> None:
    """Send all on one connection, a window at a time, and wait for as many answers."""
    with socket.create_connection((HOST, API_PORT)) as connection:
        for start in range(0, len(encoded), WINDOW):
            window = encoded[start : start + WINDOW]
            connection.sendall(b"".join(window))
            bare_receive(connection, len(window))


def bare_receive(connection: socket.socket, answers: int) -> None:
    """Receive until so many answers are complete."""
    data = b""
    while answers:
        data += connection.recv(1 << 20)
        while answers and (end := complete(data)):
            data, answers = data[end:], answers - 1


def complete(data: bytes) -> int:
    """Where the first answer in ``data`` ends; 0 if it is not all there yet."""
    head = data.find(b"\r\n\r\n") + 4
    if head < 4:
        return 0
    told = data.find(b"Content-Length: ", 0, head)
    if told < 0:  # in chunks: the only answer, as of a populate
        return len(data) if data.endswith(b"\r\n0\r\n\r\n") else 0
    end = head + int(data[told + 16 : data.index(b"\r\n", told)])
    return end if len(data) >= end else 0


@contextmanager
def fresh(found: Path, log: Path) -> Iterator[ToxiproxyServer]:
    """A server that knows nothing."""
    spawner = Spawner("benchmark-links")
    server = ToxiproxyServer(found, HOST, API_PORT, log=log, spawn=spawner)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        spawner.close()


if __name__ == "__main__":
    main()
