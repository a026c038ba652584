"""The node itself: RPC handlers, stores and lookups. It ties the parts together and does no I/O of its own.

Everything is a callback on one thread: no tasks, no locks. A clock, a generator of random numbers and a transport are
given to it, so that the same code runs in a process and, by the hundred, in a test without a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from node.environment import Clock, Transport
from node.errors import RpcError, RpcTimeout
from node.ids import distance
from node.lookup import Lookup
from node.routing import TIMEOUT_UNKNOWN, Heard, RoutingTable
from node.settings import Settings
from node.storage import Storage, held
from node.wire import (
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
    Store,
    Stored,
)

NONCES = 256  # of the last pings that are remembered for observers
PADDING_LIMIT = 2**20  # bytes
LOOKUP_LIMIT = 4.0  # s; a lookup that takes longer answers with what it has

Reply = Callable[[Answer], None]
OnContact = Callable[[Contact, Heard], None]


class Search:
    """One lookup under way: sends what `Lookup` asks for, and ends when it is done, has the value, or takes too long."""

    def __init__(
        self,
        peer: Peer,
        target: bytes,
        ended: Callable[[Search], None],
        *,
        value: bool,
        joining: bool = False,
    ) -> None:
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
        self.record: Record | None = None
        self._message: Request = FindValue(target) if value else FindNode(target, joining)
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
            self._end()

    def _on_result(self, contact: Contact, result: Answer | RpcError) -> None:
        if self._ended is None:
            return
        if isinstance(result, Found):
            self.lookup.answered(contact, result.contacts)
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


class Peer:
    """One Kademlia node. ``on_contact`` is told of contacts that are new, or that answer again."""

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
        self.on_contact: OnContact = lambda contact, heard: None
        self.memory: Callable[[], int] = lambda: 0  # resident bytes; set by whoever knows the process
        self.on_join: Callable[[Contact], None] = lambda contact: None
        self._nonces: deque[bytes] = deque(maxlen=NONCES)
        self._counters: dict[str, int] = dict.fromkeys(("rpcs_in", "rpcs_out", "observer_rpcs", "timeouts"), 0)

    # --- requests that arrive --------------------------------------------------------------------

    def handle(self, sender: Contact | None, message: Request, reply: Reply) -> None:
        """Serve one request; ``reply`` is called once, now or later."""
        observer = isinstance(message, Inspect | PingVia) or (isinstance(message, Ping) and message.observer)
        self._count("observer_rpcs" if observer else "rpcs_in", message)
        if sender is not None and not observer:
            self.table.heard(sender, self.clock.monotonic(), verified=False)
        match message:
            case Ping():
                reply(self._on_ping(message))
            case FindNode():
                reply(self._on_find_node(sender, message))
            case FindValue():
                reply(self._on_find_value(sender, message))
            case Store():
                reply(self._on_store(message.record))
            case Put():
                self.put(message, reply)
            case Get():
                self.get(message.key, reply)
            case Inspect():
                reply(self._on_inspect(message))
            case PingVia():
                self._on_ping_via(message, reply)

    def _on_ping(self, message: Ping) -> Pong:
        if message.nonce:
            self._nonces.append(message.nonce)
        return Pong(message.nonce, int(self.clock.monotonic() * 1e9), message.padding)

    def _on_find_node(self, sender: Contact | None, message: FindNode) -> Found:
        if message.joining and sender is not None:
            self.on_join(sender)
        return Found(self._known_near(message.target, sender))

    def _on_find_value(self, sender: Contact | None, message: FindValue) -> Found:
        record = self.storage.get(message.key, wall=self.clock.wall())
        return Found(() if record else self._known_near(message.key, sender), record)

    def _on_store(self, record: Record) -> Stored:
        why = self.keep(record)
        return Stored(not why, why)

    def _known_near(self, target: bytes, sender: Contact | None) -> tuple[Contact, ...]:
        but = sender.id if sender is not None else b""
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
            nonces=tuple(self._nonces),
            memory=self.memory(),
        )

    def _on_ping_via(self, message: PingVia, reply: Reply) -> None:
        if not 0 <= message.padding <= PADDING_LIMIT or not 0 < message.timeout <= 60:
            reply(Refusal("padding is 0 to 1 MiB, and timeout at most 60 s"))
            return
        replied = False

        def done(result: Answer | RpcError, sent_at: float, _: Contact | None) -> None:
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

    def call(self, contact: Contact, message: Request, done: Callable[[Contact, Answer | RpcError], None]) -> None:
        """Send an RPC, and learn from how it goes. ``done`` may be called twice: a timeout, then the late answer."""
        entry = self.table.entry(contact.id)
        timeout = TIMEOUT_UNKNOWN if entry is None else entry.timeout

        def finished(result: Answer | RpcError, sent_at: float, sender: Contact | None) -> None:
            now = self.clock.monotonic()
            if isinstance(result, RpcError):
                self._counters["timeouts"] += isinstance(result, RpcTimeout)
                self.table.failed(contact.id, now)
            else:
                # whoever answers at this address is who lives there now: the identity is theirs to tell
                self._learn(sender or contact, now, now - sent_at)
            done(contact, result)

        self._count("rpcs_out", message)
        self.transport.send(contact, message, timeout, finished)

    def _learn(self, contact: Contact, now: float, rtt: float) -> None:
        heard = self.table.heard(contact, now, verified=True, rtt=rtt)
        if heard.new or heard.restored_since is not None:
            self.on_contact(contact, heard)

    def ping(self, contact: Contact) -> None:
        """See whether a contact answers; the table learns it."""
        self.call(contact, Ping(), lambda contact, result: None)

    def search(
        self, target: bytes, ended: Callable[[Search], None], *, value: bool = False, joining: bool = False
    ) -> None:
        """Look for the k closest nodes to ``target``, or for its value."""
        Search(self, target, ended, value=value, joining=joining).advance()

    # --- the client's operations -----------------------------------------------------------------

    def get(self, key: bytes, reply: Reply) -> None:
        """Look a value up: in the own store, else in the network."""
        own = self.storage.get(key, wall=self.clock.wall())
        if own is not None:
            reply(GetResult(True, own.value, own.version, 0, 0, 0))
            return

        def ended(search: Search) -> None:
            found = search.record
            value, version = (found.value, found.version) if found else (b"", -1)
            reply(GetResult(found is not None, value, version, search.hops, search.rpcs, search.timeouts))

        self.search(key, ended, value=True)

    def put(self, message: Put, reply: Reply) -> None:
        """Store a value at the k closest nodes, this one among them if it is."""
        ttl = message.ttl or self.settings.expire
        record = Record(message.key, message.value, message.version, self.contact.id, self.clock.wall() + ttl)
        self.search(message.key, lambda search: self._spread(record, search, reply))

    def _spread(self, record: Record, search: Search, reply: Reply) -> None:
        holders, holds = self.holders(record.key, search.lookup.closest())
        kept_here = holds and not self.keep(record)
        acks, waiting, timeouts, replied = int(kept_here), len(holders), search.timeouts, False

        def finish() -> None:
            nonlocal replied
            if not waiting and not replied:
                replied = True
                rpcs = search.rpcs + len(holders)
                reply(PutResult(acks, kept_here, search.hops, rpcs, timeouts))

        def stored(contact: Contact, result: Answer | RpcError) -> None:
            nonlocal acks, waiting, timeouts
            if contact.id in answered:
                return  # its timeout was counted; a late answer changes nothing any more
            answered.add(contact.id)
            waiting -= 1
            acks += isinstance(result, Stored) and result.kept
            timeouts += isinstance(result, RpcTimeout)
            finish()

        answered: set[bytes] = set()
        for contact in holders:
            self.call(contact, Store(record), stored)
        finish()

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
        after = self.settings.republish * (1 + self.rng.random() / 4)
        return self.storage.put(record, wall=self.clock.wall(), now=now, republish_at=now + after)

    def _count(self, direction: str, message: Request) -> None:
        self._counters[direction] += 1
        kind = f"{direction}.{type(message).__name__}"
        self._counters[kind] = self._counters.get(kind, 0) + 1
