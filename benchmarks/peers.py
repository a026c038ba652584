"""The node against the Kademlia that people use (bmuller's, Python) and the fast one (OpenDHT, C++).

Run: ``python benchmarks/peers.py [--quick] [--json FILE]`` (needs ``pip install -e .[bench]``).

Each side runs in a process of its own that holds all of its nodes, on loopback, the same
number of operations in flight and the same work: stores of new keys through random nodes, lookups of those keys
through random nodes, lookups of keys that nobody stored. The sides take turns within a run, and the best of their turns
counts: a busy machine slows whoever runs at the moment. Rates of different runs must not be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry) != HERE]  # this file is not the package `node`

NODES = 100
IN_FLIGHT = 8  # operations
DESCRIPTORS = 200  # of this process, beside those of the nodes' connections
HOST = "127.20.250.1"
PORTS = {"ours": 21000, "bmuller": 22000, "opendht": 23000, "find-node": 24000, "echo": 24100, "memory": 24200}
VALUE = bytes(range(256))
JOIN = 4.0  # s that a network gets to settle
KINDS = ("store", "get", "missing")

Ask = Callable[[int, bytes], Awaitable[object]]  # through which node, about which name


def main() -> int:
    """Measure every figure, print the table, write it. A part that fails is told, and the others go on; then 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short turn of each side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--only", choices=("bmuller", "opendht", "find-node", "memory"), help="this part alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=20, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](options.k, options.seconds)))
        return 0
    seconds, turns = (2.0, 1) if options.quick else (5.0, 3)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for name, compare in PARTS.items():
        if options.only in (None, name):
            try:
                rows += compare(seconds, turns)
            except Exception as error:  # whatever it is, the other parts' figures are not to be lost by it
                failed.append(row_of_failure(name, error))
    table(rows)
    for each in failed:
        print(each["name"])
    if options.json:
        options.json.write_text(json.dumps(rows + failed, indent=2) + "\n")
    return 1 if failed else 0


# --- the table ----------------------------------------------------------------------------------


def row(name: str, ours: float, theirs: float | None, unit: str, limit: float, *, most: bool = False) -> dict[str, Any]:
    """One figure. The limit is of the ratio, or of our figure where there is no other; at least, or at ``most``."""
    ratio = None if theirs is None else ours / theirs if theirs else float("inf")
    judged = ours if ratio is None else ratio
    met = judged <= limit if most else judged >= limit
    return {
        "name": name,
        "ours": round(ours, 4),
        "theirs": None if theirs is None else round(theirs, 4),
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 3),
        "limit": ("<= " if most else ">= ") + f"{limit:g}",
        "met": met,
    }


def row_of_failure(part: str, error: Exception) -> dict[str, Any]:
    """What stands for the figures of a part that has none."""
    name = f"{part} failed: {error!r}"
    return {"name": name, "ours": None, "theirs": None, "unit": "", "ratio": None, "limit": "", "met": False}


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print it."""
    print(f"{'':46} {'ours':>10} {'theirs':>10} {'unit':8} {'ratio':>7} {'limit':>8}")
    for each in rows:
        theirs = "" if each["theirs"] is None else f"{each['theirs']:,.3g}"
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.2f}"
        told = "met" if each["met"] else "MISSED"
        ours = f"{each['ours']:,.0f}" if each["ours"] >= 1000 else f"{each['ours']:.3g}"
        print(f"{each['name']:46} {ours:>10} {theirs:>10} {each['unit']:8} {ratio:>7} {each['limit']:>8}  {told}")


def turn(side: str, k: int, seconds: float) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--k", str(k), "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120 + 10 * seconds)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def in_turns(one: str, other: str, k: int, seconds: float, turns: int) -> tuple[list[dict[str, Any]], ...]:
    """Both sides, alternating."""
    both: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for _ in range(turns):
        both[0].append(turn(one, k, seconds))
        both[1].append(turn(other, k, seconds))
    return both


# --- the four comparisons -----------------------------------------------------------------------


def tell_failures(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """What did not succeed, as it may on a busy machine; rates count it all the same."""
    failed = [sum(side["stores and gets that failed"] for side in each) for each in (ours, theirs)]
    print(f"  stores and gets that failed: ours {failed[0]:.0f}, theirs {failed[1]:.0f}")


def against_bmuller(seconds: float, turns: int) -> list[dict[str, Any]]:
    """Rates and how true the answers are, k = 20."""
    ours, theirs = in_turns("ours", "bmuller", 20, seconds, turns)
    on_uvloop = turn("bmuller-uvloop", 20, seconds)

    def best(sides: list[dict[str, Any]], figure: str) -> float:
        return max(side[figure] for side in sides)

    tell_failures(ours, theirs)
    for each in (ours, theirs):  # on a busy machine the CPU time is the steadier figure
        told = (f"{kind} {min(side[f'{kind} cpu ms'] for side in each):.2f} ms" for kind in KINDS)
        print(f"  CPU of one operation, {'ours' if each is ours else 'theirs'}: " + ", ".join(told))
    limits = {"store": 10.0, "get": 5.0, "missing": 10.0}
    words = {"store": "set/s", "get": "get/s, key present", "missing": "get/s, key missing"}
    rows = [
        row(f"bmuller/kademlia: {words[kind]}", best(ours, f"{kind}/s"), best(theirs, f"{kind}/s"), "1/s", limits[kind])
        for kind in KINDS
    ]
    print(
        "  theirs on uvloop, for comparison: " + ", ".join(f"{kind} {on_uvloop[f'{kind}/s']:,.0f}/s" for kind in KINDS)
    )
    for word, limit in (("mean", 0.99), ("worst", 0.95)):
        least = min(side[f"true {word}"] for side in ours)
        rows.append(row(f"true 20 closest found, {word} of 500", least, None, "share", limit))
        print(f"  (theirs, {word}: {min(side[f'true {word}'] for side in theirs):.3f})")
    return rows


def against_opendht(seconds: float, turns: int) -> list[dict[str, Any]]:
    """CPU time of an operation, k = 8."""
    ours, theirs = in_turns("ours", "opendht", 8, seconds, turns)
    tell_failures(ours, theirs)
    return [
        row(
            f"opendht: CPU per {kind}",
            min(side[f"{kind} cpu ms"] for side in ours),
            min(side[f"{kind} cpu ms"] for side in theirs),
            "ms",
            1.0,
            most=True,
        )
        for kind in KINDS
    ]


def against_echo(seconds: float, turns: int) -> list[dict[str, Any]]:
    """FIND_NODE with 20 contacts back against an echo of the same bytes."""
    asked, echoed = [], []
    for _ in range(turns):
        asked.append(turn("find-node", 20, seconds)["rate"])
        echoed.append(turn("echo", 20, seconds)["rate"])
    return [row("FIND_NODE, 64 in flight, against a bare echo", max(asked), max(echoed), "1/s", 0.5)]


def memory(seconds: float, turns: int) -> list[dict[str, Any]]:  # noqa: ARG001
    """Resident memory of a process with 1,000 records."""
    from node.client import Client
    from node.ids import key_of

    port = PORTS["memory"]
    with serving(port):
        client = Client(HOST, port, "bench")
        for n in range(1000):
            assert client.put(key_of(b"%d" % n), VALUE, timeout=5.0).holds
        used = client.inspect(timeout=5.0).memory
        client.close()
    return [row("resident memory with 1,000 records", used / 1e6, None, "MB", 30.0, most=True)]


@contextlib.contextmanager
def serving(port: int) -> Any:
    """A node process."""
    command = [sys.executable, "-P", "-m", "node", "serve", "--host", HOST, "--port", str(port), "--cluster", "bench"]
    process = subprocess.Popen(
        [*command, "--exit-with-parent", "--log-level", "warning"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


# --- one side: its nodes and its operations -----------------------------------------------------


def cpu() -> float:
    """Seconds of CPU time that this process has used, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> float:
    """MiB that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(store: Ask, get: Ask, seconds: float) -> dict[str, float]:
    """Rate and CPU time of each kind of operation. ``get`` returns what it found, or None."""
    rng, stored, lost, figures = random.Random(5), list[bytes](), list[int](), dict[str, float]()
    names = iter(b"name %d" % n for n in range(10**9))

    async def storing() -> None:
        name = next(names)
        if await store(rng.randrange(NODES), name):
            stored.append(name)
        else:
            lost.append(1)

    async def getting() -> None:
        if await get(rng.randrange(NODES), rng.choice(stored)) is None:
            lost.append(1)

    async def missing() -> None:
        assert await get(rng.randrange(NODES), b"no " + next(names)) is None

    for kind, one in zip(KINDS, (storing, getting, missing), strict=True):
        count, took, used = await hammer(one, seconds)
        figures |= {f"{kind}/s": count / took, f"{kind} cpu ms": 1000 * used / count}
    return figures | {"memory MiB": resident(), "stores and gets that failed": len(lost)}


async def hammer(one: Callable[[], Awaitable[None]], seconds: float) -> tuple[int, float, float]:
    """Do it over and over, IN_FLIGHT at a time: how often, in how many seconds, with how much CPU time."""
    count, began, used = 0, time.perf_counter(), cpu()

    async def worker() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await one()
            count += 1

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count, time.perf_counter() - began, cpu() - used


async def truth(everyone: Sequence[bytes], find: Callable[[int, bytes], Awaitable[list[bytes]]], k: int) -> list[float]:
    """Of 500 lookups of random identifiers, the share of the true k closest others that each found."""
    rng, shares = random.Random(6), []
    for _ in range(500):
        asker, target = rng.randrange(NODES), rng.randbytes(20)
        number = int.from_bytes(target, "big")
        others = [one for n, one in enumerate(everyone) if n != asker]
        true = heapq.nsmallest(k, others, key=lambda one: int.from_bytes(one, "big") ^ number)
        shares.append(len(set(true) & set(await find(asker, target))) / k)
    return shares


def ours(k: int, seconds: float) -> dict[str, Any]:
    """Our nodes."""
    import uvloop

    return uvloop.run(_ours(k, seconds))


async def _ours(k: int, seconds: float) -> dict[str, Any]:
    from node.__main__ import collect_rarely
    from node.ids import key_of, random_id
    from node.maintenance import Maintenance
    from node.peer import Peer
    from node.search import Search
    from node.settings import Settings
    from node.storage import MemoryStorage
    from node.transport import LoopClock, TcpTransport
    from node.wire import Answer, Contact, GetResult, Put, PutResult, Sender

    loop, peers, transports, base = asyncio.get_running_loop(), list[Peer](), list[TcpTransport](), PORTS["ours"]
    collect_rarely()  # as a node's process does
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connections = min(NODES, (most - DESCRIPTORS) // (2 * NODES))  # the peers speak UDP, and need none
    for n in range(NODES):
        rng = random.Random(n)
        contact = Contact(random_id(rng), HOST, base + n)
        transport = TcpTransport(Sender(contact, n + 1), "bench", None, connections=connections)
        clock, storage = LoopClock(loop), MemoryStorage()
        peer = Peer(contact, Settings(k=k), clock=clock, rng=rng, transport=transport, storage=storage)
        transport.handler = peer.handle
        await transport.listen()
        transports.append(transport)
        Maintenance(peer, [(HOST, base)] if n else []).start()
        peers.append(peer)
        await asyncio.sleep(0.01)
    await asyncio.sleep(2 * JOIN)

    async def store(n: int, name: bytes) -> object:
        answered: asyncio.Future[Answer] = loop.create_future()
        peers[n].put(Put(key_of(name), VALUE), answered.set_result)
        result = await answered
        assert isinstance(result, PutResult)
        return result.acks >= 0.9 * k

    async def get(n: int, name: bytes) -> object:
        answered: asyncio.Future[Answer] = loop.create_future()
        peers[n].get(key_of(name), answered.set_result)
        result = await answered
        assert isinstance(result, GetResult)
        return result.value if result.found else None

    async def find(n: int, target: bytes) -> list[bytes]:
        ended: asyncio.Future[Search] = loop.create_future()
        peers[n].search(target, ended.set_result)
        return [contact.id for contact in (await ended).lookup.closest()]

    shares = await truth([peer.contact.id for peer in peers], find, k)
    figures = await measure(store, get, seconds)
    await asyncio.gather(*(transport.close() for transport in transports))
    return figures | {"true mean": statistics.mean(shares), "true worst": min(shares)}


def bmuller(k: int, seconds: float) -> dict[str, Any]:
    """bmuller/kademlia's nodes, as people run them: on asyncio's own loop."""
    return asyncio.run(_bmuller(k, seconds))


def bmuller_uvloop(k: int, seconds: float) -> dict[str, Any]:
    """The same on uvloop, which it neither brings nor mentions."""
    import uvloop

    return uvloop.run(_bmuller(k, seconds))


async def _bmuller(k: int, seconds: float) -> dict[str, Any]:
    from kademlia.crawling import NodeSpiderCrawl
    from kademlia.network import Server
    from kademlia.node import Node

    servers, base = [], PORTS["bmuller"]
    for n in range(NODES):
        server = Server(ksize=k, alpha=3, node_id=random.Random(n).randbytes(20))
        await server.listen(base + n, interface=HOST)
        if n:
            await server.bootstrap([(HOST, base)])
        servers.append(server)
    await asyncio.sleep(JOIN)

    async def store(n: int, name: bytes) -> object:
        return await servers[n].set(name, VALUE)

    async def get(n: int, name: bytes) -> object:
        return await servers[n].get(name)

    async def find(n: int, target: bytes) -> list[bytes]:
        server, node = servers[n], Node(target)
        nearest = server.protocol.router.find_neighbors(node)
        found = await NodeSpiderCrawl(server.protocol, node, nearest, server.ksize, server.alpha).find()
        return [each.id for each in found]

    shares = await truth([server.node.id for server in servers], find, k)
    figures = await measure(store, get, seconds)
    for server in servers:
        server.stop()
    return figures | {"true mean": statistics.mean(shares), "true worst": min(shares)}


def opendht(k: int, seconds: float) -> dict[str, Any]:
    """OpenDHT's nodes; its bucket size of 8 is fixed at compile time."""
    assert k == 8
    return asyncio.run(_opendht(seconds))


async def _opendht(seconds: float) -> dict[str, Any]:
    import opendht as dht

    loop, runners, base = asyncio.get_running_loop(), [], PORTS["opendht"]
    config = dht.DhtConfig()
    config.setRateLimit(-1, -1)
    for n in range(NODES):
        runner = dht.DhtRunner()
        runner.run(port=base + n, ipv4=HOST, ipv6="::1", config=config)
        if n:
            runner.bootstrap(HOST, str(base))
        runners.append(runner)
    await asyncio.sleep(3 * JOIN)

    def finish(done: asyncio.Future[object], result: object) -> None:
        loop.call_soon_threadsafe(lambda: done.done() or done.set_result(result))

    async def store(n: int, name: bytes) -> object:
        done: asyncio.Future[object] = loop.create_future()
        key = dht.InfoHash.get(name.decode())
        runners[n].put(key, dht.Value(VALUE), lambda ok, _nodes: finish(done, ok))
        return await done

    async def get(n: int, name: bytes) -> object:
        done, found = loop.create_future(), list[object]()
        key = dht.InfoHash.get(name.decode())

        def got(value: object) -> bool:
            found.append(value)
            return False  # one value is enough

        runners[n].get(key, got, lambda _ok, _nodes: finish(done, found[0] if found else None))
        return await done

    figures = await measure(store, get, seconds)
    ended = threading.Thread(target=lambda: [runner.shutdown() for runner in runners], daemon=True)
    ended.start()
    print(json.dumps(figures), flush=True)
    os._exit(0)  # shutting a hundred of its nodes down takes minutes, and is not what is measured


# --- one request after the other, between two processes -----------------------------------------

WINDOW = 64  # requests in flight


def find_node(k: int, seconds: float) -> dict[str, Any]:
    """FIND_NODE RPCs a second from one of our nodes to another, in another process, that knows 20 contacts."""
    import uvloop

    with child(serve_find_node):
        return {"rate": uvloop.run(_ask_find_node(k, seconds))}


def echo(k: int, seconds: float) -> dict[str, Any]:  # noqa: ARG001
    """Messages a second of a bare echo; each of the bytes of such an answer, both ways."""
    import uvloop

    with child(serve_echo):
        return {"rate": uvloop.run(_ask_echo(seconds))}


@contextlib.contextmanager
def child(serve: Callable[[], Awaitable[None]]) -> Any:
    """Another process that serves until it is told to end."""
    import uvloop

    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:

        async def run() -> None:
            await serve()
            os.write(tell, b"!")
            await asyncio.sleep(600)

        with contextlib.suppress(BaseException):
            uvloop.run(run())
        os._exit(0)
    os.close(tell)
    assert os.read(ready, 1), "the serving process ended"
    os.close(ready)
    try:
        yield
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def answering_peer() -> Any:
    """One of our nodes that knows 20 others, with its transport."""
    from node.__main__ import collect_rarely
    from node.ids import random_id
    from node.peer import Peer
    from node.settings import Settings
    from node.storage import MemoryStorage
    from node.transport import LoopClock, TcpTransport
    from node.wire import Contact, Sender

    collect_rarely()  # as a node's process does
    rng = random.Random(1)
    contact = Contact(random_id(rng), HOST, PORTS["find-node"])
    transport = TcpTransport(Sender(contact, 1), "bench", None)
    clock = LoopClock(asyncio.get_running_loop())
    peer = Peer(contact, Settings(), clock=clock, rng=rng, transport=transport, storage=MemoryStorage())
    for n in range(20):
        peer.table.answered(Contact(random_id(rng), HOST, 30000 + n), clock.monotonic(), rtt=0.001)
    transport.handler = peer.handle
    return peer


async def serve_find_node() -> None:
    """Listen."""
    await answering_peer().transport.listen()


async def _ask_find_node(k: int, seconds: float) -> float:
    from node.__main__ import collect_rarely
    from node.ids import random_id
    from node.peer import Peer
    from node.settings import Settings
    from node.storage import MemoryStorage
    from node.transport import LoopClock, TcpTransport
    from node.wire import Answer, Contact, FindNode, Found, Sender

    collect_rarely()
    loop, rng = asyncio.get_running_loop(), random.Random(2)
    there = Contact(random_id(random.Random(1)), HOST, PORTS["find-node"])
    here = Contact(random_id(rng), HOST, PORTS["find-node"] + 1)
    transport = TcpTransport(Sender(here, 1), "bench", None)
    clock, storage = LoopClock(loop), MemoryStorage()
    peer = Peer(here, Settings(k=k), clock=clock, rng=rng, transport=transport, storage=storage)
    transport.handler = peer.handle
    await transport.listen()
    count, began, ended = 0, time.perf_counter(), loop.create_future()
    targets = [FindNode(random_id(rng)) for _ in range(1000)]

    def answered(_: Contact, result: Answer | Exception) -> None:
        nonlocal count
        if ended.done():
            return  # it was in flight when the time was up
        assert isinstance(result, Found), result
        assert len(result.contacts) == k
        count += 1
        if time.perf_counter() - began < seconds:
            peer.call(there, targets[count % 1000], answered)
        else:
            ended.set_result(None)

    for n in range(WINDOW):
        peer.call(there, targets[n], answered)
    await ended
    rate = count / (time.perf_counter() - began)
    await transport.close()
    return rate


class Echo(asyncio.Protocol):
    """Sends back what comes, as it comes."""

    def connection_made(self, transport: Any) -> None:
        self.wire = transport

    def data_received(self, data: bytes) -> None:
        self.wire.write(data)


async def serve_echo() -> None:
    """Listen."""
    await asyncio.get_running_loop().create_server(Echo, HOST, PORTS["echo"])


class Asker(asyncio.Protocol):
    """Keeps WINDOW messages in flight: sends one for each that has come back whole."""

    def __init__(self, message: bytes, seconds: float, ended: asyncio.Future[float]) -> None:
        self._message, self._seconds, self._ended = message, seconds, ended
        self._count = self._bytes = 0

    def connection_made(self, transport: Any) -> None:
        self.wire, self._began = transport, time.perf_counter()
        for _ in range(WINDOW):
            self.wire.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        whole, self._bytes = divmod(self._bytes, len(self._message))
        self._count += whole
        for _ in range(whole):
            self.wire.write(self._message)
        if time.perf_counter() - self._began >= self._seconds and not self._ended.done():
            self._ended.set_result(self._count / (time.perf_counter() - self._began))


async def _ask_echo(seconds: float) -> float:
    from node.wire import Envelope, Found, encode

    peer = answering_peer()
    found = Found(tuple(peer.table.closest(bytes(20), 20)))
    frame = encode(Envelope("bench", 1000, peer.transport.sender, found))
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[float] = loop.create_future()
    wire, _ = await loop.create_connection(lambda: Asker(frame, seconds, ended), HOST, PORTS["echo"])
    rate = await ended
    wire.close()
    return rate


SIDES: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "ours": ours,
    "bmuller": bmuller,
    "bmuller-uvloop": bmuller_uvloop,
    "opendht": opendht,
    "find-node": find_node,
    "echo": echo,
}
PARTS = {"bmuller": against_bmuller, "opendht": against_opendht, "find-node": against_echo, "memory": memory}

if __name__ == "__main__":
    sys.exit(main())
