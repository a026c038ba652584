"""The node itself: RPC handlers, stores and lookups. It ties the parts together and does no I/O of its own.

Everything is a callback on one thread: no tasks, no locks. A clock, a generator of random numbers and a transport are
given to it, so that the same code runs in a process and, by the hundred, in a test without a network.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random

import msgspec

from node.absences import Absences
from node.diversity import limits_of
from node.environment import Clock, Transport
from node.errors import RpcError, RpcLeaving, RpcRefused, RpcTimeout
from node.ids import BYTES, distance
from node.routing import Heard, RoutingTable
from node.search import Search, Spread, Thrift
from node.settings import Settings
from node.storage import Storage, held
from node.wire import (
    LEAVING,
    NONCE_LIMIT,
    VALUE_LIMIT,
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
    Record,
    Refusal,
    Request,
    Sender,
    Store,
    Stored,
)

COUNTED = ("rpcs_in", "rpcs_out", "observer_rpcs", "timeouts")
GREY_LEAST, GREY_FACTOR = 0.5, 8.0  # s, and of the usual round trip: so long is anybody waited for in a lookup at most
CACHE_HALVINGS = 64  # of a copy's life; far below LEAST_LIFE, and no number that overflows
LEAST_LIFE = 1.0  # s of a copy on a lookup's path; what would live shorter is not worth its RPC
# Pings of strangers who call, a second and at once: a hundred may join together.
GREETINGS, GREETINGS_AT_ONCE = 12.0, 3.0
NONCES = 256  # of the last pings that are remembered for observers
MOST_HELD = 1024  # client requests that wait until the node has joined
PADDING_LIMIT = 2**20  # bytes
# Bytes of values that clients are storing, each counted once for each of its k holders: so much may lie in our memory to be sent.
MOST_STORING = 256 * 2**20

Reply = Callable[[Answer], None]
OnContact = Callable[[Contact, Heard], None]
OnResult = Callable[[Contact, Answer | RpcError], None]
UNKNOWN = bytes(BYTES)  # stands for the identifier of a contact of which only the address is known


class Peer:
    """One Kademlia node. ``on_contact`` is told of contacts that are new, were restarted, or answer again.

    ``on_doubt`` is told when there may be one that is to be pinged in a while: it failed, or has called and is not known.
    """

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
        self.table = RoutingTable(contact.id, settings.k, limits_of(settings))
        self.on_contact: OnContact = lambda _contact, _heard: None
        self.on_doubt: Callable[[], None] = lambda: None
        self.greets = False  # whether strangers who call are pinged at once
        self._greetings, self._greeted_at = GREETINGS_AT_ONCE, clock.monotonic()  # how many may be by then
        self._held: list[tuple[Put | Get, Reply]] | None = None
        self._storing = 0  # bytes, as in MOST_STORING
        self.leaving = False  # whether nothing is to be kept here any more
        self.expects_others = False  # whether there is a network to join, so that knowing nobody means not knowing
        self.memory: Callable[[], int] = lambda: 0  # resident bytes; set by whoever knows the process
        self._nonces: deque[tuple[bytes, int]] = deque(maxlen=NONCES)
        self._usual_rtt = 0.0  # s; 0 while unknown
        self.absences = Absences()
        self.overtaken = 0  # contacts that were slow in a lookup
        self.lag = self.lag_most = 0.0  # s by which calls came later than they were due: the last, and the most ever
        self._counts: dict[str, dict[type[Request], int]] = {name: {} for name in COUNTED}

    # --- requests that arrive --------------------------------------------------------------------

    def handle(self, sender: Sender | None, message: Request, reply: Reply) -> None:
        """Serve one request; ``reply`` is called once, now or later."""
        kind = type(message)
        observer = kind is Inspect or kind is PingVia or (isinstance(message, Ping) and message.observer)
        self._count("observer_rpcs" if observer else "rpcs_in", kind)
        if sender is not None and not observer:
            self._note_sender(sender)
        match message:
            case FindNode():
                reply(Found(self._known_near(message.target, sender)))
            case FindValue():
                reply(self._on_find_value(sender, message))
            case Store():
                reply(self._on_store(sender, message))
            case Ping():
                reply(self._on_ping(message))
            case Put():
                self._take_put(message, reply)
            case Get():
                self._serve_client(message, reply)
            case Inspect():
                reply(self._on_inspect(message))
            case PingVia():
                self._on_ping_via(message, reply)

    def _note_sender(self, sender: Sender) -> None:
        now, contact = self.clock.monotonic(), sender.contact
        known = self.table.entry(contact.id) is not None
        if self.table.requested(contact, now, incarnation=sender.incarnation) or (
            not known and self._greets(contact, now)
        ):
            self.ping(contact)
        elif (entry := self.table.entry(contact.id)) is not None and not entry.alive:
            self.on_doubt()

    def _greets(self, contact: Contact, now: float) -> bool:
        """Whether to ping at once somebody who has called for the first time, and got a place.

        Else `Maintenance` does so in a while, and more slowly if there are many: whoever calls us may make up any number of them.
        """
        entry = self.table.entry(contact.id)
        self._greetings = min(GREETINGS_AT_ONCE, self._greetings + (now - self._greeted_at) * GREETINGS)
        self._greeted_at = now
        if not self.greets or entry is None or self._greetings < 1 or not entry.may_be_pinged(now):
            return False
        self._greetings -= 1
        return True

    def _on_ping(self, message: Ping) -> Answer:
        if self.leaving and not message.observer:
            return Refusal(LEAVING)  # whoever asks relies on us for nothing
        received = int(self.clock.monotonic() * 1e9)
        if message.nonce:
            self._nonces.append((message.nonce[:NONCE_LIMIT], received))
        return Pong(message.nonce, received, message.padding)

    def _on_find_value(self, sender: Sender | None, message: FindValue) -> Found:
        record = self.storage.get(message.key, wall=self.clock.wall())
        return Found(() if record else self._known_near(message.key, sender), record)

    def _on_store(self, sender: Sender | None, message: Store) -> Stored:
        record = message.record
        if message.cached:  # how long copies may live here is for us to say
            ends = min(record.expires_at, self.clock.wall() + self.settings.cache)
            record = msgspec.structs.replace(record, expires_at=ends)
        why = self.keep(record, cached=message.cached)
        return Stored(not why, why, self._known_near(message.record.key, sender) if message.search else ())

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
            counters=self.counters(),
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

        self._count("observer_rpcs", PingVia)
        ping = Ping(message.nonce, observer=True, padding=bytes(message.padding))
        self.transport.send(message.contact, ping, message.timeout, done)

    # --- requests that go out --------------------------------------------------------------------

    def call(self, contact: Contact, message: Request, done: OnResult) -> None:
        """Send an RPC, and learn from how it goes. ``done`` may be called twice: a timeout, then the late answer."""

        asked_at = self.clock.monotonic()

        def finished(result: Answer | RpcError, sent_at: float, sender: Sender | None) -> None:
            if isinstance(result, RpcLeaving):  # the last that we hear of it
                self._failed(contact, asked_at)
                done(contact, result)
            elif sender is not None and sender.contact == contact:
                self._answered(sender, sent_at)
                done(contact, result)
            else:
                self._otherwise(contact, message, result, sent_at, sender, asked_at, done)

        self._count("rpcs_out", type(message))
        self.transport.send(contact, message, self.timeout_of(contact), finished)

    def timeout_of(self, contact: Contact) -> float:
        """How long to wait for an answer of ``contact``, in seconds."""
        entry = self.table.entry(contact.id)
        return self.settings.rpc_timeout if entry is None else entry.timeout(self.settings.rpc_timeout)

    def soft_timeout_of(self, contact: Contact) -> float:
        """After how long a lookup goes on without waiting for an answer of ``contact``, in seconds."""
        entry = self.table.entry(contact.id)
        if entry is None:
            return self.settings.rpc_timeout
        # Who is always slow is not waited for either: its own past excuses nobody who is far slower than the others are.
        own = entry.soft_timeout(self.settings.rpc_timeout)
        return min(own, max(GREY_LEAST, GREY_FACTOR * self._usual_rtt)) if self._usual_rtt else own

    def _note_rtt(self, rtt: float) -> None:
        """Let the usual round trip, a running median of all contacts', follow (Robbins and Monro 1951, in steps of a tenth)."""
        usual = self._usual_rtt or rtt
        self._usual_rtt = usual * (1.1 if rtt > usual else 1 / 1.1)

    def _answered(self, sender: Sender, sent_at: float) -> None:
        """Note that somebody answered, at the address where it says that it lives; a refusal is an answer, too."""
        now = self.clock.monotonic()
        self._note_rtt(now - sent_at)
        if self.absences.known:
            self.absences.answered(sender.contact)
        heard = self.table.answered(sender.contact, now, rtt=now - sent_at, incarnation=sender.incarnation)
        if heard:
            self.on_contact(sender.contact, heard)
        elif heard.lives_at is not None:
            self._see_whether_moved(heard.lives_at, sender.contact)

    def _see_whether_moved(self, known: Contact, claimed: Contact) -> None:
        """Ping a contact where it was alive; if it is not any more, where it says that it lives: the table moves it then."""
        self.call(known, Ping(), lambda _, result: self.ping(claimed) if isinstance(result, RpcError) else None)

    def _otherwise(
        self,
        asked: Contact,
        message: Request,
        result: Answer | RpcError,
        sent_at: float,
        sender: Sender | None,
        asked_at: float,
        done: OnResult,
    ) -> None:
        """An RPC that whoever was asked did not answer: a failure, unless it was not known who lives there."""
        at_home = sender is not None and (sender.contact.host, sender.contact.port) == (asked.host, asked.port)
        if sender is not None and at_home:
            self._answered(sender, sent_at)
        if sender is not None and asked.id == UNKNOWN:
            if at_home:
                done(asked, result)
            else:  # that it lives where it says, its answer from there will show
                self.call(sender.contact, message, done)
            return
        if isinstance(result, RpcTimeout):
            self._count("timeouts", type(message))
        if sender is not None:
            result = RpcRefused(f"another node lives at {asked.host}:{asked.port} now")
        self._note_absence(asked, result, self.clock.monotonic())
        self._failed(asked, asked_at)
        done(asked, result if isinstance(result, RpcError) else RpcError("an answer without a sender"))

    def _failed(self, asked: Contact, asked_at: float) -> None:
        self.table.failed(asked.id, self.clock.monotonic(), asked_at=asked_at, asked=asked)
        self.on_doubt()

    def _note_absence(self, asked: Contact, result: Answer | RpcError, now: float) -> None:
        """Who was never known to be there, or is known to be elsewhere, is not missed."""
        entry = self.table.entry(asked.id)
        if isinstance(result, RpcRefused) and result.dead:
            if entry is None or entry.contact == asked:
                self.absences.note(asked, now, refused=True)
        elif entry is not None and entry.verified and entry.contact == asked:
            self.absences.note(asked, now, refused=False)

    def ping(self, contact: Contact) -> None:
        """See whether a contact answers; the table learns it."""
        self.call(contact, Ping(), lambda _contact, _result: None)

    def search(
        self, target: bytes, ended: Callable[[Search], None], *, value: bool = False, thrift: Thrift = Thrift.NONE
    ) -> None:
        """Look for the k closest nodes to ``target``, or for its value; see `Search` for ``thrift``."""
        Search(self, target, ended, value=value, thrift=thrift).advance()

    # --- the client's operations -----------------------------------------------------------------

    def hold_clients(self) -> None:
        """Let clients wait until `release_clients`: a node that has not joined would miss what others hold."""
        self._held = []

    def release_clients(self) -> None:
        """Serve those that wait, and from now on all at once."""
        held, self._held = self._held or [], None
        for message, reply in held:
            self._serve_client(message, reply)

    def _take_put(self, message: Put, reply: Reply) -> None:
        """Serve a store, unless those that go on already fill the memory that is there for them."""
        size = len(message.value) * min(self.settings.k, self.table.alive() + 1)
        if self._storing and self._storing + size > MOST_STORING:
            reply(Refusal("this node is storing as much as it has memory for; try again when some of that is done"))
            return
        self._storing += size

        def done(answer: Answer) -> None:
            self._storing -= size
            reply(answer)

        self._serve_client(message, done)

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
            error = "" if found else search.doubt()
            if found is not None:
                self._leave_copy(found, search)
            reply(GetResult(found is not None, value, version, search.hops, search.rpcs, search.timeouts, error))

        self.search(key, ended, value=True)

    def put(self, message: Put, reply: Reply) -> None:
        """Store a value at the k closest nodes, this one among them if it is."""
        if len(message.value) > VALUE_LIMIT:
            reply(Refusal(f"a value of {len(message.value)} bytes is over the limit of {VALUE_LIMIT}"))
            return
        if not 0 <= message.ttl < math.inf:
            reply(Refusal(f"a time to live is a finite number of seconds from 0 on, not {message.ttl}"))
            return
        ttl = message.ttl or self.settings.expire
        record = Record(message.key, message.value, message.version, self.contact.id, self.clock.wall() + ttl)
        self.spread(record, lambda search: Spread(self, record, search, reply).start())

    def spread(self, record: Record, ended: Callable[[Search], None]) -> None:
        """Look for the holders of a record, and bring it along to those who are it as far as is known on the way."""
        Search(self, record.key, ended, record=record).advance()

    def _leave_copy(self, record: Record, search: Search) -> None:
        """Store what was found at the closest node that lacked it (paper, section 2.3): later lookups pass there.

        Who should hold it gets it for good. With anybody else it lives half as long for each node that is closer, beyond
        the k holders.
        """
        lacking = [c for c in search.lookup.closest() if search.source is None or c.id != search.source.id]
        if not lacking:
            return
        there, than = lacking[0], distance(lacking[0].id, record.key)
        known = {c.id for c in search.lookup.nearest()} | {e.contact.id for e in self.table.entries() if e.alive}
        closer = sum(1 for one in (*known, self.contact.id) if distance(one, record.key) < than)
        if closer < self.settings.k:
            self.call(there, Store(record), lambda _contact, _result: None)
        elif self.settings.cache:
            self._send_copy(there, record, max(closer, self._probably_within(than)) - self.settings.k)

    def _send_copy(self, there: Contact, record: Record, beyond: int) -> None:
        life = self.settings.cache * 0.5 ** min(beyond, CACHE_HALVINGS)
        if life >= LEAST_LIFE:
            copy = msgspec.structs.replace(record, expires_at=min(record.expires_at, self.clock.wall() + life))
            self.call(there, Store(copy, cached=True), lambda _contact, _result: None)

    def _probably_within(self, reach: int) -> int:
        """How many nodes are nearer than ``reach`` to any key, if they lie there as densely as around this one.

        A lookup that soon finds its value has heard of few of them.
        """
        nearest = self.table.closest(self.contact.id, self.settings.k)
        if len(nearest) < self.settings.k:
            return 0  # these are all that there are
        return (len(nearest) - 1) * reach // distance(nearest[-1].id, self.contact.id)

    def holders(self, key: bytes, closest: list[Contact]) -> tuple[list[Contact], bool]:
        """Of ``closest`` and this node the k closest to ``key``: the others, and whether this node is among them."""
        k = self.settings.k
        if len(closest) < k:
            return closest, True
        if distance(self.contact.id, key) < distance(closest[k - 1].id, key):
            return closest[: k - 1], True
        return closest[:k], False

    def keep(self, record: Record, *, cached: bool = False) -> str:
        """Keep a record here; an empty string, or why not. It is republished later unless others do it before."""
        if self.leaving:
            return LEAVING
        now = self.clock.monotonic()
        republish_at = now + self.republish_pause()
        return self.storage.put(record, wall=self.clock.wall(), now=now, republish_at=republish_at, cached=cached)

    def republish_pause(self) -> float:
        """Seconds until a record's turn; drawn, so that its holders do not all take theirs at once."""
        return self.settings.republish * (1 + self.rng.random() / 4)

    def note_lag(self, seconds: float) -> None:
        """Take down by how much a call came later than it was due: how busy this process is."""
        self.lag = max(0.0, seconds)
        self.lag_most = max(self.lag_most, self.lag)

    def _count(self, what: str, kind: type[Request]) -> None:
        counts = self._counts[what]
        counts[kind] = counts.get(kind, 0) + 1

    def counters(self) -> dict[str, int]:
        """What was counted: in all, and by the kind of RPC. Times are in microseconds."""
        told = {what: sum(counts.values()) for what, counts in self._counts.items()}
        for what, counts in self._counts.items():
            told |= {f"{what}.{kind.__name__}": count for kind, count in counts.items()}
        told |= {"overtaken": self.overtaken, "store_bytes": self.storage.size}
        told |= {"loop_lag_us": int(self.lag * 1e6), "loop_lag_most_us": int(self.lag_most * 1e6)}
        return told | self.transport.counters()
