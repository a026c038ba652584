"""A test bed in virtual time: whole networks of nodes in one process, on a fake clock and an in-memory network.

Nothing sleeps and nothing is random but by the seed: the same seed gives the same trace, byte for byte. Latency, loss
and partitions are functions of (source, destination). Black holes swallow messages, as Toxiproxy's do; dead nodes
refuse, or swallow them too if the network is ``mute``.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import TypeVar

from node.environment import Done
from node.errors import RpcRefused, RpcTimeout
from node.ids import BITS, as_int, distance, key_of, random_id
from node.maintenance import Maintenance
from node.peer import Peer
from node.search import Search
from node.settings import Settings
from node.storage import MemoryStorage
from node.wire import (
    Answer,
    Body,
    Contact,
    Envelope,
    Get,
    GetResult,
    Put,
    PutResult,
    Record,
    Refusal,
    Request,
    Sender,
    encode,
)

HOST = "h"
# s and none: Rhea 2004's hardest, sessions of 1.4 minutes in the median; Stutzbach 2006: Weibull.
MEDIAN_SESSION, SHAPE = 84.0, 0.5

A = TypeVar("A", bound=Answer)


@dataclass
class Timer:
    """One call to come."""

    call: Callable[[], None] | None

    def cancel(self) -> None:
        self.call = None


class VirtualClock:
    """Time that passes only when somebody runs it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._calls: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._calls, (self.now + delay, next(self._order), timer))
        return timer

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> float:
        """Let that much time pass, or less if ``until`` becomes true; how much it was."""
        start, end = self.now, self.now + seconds
        while not until() and self._calls and self._calls[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._calls)
            call, timer.call = timer.call, None
            if call is not None:
                call()
        if not until():
            self.now = end
        return self.now - start


def _short_way(_source: int, _destination: int, rng: Random) -> float:
    return rng.uniform(0.001, 0.003)


def _never(_source: int, _destination: int) -> bool:
    return False


@dataclass
class Network:
    """Nodes at ports 1…n of one host, and what is between them."""

    seed: int = 1
    settings: Settings = field(default_factory=lambda: Settings(k=8))
    latency: Callable[[int, int, Random], float] = _short_way
    cut: Callable[[int, int], bool] = _never
    loss: float = 0.0  # share of the messages that are lost
    mute: bool = False  # whether the dead swallow messages, as machines that are gone do, instead of refusing them
    record: bool = True  # whether requests go into the trace
    transcript: list[str] | None = None  # if one is given: all that is sent, answers too, with a digest of its bytes
    clock: VirtualClock = field(default_factory=VirtualClock)
    peers: dict[int, Peer] = field(default_factory=dict)
    trace: list[tuple[float, int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self._lives = itertools.count(1)

    @classmethod
    def of(cls, count: int, **how: object) -> Network:
        """So many nodes, all started at once, two seconds ago."""
        network = cls(**how)  # type: ignore[arg-type]
        for port in range(1, count + 1):
            network.start(port)
        network.clock.run(2.0)
        return network

    def start(self, port: int, identity: int | None = None) -> Peer:
        """Start a node with an empty store; the first two are those through which all join."""
        peer = self.place(Contact(key_of(b"node %d" % (identity or port)), HOST, port))
        Maintenance(peer, [(HOST, other) for other in (1, 2) if other != port]).start()
        return peer

    def place(self, contact: Contact) -> Peer:
        """A node that does nothing by itself."""
        port = contact.port
        line = Line(self, Sender(contact, next(self._lives)))
        peer = Peer(
            contact,
            self.settings,
            clock=self.clock,
            rng=Random(f"{self.seed} {port}"),
            transport=line,
            storage=MemoryStorage(),
        )
        line.peer = peer
        self.peers[port] = peer
        return peer

    def at(self, port: int) -> Peer | None:
        """Who lives at a port."""
        return self.peers.get(port)

    def note(self, sender: Sender, destination: int, message: Body) -> None:
        """Write down what is sent."""
        source, kind = sender.contact.port, type(message).__name__
        if self.record and isinstance(message, Request):
            self.trace.append((self.clock.now, source, destination, kind))
        if self.transcript is not None:
            digest = sha256(encode(Envelope("", 0, sender, message))).hexdigest()
            self.transcript.append(f"{self.clock.now!r} {source} {destination} {kind} {digest}")

    def kill(self, port: int) -> None:
        """It neither answers nor sends from now on."""
        del self.peers[port]

    def lacks(self) -> int:
        """How many of their true k closest all nodes together do not have in their tables."""
        return sum(len(self._lacks(port)) for port in self.peers)

    def near(self, port: int) -> set[Contact]:
        """The true k closest others of a node."""
        own = self.peers[port].contact
        return set(self._nearest((peer.contact for peer in self.peers.values() if peer.contact != own), own.id))

    def _lacks(self, port: int) -> set[Contact]:
        return self.near(port) - {e.contact for e in self.peers[port].table.entries() if e.alive}

    def holders(self, key: bytes) -> set[int]:
        """The nodes that keep a record."""
        return {port for port, peer in self.peers.items() if peer.storage.get(key, wall=self.clock.wall())}

    def closest(self, key: bytes) -> set[int]:
        """The nodes that should."""
        return {contact.port for contact in self.true_closest(key)}

    def true_closest(self, target: bytes) -> list[Contact]:
        """The k closest of all."""
        return self._nearest((peer.contact for peer in self.peers.values()), target)

    def _nearest(self, contacts: Iterable[Contact], target: bytes) -> list[Contact]:
        return heapq.nsmallest(self.settings.k, contacts, key=lambda contact: distance(contact.id, target))

    def hold(self, key: bytes) -> None:
        """Have the k closest keep a record under ``key``."""
        now = self.clock.now
        for contact in self.true_closest(key):
            peer = self.at(contact.port)
            assert peer is not None
            peer.storage.put(Record(key, b"v", 0, contact.id, now + 1e6), wall=now, now=now, republish_at=now + 1e6)

    def look_up(self, port: int, target: bytes) -> Search:
        """A FIND_NODE lookup through one node, to its end."""
        ended, peer = list[Search](), self.at(port)
        assert peer is not None
        peer.search(target, ended.append)
        self.clock.run(10.0, until=lambda: ended)
        return ended[0]

    def ask(self, port: int, request: Request, expected: type[A]) -> tuple[A, float]:
        """A client's request to a node: the answer and the seconds that it took, 5 at most."""
        answers: list[Answer] = []
        self.peers[port].handle(None, request, answers.append)
        took = self.clock.run(5.0, until=lambda: answers)
        assert answers, "no answer within the client's 5 s"
        assert isinstance(answers[0], expected)
        return answers[0], took

    def put(self, port: int, name: str, version: int = 0) -> tuple[PutResult, float]:
        return self.ask(port, Put(key_of(name.encode()), name.encode(), version), PutResult)

    def get(self, port: int, name: str) -> tuple[GetResult, float]:
        return self.ask(port, Get(key_of(name.encode())), GetResult)

    def store_all(self, names: Collection[str], ports: Collection[int] = ()) -> None:
        """Store these, through these nodes in turn (default: all)."""
        for name, port in zip(names, itertools.cycle(ports or sorted(self.peers)), strict=False):
            result, _ = self.put(port, name)
            assert result.acks >= min(self.settings.k, len(self.peers)), result


@dataclass
class Line:
    """One node's transport."""

    network: Network
    sender: Sender
    peer: Peer | None = None

    def counters(self) -> dict[str, int]:
        return {}

    @property
    def _port(self) -> int:
        return self.sender.contact.port

    def _here(self) -> bool:
        return self.network.peers.get(self._port) is self.peer

    def send(self, contact: Contact, message: Request, timeout: float, done: Done) -> None:
        if not self._here():
            return  # killed
        network, sent_at, open_ = self.network, self.network.clock.now, [True]

        def landed(answer: Answer, sender: Sender) -> None:
            if self._here():
                open_.clear()
                done(answer.as_error() if isinstance(answer, Refusal) else answer, sent_at, sender)

        def timed_out() -> None:
            if open_ and self._here():
                done(RpcTimeout("no answer in time"), sent_at, None)

        def refused() -> None:
            open_.clear()
            if self._here():
                done(RpcRefused("nobody is there"), sent_at, None)

        network.note(self.sender, contact.port, message)
        network.clock.call_later(timeout, timed_out)
        self.travel(contact.port, lambda: self._arrive(contact.port, message, landed, refused))

    def _arrive(
        self, port: int, message: Request, landed: Callable[[Answer, Sender], None], refused: Callable[[], None]
    ) -> None:
        """Have whoever lives there by now serve a request."""
        there = self.network.at(port)
        if there is not None:
            line = there.transport
            assert isinstance(line, Line)
            there.handle(self.sender, message, lambda answer: line._answer(self._port, answer, landed))
        elif not self.network.mute:
            refused()

    def _answer(self, destination: int, answer: Answer, landed: Callable[[Answer, Sender], None]) -> None:
        self.network.note(self.sender, destination, answer)
        self.travel(destination, lambda: landed(answer, self.sender))

    def travel(self, destination: int, arrive: Callable[[], None]) -> None:
        """Bring a message to another node, unless it is lost on the way."""
        network = self.network
        if not network.cut(self._port, destination) and (not network.loss or network.rng.random() >= network.loss):
            delay = self.network.latency(self._port, destination, self.network.rng)
            self.network.clock.call_later(delay, arrive)


class Converged(Network):
    """``count`` nodes whose tables are full, as those of a network that has run for long: k contacts in each bucket.

    Tables are made from what only the bed knows, each when its node is first asked; nobody joins. For what an ideal node
    costs.
    """

    def populate(self, count: int) -> None:
        """Draw the identifiers."""
        contacts = [Contact(random_id(self.rng), HOST, port) for port in range(1, count + 1)]
        self._everyone = sorted(contacts, key=lambda contact: contact.id)
        self._numbers = [as_int(contact.id) for contact in self._everyone]
        self._by_port = {contact.port: contact for contact in contacts}

    def at(self, port: int) -> Peer | None:
        """See `Network.at`."""
        if port not in self.peers and port in self._by_port:
            peer = self.place(self._by_port[port])
            for contact in self._full_table(as_int(peer.contact.id)):
                peer.table.answered(contact, self.clock.now, rtt=0.004)
        return self.peers.get(port)

    def _full_table(self, own: int) -> Iterator[Contact]:
        """k drawn from each half that does not hold ``own``, from the nearest to the farthest."""
        for bit in range(BITS):
            low = ((own >> bit) ^ 1) << bit
            first = bisect.bisect_left(self._numbers, low)
            last = bisect.bisect_left(self._numbers, low + (1 << bit))
            if last > first:
                drawn = self.rng.sample(range(first, last), min(self.settings.k, last - first))
                yield from (self._everyone[n] for n in drawn)

    def true_closest(self, target: bytes) -> list[Contact]:
        """See `Network.true_closest`."""
        number = as_int(target)
        return heapq.nsmallest(self.settings.k, self._everyone, key=lambda contact: as_int(contact.id) ^ number)


class Churn:
    """Nodes whose sessions are Weibull; whoever leaves without a word is replaced by a new one at once.

    Two nodes stay, for newcomers to join through.
    """

    def __init__(self, network: Network, seed: int) -> None:
        self._network, self._rng = network, Random(seed)
        self._next = max(network.peers) + 1
        self.deaths = 0
        for port in sorted(network.peers)[2:]:
            self._live(port)

    def _live(self, port: int) -> None:
        scale = MEDIAN_SESSION / math.log(2) ** (1 / SHAPE)
        session = scale * (-math.log(1 - self._rng.random())) ** (1 / SHAPE)
        self._network.clock.call_later(session, lambda: self._die(port))

    def _die(self, port: int) -> None:
        self._network.kill(port)
        self.deaths += 1
        new, self._next = self._next, self._next + 1
        self._network.start(new)
        self._live(new)


@dataclass
class Clients:
    """Who reads and writes through a network's nodes, any of them, the youngest too; one operation in ten is a put."""

    network: Network
    seed: int
    names: list[str]  # of what is stored; what is put meanwhile comes in addition, once it is acknowledged
    found: list[bool] = field(default_factory=list)  # of each get
    acks: list[int] = field(default_factory=list)  # of each put
    timeouts: int = 0  # of all operations together

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)

    def work(self, seconds: float, pause: float) -> None:
        """One operation after another for so long, with pauses of so many seconds."""
        end = self.network.clock.now + seconds
        while self.network.clock.now < end:
            self.network.clock.run(pause)
            port = self._rng.choice(sorted(self.network.peers))
            self._put(port) if self._rng.random() < 0.1 else self._get(port)

    def _put(self, port: int) -> None:
        name = f"put {len(self.acks)}"
        result, _ = self.network.put(port, name)
        self.acks.append(result.acks)
        self.timeouts += result.timeouts
        if result.acks:
            self.names.append(name)

    def _get(self, port: int) -> None:
        result, _ = self.network.get(port, self._rng.choice(self.names))
        self.found.append(result.found)
        self.timeouts += result.timeouts
