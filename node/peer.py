"""The node itself: RPC handlers, stores and lookups. It ties the parts together and does no I/O of its own.

Everything is a callback on one thread: no tasks, no locks. A clock, a generator of random numbers and a transport are
given to it, so that the same code runs in a process and, by the hundred, in a test without a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from node.environment import Clock, Transport
from node.errors import RpcError, RpcRefused, RpcTimeout
from node.ids import BYTES, distance
from node.lookup import Lookup
from node.routing import Heard, RoutingTable
from node.settings import Settings
from node.storage import Storage, held
from node.wire import (
    NONCE_LIMIT,
    Answer,
    Contact,
    FindNode,
    FindValue,
    Found,
    Get,
    GetResult,
    Inspect,
    Inspection,
    Ping,
    PingReport,
    PingVia,
    Pong,
    Put,
    PutResult,
    Record,
    Refusal,
    Request,
    Sender,
    Store,
    Stored,
)

NONCES = 256  # of the last pings that are remembered for observers
MOST_HELD = 1024  # client requests that wait until the node has joined
PADDING_LIMIT = 2**20  # bytes
# s; whatever takes longer goes on with what it has. Together well below the 5 s that clients usually wait.
LOOKUP_LIMIT = 2.5
STORE_LIMIT = 1.5

Reply = Callable[[Answer], None]
OnContact = Callable[[Contact, Heard], None]
OnResult = Callable[[Contact, Answer | RpcError], None]
UNKNOWN = bytes(BYTES)  # stands for the identifier of a contact of which only the address is known


class Search:
    """One lookup under way: sends what `Lookup` asks for. It ends when that is done, has the value, or takes too long.

    ``complete`` says whether the k closest were really asked.
    """

    def __init__(self, peer: Peer, target: bytes, ended: Callable[[Search], None], *, value: bool) -> None:
        self.peer = peer
        self.lookup = Lookup(
            target,
            peer.contact.id,
            peer.table.seeds(target, peer.settings.k),
            k=peer.settings.k,
            alpha=peer.settings.alpha,
            beta=peer.settings.beta,
        )
        self.rpcs = self.timeouts = self.hops = 0
        self.complete = False
        self.record: Record | None = None
        self._message: Request = FindValue(target) if value else FindNode(target)
        self._ended: Callable[[Search], None] | None = ended
        self._timer = peer.clock.call_later(LOOKUP_LIMIT, self._end)
        peer.table.touch(target, peer.clock.monotonic())

    def advance(self) -> None:
        """Ask whom there is to ask; end if there is nothing left to learn."""
        if self._ended is None:
            return
        for contact in self.lookup.queries():
            self.rpcs += 1
            self.peer.call(contact, self._message, self._on_result)
        if self.lookup.done:
            self.complete = bool(self.lookup.closest()) or not self.peer.expects_others
            self._end()

    def _on_result(self, contact: Contact, result: Answer | RpcError) -> None:
        if self._ended is None:
            return
        if isinstance(result, Found):
            self.lookup.answered(contact, [c for c in result.contacts if not self.peer.table.is_suspect(c.id)])
            if result.record is not None:
                self.record, self.hops = result.record, self.lookup.hops_to(contact)
                self._end()
                return
        else:
            self.timeouts += isinstance(result, RpcTimeout)
            self.lookup.failed(contact)
        self.advance()

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._timer.cancel()
        closest = self.lookup.closest()
        if self.record is None and closest:
            self.hops = self.lookup.hops_to(closest[0])
        ended(self)


class Spread:
    """One record on its way to its holders. It ends when all have answered or failed, or after STORE_LIMIT.

    A holder that answers late counts, as long as others are still waited for.
    """

    def __init__(self, peer: Peer, record: Record, search: Search, reply: Reply) -> None:
        self._peer, self._search = peer, search
        self._reply: Reply | None = reply
        self._holders, holds = peer.holders(record.key, search.lookup.closest())
        self._kept_here = holds and not peer.keep(record)
        self._waiting = {contact.id for contact in self._holders}
        self._acked: set[bytes] = set()
        self._timeouts = search.timeouts
        self._message = Store(record)
        self._timer = peer.clock.call_later(STORE_LIMIT, self._end)

    def start(self) -> None:
        """Send it."""
        for contact in self._holders:
            self._peer.call(contact, self._message, self._on_result)
        if not self._waiting:
            self._end()

    def _on_result(self, contact: Contact, result: Answer | RpcError) -> None:
        if isinstance(result, Stored) and result.kept:
            self._acked.add(contact.id)
        if contact.id in self._waiting:  # else it is late
            self._waiting.discard(contact.id)
            self._timeouts += isinstance(result, RpcTimeout)
        if not self._waiting:
            self._end()

    def _end(self) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        self._timer.cancel()
        acks = len(self._acked) + self._kept_here
        rpcs = self._search.rpcs + len(self._holders)
        error = "" if acks else "no node keeps it"
        reply(PutResult(acks, self._kept_here, self._search.hops, rpcs, self._timeouts, error))


class Peer:
    """One Kademlia node. ``on_contact`` is told of contacts that are new, were restarted, or answer again."""

    def __init__(
        self,
        contact: Contact,
        settings: Settings,
        *,
        clock: Clock,
        rng: Random,
        transport: Transport,
        storage: Storage,
    ) -> None:
        self.contact = contact
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.transport = transport
        self.storage = storage
        self.table = RoutingTable(contact.id, settings.k)
        self.on_contact: OnContact = lambda _contact, _heard: None
        self._held: list[tuple[Put | Get, Reply]] | None = None
        self.expects_others = False  # whether there is a network to join, so that knowing nobody means not knowing
        self.memory: Callable[[], int] = lambda: 0  # resident bytes; set by whoever knows the process
        self._nonces: deque[tuple[bytes, int]] = deque(maxlen=NONCES)
        self._counters: dict[str, int] = dict.fromkeys(("rpcs_in", "rpcs_out", "observer_rpcs", "timeouts"), 0)

    # --- requests that arrive --------------------------------------------------------------------

    def handle(self, sender: Sender | None, message: Request, reply: Reply) -> None:
        """Serve one request; ``reply`` is called once, now or later."""
        observer = isinstance(message, Inspect | PingVia) or (isinstance(message, Ping) and message.observer)
        self._count("observer_rpcs" if observer else "rpcs_in", message)
        if sender is not None and not observer:
            self._note_sender(sender)
        match message:
            case Ping():
                reply(self._on_ping(message))
            case FindNode():
                reply(self._on_find_node(sender, message))
            case FindValue():
                reply(self._on_find_value(sender, message))
            case Store():
                reply(self._on_store(message.record))
            case Put() | Get():
                self._serve_client(message, reply)
            case Inspect():
                reply(self._on_inspect(message))
            case PingVia():
                self._on_ping_via(message, reply)

    def _note_sender(self, sender: Sender) -> None:
        if self.table.requested(sender.contact, self.clock.monotonic(), incarnation=sender.incarnation):
            self.ping(sender.contact)

    def _on_ping(self, message: Ping) -> Pong:
        received = int(self.clock.monotonic() * 1e9)
        if message.nonce:
            self._nonces.append((message.nonce[:NONCE_LIMIT], received))
        return Pong(message.nonce, received, message.padding)

    def _on_find_node(self, sender: Sender | None, message: FindNode) -> Found:
        return Found(self._known_near(message.target, sender))

    def _on_find_value(self, sender: Sender | None, message: FindValue) -> Found:
        record = self.storage.get(message.key, wall=self.clock.wall())
        return Found(() if record else self._known_near(message.key, sender), record)

    def _on_store(self, record: Record) -> Stored:
        why = self.keep(record)
        return Stored(not why, why)

    def _known_near(self, target: bytes, sender: Sender | None) -> tuple[Contact, ...]:
        but = sender.contact.id if sender is not None else b""
        return tuple(self.table.closest(target, self.settings.k, but=but))

    def _on_inspect(self, message: Inspect) -> Inspection:
        alive = tuple(e.contact for e in self.table.entries() if e.alive)
        return Inspection(
            contact=self.contact,
            table=alive if message.table else (),
            table_size=len(alive),
            records=held(self.storage) if message.records else (),
            records_count=len(self.storage),
            counters={**self._counters, **self.transport.counters()},
            nonces=tuple(nonce for nonce, _ in self._nonces),
            nonce_times=tuple(received for _, received in self._nonces),
            memory=self.memory(),
        )

    def _on_ping_via(self, message: PingVia, reply: Reply) -> None:
        if not 0 <= message.padding <= PADDING_LIMIT or not 0 < message.timeout <= 60:
            reply(Refusal("padding is 0 to 1 MiB, and timeout at most 60 s"))
            return
        replied = False

        def done(result: Answer | RpcError, sent_at: float, _: Sender | None) -> None:
            nonlocal replied
            if replied:
                return  # late, and told as a timeout already
            replied = True
            outcome = "ok" if isinstance(result, Pong) else getattr(result, "outcome", "error")
            received = result.received_at if isinstance(result, Pong) else 0
            returned = int(self.clock.monotonic() * 1e9)
            reply(PingReport(outcome, message.nonce, int(sent_at * 1e9), received, returned))

        self._counters["observer_rpcs"] += 1
        ping = Ping(message.nonce, observer=True, padding=bytes(message.padding))
        self.transport.send(message.contact, ping, message.timeout, done)

    # --- requests that go out --------------------------------------------------------------------

    def call(self, contact: Contact, message: Request, done: OnResult) -> None:
        """Send an RPC, and learn from how it goes. ``done`` may be called twice: a timeout, then the late answer."""

        def finished(result: Answer | RpcError, sent_at: float, sender: Sender | None) -> None:
            done(contact, self._learn(contact, message, result, sent_at, sender))

        self._count("rpcs_out", message)
        self.transport.send(contact, message, self.timeout_of(contact), finished)

    def timeout_of(self, contact: Contact) -> float:
        """How long to wait for an answer of ``contact``, in seconds."""
        entry = self.table.entry(contact.id)
        return self.settings.rpc_timeout if entry is None else entry.timeout(self.settings.rpc_timeout)

    def _learn(
        self, asked: Contact, message: Request, result: Answer | RpcError, sent_at: float, sender: Sender | None
    ) -> Answer | RpcError:
        """Note how an RPC went. Whoever answers at an address is who lives there: an answer of another is a failure."""
        now = self.clock.monotonic()
        if isinstance(result, RpcTimeout):
            self._count("timeouts", message)
        if not isinstance(result, RpcError) and sender is not None:
            contact = sender.contact
            heard = self.table.answered(contact, now, rtt=now - sent_at, incarnation=sender.incarnation)
            if heard:
                self.on_contact(contact, heard)
            if asked.id in (contact.id, UNKNOWN):
                return result
            result = RpcRefused(f"another node lives at {asked.host}:{asked.port} now")
        self.table.failed(asked.id, now)
        return result if isinstance(result, RpcError) else RpcError("an answer without a sender")

    def ping(self, contact: Contact) -> None:
        """See whether a contact answers; the table learns it."""
        self.call(contact, Ping(), lambda _contact, _result: None)

    def search(self, target: bytes, ended: Callable[[Search], None], *, value: bool = False) -> None:
        """Look for the k closest nodes to ``target``, or for its value."""
        Search(self, target, ended, value=value).advance()

    # --- the client's operations -----------------------------------------------------------------

    def hold_clients(self) -> None:
        """Let clients wait until `release_clients`: a node that has not joined would miss what others hold."""
        self._held = []

    def release_clients(self) -> None:
        """Serve those that wait, and from now on all at once."""
        held, self._held = self._held or [], None
        for message, reply in held:
            self._serve_client(message, reply)

    def _serve_client(self, message: Put | Get, reply: Reply) -> None:
        if self._held is None:
            self.put(message, reply) if isinstance(message, Put) else self.get(message.key, reply)
        elif len(self._held) < MOST_HELD:
            self._held.append((message, reply))
        else:
            reply(Refusal("this node is joining, and many wait already"))

    def get(self, key: bytes, reply: Reply) -> None:
        """Look a value up: in the own store, else in the network."""
        own = self.storage.get(key, wall=self.clock.wall())
        if own is not None:
            reply(GetResult(found=True, value=own.value, version=own.version, hops=0, rpcs=0, timeouts=0))
            return

        def ended(search: Search) -> None:
            found = search.record
            value, version = (found.value, found.version) if found else (b"", -1)
            error = "" if found or search.complete else "the search was cut short"
            reply(GetResult(found is not None, value, version, search.hops, search.rpcs, search.timeouts, error))

        self.search(key, ended, value=True)

    def put(self, message: Put, reply: Reply) -> None:
        """Store a value at the k closest nodes, this one among them if it is."""
        ttl = message.ttl or self.settings.expire
        record = Record(message.key, message.value, message.version, self.contact.id, self.clock.wall() + ttl)
        self.search(message.key, lambda search: Spread(self, record, search, reply).start())

    def holders(self, key: bytes, closest: list[Contact]) -> tuple[list[Contact], bool]:
        """Of ``closest`` and this node the k closest to ``key``: the others, and whether this node is among them."""
        k = self.settings.k
        if len(closest) < k:
            return closest, True
        if distance(self.contact.id, key) < distance(closest[k - 1].id, key):
            return closest[: k - 1], True
        return closest[:k], False

    def keep(self, record: Record) -> str:
        """Keep a record here; an empty string, or why not. It is republished later unless others do it before."""
        now = self.clock.monotonic()
        return self.storage.put(record, wall=self.clock.wall(), now=now, republish_at=now + self.republish_pause())

    def republish_pause(self) -> float:
        """Seconds until a record's turn; drawn, so that its holders do not all take theirs at once."""
        return self.settings.republish * (1 + self.rng.random() / 4)

    def _count(self, direction: str, message: Request) -> None:
        self._counters[direction] += 1
        kind = f"{direction}.{type(message).__name__}"
        self._counters[kind] = self._counters.get(kind, 0) + 1
