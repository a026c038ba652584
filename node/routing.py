"""The routing table: k-buckets with replacement caches. Pure: the time is an argument, nothing is sent from here.

Rules:
- Buckets split as in the paper (Maymounkov and Mazières 2002, sections 2.2 and 2.4): a full bucket splits if it covers
  our own identifier, or if the newcomer is among the k closest contacts that we know. So a node always knows its true
  k closest.
- One timeout evicts nobody. A contact that failed is *suspect*: it is not handed out to others and not asked in lookups
  while anybody else can be, and is pinged again with back-off. Only after EVICTION_FAILURES failures in a row does a
  live contact from the replacement cache take its place (BEP 5: "bad" nodes are replaced, not removed): at once if that
  answered lately, else when it answers a ping. Without a replacement it stays, however dead it looks: a table that a
  total outage made suspect heals by itself when it ends. Only who never answered at all goes then, while anybody is
  alive and no spare waits for its place: whoever asks us may make up any number of contacts, which would be pinged for ever.
- A contact is *verified* once it has answered a request that we sent to its advertised address. Those that we only
  heard from fill free places, and never push out a verified one: not in buckets, nor in replacement caches, nor as those
  with whom a lookup starts.
- An address belongs to one identity: a verified contact at an address replaces whoever we knew there, in a bucket or
  as a spare.
- An identity moves to another address when it answers there, but not while it is known to be alive at the old one: that
  is pinged first, and has to fail.
- A contact that answers in another incarnation was restarted. It has been *steady* since then, as others have since
  they were first verified, or answered again after a failure: who was not steady when a record came may lack it.
- Who answers again after failures is alive at once; who stays silent is pinged ever more rarely, a fifth of its silence
  apart, and never given up while there is nobody to take its place.
- Where limits are set, contacts of one subnet get so many places in a bucket and in the table, and no more. Those that
  never answered, or are given up, keep no verified one of their subnet out: one of them leaves for it.
- Iteration follows insertion, never the order of a set or a hash: the same events give the same table.

Rejected: one list ordered by distance: the nearest to another identifier than ours are then not found any faster.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Container, Iterable, Iterator

import msgspec

from node.ids import BITS, as_int
from node.ranking import Ranking
from node.wire import Contact

EVICTION_FAILURES = 5  # libp2p and BEP 5 are less patient; the paper evicts after one (and is wrong on lossy links)
LATELY = 60.0  # s since the answer of a spare that may take a place, and so pass for alive, without being pinged first
BACKOFF_FIRST = 0.5  # s after the first failure; doubles with each further one
BACKOFF_DOUBLINGS = 10  # beyond that the next is the cap anyway, and in an hour the power would overflow
BACKOFF_EARLY = 3.0  # s; so a network that heals soon is whole again within a few seconds
BACKOFF_SHARE = 0.2  # of a contact's silence, once that is more: who is long gone costs ever less
BACKOFF_MOST = 60.0  # s; so a network that was cut for hours is one again within two minutes
TIMEOUT_UNKNOWN = 0.5  # s while a contact's round-trip time is not known
# s. Too short a timeout costs more than too long a one: suspects are not waited for again, whereas a busy machine, or a
# link that has just become 150 ms slower, must not turn a whole neighbourhood suspect.
TIMEOUT_LEAST, TIMEOUT_MOST = 0.3, 2.0
SLOW_LEAST = 0.15  # s; who is overtaken costs one more RPC, so this may be shorter than the least timeout
GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4  # Jacobson 1988, as in RFC 6298 section 2
RTT_FACTOR = 3.0  # timeouts are about three round trips (Rhea 2004 keeps to mean + 4 deviations; the larger wins)


class Entry(msgspec.Struct):
    """What we know of one contact. Times are monotonic seconds."""

    contact: Contact
    number: int  # the identifier as an integer
    seen: float
    verified: bool = False
    failures: int = 0
    incarnation: int = 0  # 0 while unknown
    answered_at: float = 0.0
    steady_since: float = 0.0
    retry_at: float = 0.0
    failing_since: float = 0.0
    failed_at: float = 0.0  # when the last failure was counted
    rtt: float = 0.0  # smoothed round-trip time in seconds, 0 while unknown
    deviation: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it answered when it was last asked."""
        return self.verified and not self.failures

    @property
    def expendable(self) -> bool:
        """Whether one that has answered may take its place: it never did itself, or is given up."""
        return not self.verified or self.failures >= EVICTION_FAILURES

    def may_be_pinged(self, now: float) -> bool:
        """Whether to ping it for what was just heard of it; whoever asks does so. One such ping at a time."""
        free = self.retry_at <= now
        if free:
            self.retry_at = now + BACKOFF_FIRST
        return free

    def timeout(self, unknown: float = TIMEOUT_UNKNOWN) -> float:
        """How long to wait for its answer, in seconds; ``unknown`` while its round-trip time is."""
        if not self.rtt:
            return unknown
        wait = max(RTT_FACTOR * self.rtt, self.rtt + 4 * self.deviation)
        return min(TIMEOUT_MOST, max(TIMEOUT_LEAST, wait))

    def soft_timeout(self, unknown: float = TIMEOUT_UNKNOWN) -> float:
        """After how long its answer is later than usual, in seconds."""
        if not self.rtt:
            return unknown
        return min(self.timeout(unknown), max(SLOW_LEAST, self.rtt + 4 * self.deviation))

    def measure(self, rtt: float) -> None:
        """Take one more round trip into account (RFC 6298)."""
        if not self.rtt:
            self.rtt, self.deviation = rtt, rtt / 2
            return
        self.deviation += DEVIATION_GAIN * (abs(rtt - self.rtt) - self.deviation)
        self.rtt += GAIN * (rtt - self.rtt)


class Bucket(msgspec.Struct):
    """Contacts whose identifiers lie in [low, high); least recently seen first. ``spares`` is the replacement cache."""

    low: int
    high: int
    entries: dict[bytes, Entry] = {}
    spares: dict[bytes, Entry] = {}
    refreshed: float = 0.0

    def covers(self, number: int) -> bool:
        return self.low <= number < self.high


class Limits(msgspec.Struct, frozen=True):
    """How many contacts may come from one subnet of advertised addresses (S/Kademlia 2007; libp2p does alike); 0: any.

    ``subnet_of`` names an address's subnet, or is empty for addresses to which no limit applies.
    """

    bucket: int = 0
    table: int = 0
    subnet_of: Callable[[str], str] = str


class Heard(msgspec.Struct, frozen=True):
    """What `heard` changed.

    ``new``: it is in the table, and answered for the first time. ``restarted``: its incarnation is not the one that we
    knew. ``missed_since``: it answers again after failures; it last did so at that time. ``lives_at``: nothing is
    changed, since it is known to be alive there; that is to be pinged now, to see whether it has moved.
    """

    new: bool = False
    restarted: bool = False
    missed_since: float | None = None
    lives_at: Contact | None = None

    def __bool__(self) -> bool:
        return self.new or self.restarted or self.missed_since is not None


NOTHING = Heard()


def back_off(failures: int, silence: float) -> float:
    """Seconds until a contact that failed so often in a row, the first time ``silence`` seconds ago, is tried again."""
    early = min(BACKOFF_EARLY, BACKOFF_FIRST * (1 << min(failures - 1, BACKOFF_DOUBLINGS)))
    return min(BACKOFF_MOST, max(early, BACKOFF_SHARE * silence))


def _ranked(entries: Iterable[Entry]) -> Ranking:
    return Ranking((entry.number, entry.contact) for entry in entries)


class RoutingTable:
    """All contacts of one node. ``own`` is its identifier, ``k`` the size of a bucket."""

    def __init__(self, own: bytes, k: int, limits: Limits | None = None) -> None:
        self.own = own
        self.k = k
        self._limits = limits or Limits()
        self._number = as_int(own)
        self._buckets = [Bucket(0, 1 << BITS)]
        self._lows = [0]
        self._by_id: dict[bytes, Entry] = {}  # those in buckets, not the spares
        self._doubtful: dict[bytes, Entry] = {}  # of them those that are not alive, as far as we know
        self._at_address: dict[tuple[str, int], bytes] = {}  # of those verified, spares among them
        self._ranks: list[int] = []  # the distances of those in buckets to us, sorted
        self._subnets: dict[str, int] = {}  # how many of those in buckets are of it
        self._alive: Ranking | None = None  # None: to be made anew
        self._left: Ranking | None = None
        self._suspects: set[bytes] | None = None  # only asked, never iterated
        self._silent_from = 0.0  # nobody can have been silent for long before that

    def __len__(self) -> int:
        return len(self._by_id)

    def entry(self, identifier: bytes) -> Entry | None:
        """The entry of a contact in a bucket."""
        return self._by_id.get(identifier)

    def entries(self) -> Iterator[Entry]:
        """All entries, bucket by bucket."""
        for bucket in self._buckets:
            yield from bucket.entries.values()

    def buckets(self) -> list[Bucket]:
        """The buckets, by range."""
        return self._buckets

    # --- learning --------------------------------------------------------------------------------

    def answered(self, contact: Contact, now: float, *, rtt: float, incarnation: int = 0) -> Heard:
        """Note that a contact answered us after ``rtt`` seconds."""
        if contact.id == self.own:
            return NOTHING
        entry = self._by_id.get(contact.id)
        if entry is None:
            return self._answer_of_stranger(contact, now, rtt, incarnation)
        if entry.contact is not contact and entry.contact != contact:
            return self._dispute(entry, now) if entry.alive else self._move(entry, contact, now, rtt, incarnation)
        heard = self._hear(entry, now, rtt, incarnation)
        entries = self._bucket_of(entry.number).entries
        entries[contact.id] = entries.pop(contact.id)  # to the end: most recently seen
        return heard

    def requested(self, contact: Contact, now: float, *, incarnation: int = 0) -> bool:
        """Note that a contact says that it sent us a request; whether it is to be pinged now, to see what changed."""
        if contact.id == self.own:
            return False
        entry = self._by_id.get(contact.id)
        if entry is None:
            return self._request_of_stranger(contact, now)
        if entry.contact != contact:  # an identity moves only when the new address has answered
            moved = entry.failures > 0 and now - entry.seen >= BACKOFF_FIRST
            entry.seen = now if moved else entry.seen  # one such ping at a time
            return moved
        entry.seen = now
        if entry.failures:
            entry.retry_at = min(entry.retry_at, now)  # it lives, it seems: ping it without further delay
            return False
        return bool(entry.incarnation) and incarnation != entry.incarnation and entry.may_be_pinged(now)

    def failed(
        self, identifier: bytes, now: float, *, asked_at: float = math.inf, asked: Contact | None = None
    ) -> None:
        """Note that a contact did not answer what it was asked at ``asked_at``; ``asked``: where, if not where we know it.

        Requests that were under way together fail together: that is one failure, and not so many in a row. What failed at
        another address, which somebody told us, says nothing of the one that we know.
        """
        bucket = self._bucket_of(as_int(identifier))
        entry = bucket.entries.get(identifier)
        known = entry or bucket.spares.get(identifier)
        if known is None or (asked is not None and asked != known.contact):
            return
        if entry is None:
            self._forget_spare(bucket, identifier)
            return
        first = not entry.failures
        if first:
            entry.failing_since = now
        elif asked_at < entry.failed_at:
            return
        entry.failed_at = now
        entry.failures += 1
        if first:
            self._note_life(entry)
        entry.retry_at = now + back_off(entry.failures, now - entry.failing_since)
        if entry.failures >= EVICTION_FAILURES:
            self._replace(entry, now)

    # --- asking ----------------------------------------------------------------------------------

    def closest(self, target: bytes, count: int, *, but: bytes = b"") -> list[Contact]:
        """The ``count`` contacts nearest to ``target`` that are alive, nearest first; ``but`` is left out."""
        return self._those_alive().nearest(as_int(target), count, but)

    def seeds(self, target: bytes, count: int) -> list[Contact]:
        """Where a lookup starts: those alive, then those not tried yet. Suspects only if there is nobody else.

        Whoever asks us is in the table untried: no number of those takes the place of one that is known to be alive.
        """
        number = as_int(target)
        seeds = self._those_alive().nearest(number, count)
        if len(seeds) < count and len(seeds) < len(self._by_id):
            seeds += self._those_left().nearest(number, count - len(seeds))
        return seeds

    def alive(self) -> int:
        """How many contacts answered when they were last asked."""
        return len(self._by_id) - len(self._doubtful)

    def next_due(self) -> float:
        """When the first of those in buckets that are not known to be alive is to be pinged; infinite if all are."""
        return min((entry.retry_at for entry in self._doubtful.values()), default=math.inf)

    def is_suspect(self, identifier: bytes) -> bool:
        """Whether that contact failed when it was last asked."""
        entry = self._by_id.get(identifier)
        return entry is not None and entry.failures > 0

    def suspects(self) -> Container[bytes]:
        """Identifiers of the contacts that failed when they were last asked."""
        if self._suspects is None:
            self._suspects = {i for i, e in self._doubtful.items() if e.failures}
        return self._suspects

    def due(self, now: float, limit: int) -> list[Entry]:
        """Contacts that are to be pinged now: suspects, unverified ones, and spares for those that are given up.

        Those that never answered get one place if others wait: however many were made up, who was known is not kept waiting.
        """
        if not self._doubtful:
            return []
        waiting = [e for e in self._doubtful.values() if e.retry_at <= now]
        if any(e.failures >= EVICTION_FAILURES for e in self._doubtful.values()):
            for bucket in self._buckets:
                if bucket.spares and any(e.failures >= EVICTION_FAILURES for e in bucket.entries.values()):
                    waiting += [e for e in bucket.spares.values() if e.retry_at <= now]
        strangers = heapq.nsmallest(limit, (e for e in waiting if not e.verified), key=lambda e: e.retry_at)
        room = limit - min(1, len(strangers))
        known = heapq.nsmallest(room, (e for e in waiting if e.verified), key=lambda e: e.retry_at)
        return known + strangers[: limit - len(known)]

    def hurry(self, now: float) -> None:
        """Make all suspects due: one that was silent for long answers again, so whatever cut us off may be over."""
        for entry in self._doubtful.values():
            if entry.failures:
                entry.retry_at = min(entry.retry_at, now)

    def unheard(self, now: float, age: float, limit: int) -> list[Entry]:
        """Contacts that pass for alive and from which nothing came for ``age`` seconds, the longest silent first."""
        if now < self._silent_from:
            return []
        self._silent_from = min((e.seen for e in self._by_id.values() if e.alive), default=now) + age
        silent = [e for e in self._by_id.values() if e.alive and now - e.seen >= age and e.retry_at <= now]
        return heapq.nsmallest(limit, silent, key=lambda e: e.seen)

    def stale_buckets(self, now: float, age: float) -> list[Bucket]:
        """Buckets in which nothing was looked up for ``age`` seconds."""
        return [bucket for bucket in self._buckets if now - bucket.refreshed >= age]

    def touch(self, target: bytes, now: float) -> None:
        """Note that something was looked up in the range of ``target``."""
        self._bucket_of(as_int(target)).refreshed = now

    def _answer_of_stranger(self, contact: Contact, now: float, rtt: float, incarnation: int) -> Heard:
        number = as_int(contact.id)
        spare = self._bucket_of(number).spares.get(contact.id)
        if spare is not None and spare.verified and spare.contact != contact:
            return self._dispute(spare, now)
        entry = Entry(contact, number, now, verified=True, incarnation=incarnation)
        entry.answered_at = entry.steady_since = now
        entry.measure(rtt)
        self._expel_address(contact)
        return Heard(new=True) if self._admit(entry) else NOTHING

    def _dispute(self, entry: Entry, now: float) -> Heard:
        """What to do if somebody answers at another address as one that is known: it moves only if it is not there any more."""
        return Heard(lives_at=entry.contact) if entry.may_be_pinged(now) else NOTHING

    def _request_of_stranger(self, contact: Contact, now: float) -> bool:
        number = as_int(contact.id)
        bucket = self._bucket_of(number)
        spare = bucket.spares.get(contact.id)
        if spare is None or not spare.verified:
            self._admit(Entry(contact, number, now))
            return False
        if spare.contact == contact:  # it stays as it stood; a request does not unmake what an answer has shown
            spare.seen = now
            bucket.spares[contact.id] = bucket.spares.pop(contact.id)
        return spare.may_be_pinged(now) and self._in_its_way(bucket, spare) is not None

    # --- inside ----------------------------------------------------------------------------------

    def _those_alive(self) -> Ranking:
        if self._alive is None:
            self._alive = _ranked(entry for entry in self._by_id.values() if entry.alive)
        return self._alive

    def _those_left(self) -> Ranking:
        """Where a lookup starts if too few are alive."""
        if self._left is None:
            untried = [entry for entry in self._doubtful.values() if not (entry.verified or entry.failures)]
            self._left = _ranked(untried or (() if self.alive() else self._by_id.values()))
        return self._left

    def _note_life(self, entry: Entry) -> None:
        """Take down whether this one is in a bucket and alive, since it may not be what it was."""
        there, alive = self._by_id.get(entry.contact.id) is entry, entry.alive
        if there and not alive:
            self._doubtful[entry.contact.id] = entry
        else:
            self._doubtful.pop(entry.contact.id, None)
        # They come and go one by one, between questions that need all of them in order: so that is kept, not made anew.
        if self._alive is not None and not (
            self._alive.add(entry.number, entry.contact) if there and alive else self._alive.discard(entry.number)
        ):
            self._alive = None
        self._left = self._suspects = None

    def _bucket_of(self, number: int) -> Bucket:
        return self._buckets[bisect.bisect_right(self._lows, number) - 1]

    def _admit(self, entry: Entry) -> bool:
        bucket = self._bucket_of(entry.number)
        while len(bucket.entries) >= self.k and self._may_split(bucket, entry):
            self._split(bucket)
            bucket = self._bucket_of(entry.number)
        leaving = self._in_its_way(bucket, entry)
        if leaving is None:
            self._keep_spare(bucket, entry)
            return False
        self._take_place(bucket, entry, leaving)
        return True

    def _take_place(self, bucket: Bucket, entry: Entry, leaving: list[Entry]) -> None:
        for other in leaving:
            self._remove(other)
        self._forget_spare(bucket, entry.contact.id)
        self._insert(bucket, entry)

    def _insert(self, bucket: Bucket, entry: Entry) -> None:
        bucket.entries[entry.contact.id] = entry
        self._by_id[entry.contact.id] = entry
        bisect.insort(self._ranks, entry.number ^ self._number)
        self._count_subnet(entry.contact, 1)
        self._note_life(entry)
        self._occupy(entry)

    def _remove(self, entry: Entry) -> None:
        identifier = entry.contact.id
        self._bucket_of(entry.number).entries.pop(identifier, None)
        self._by_id.pop(identifier, None)
        self._ranks.remove(entry.number ^ self._number)
        self._count_subnet(entry.contact, -1)
        self._note_life(entry)
        self._vacate(entry)

    def _occupy(self, entry: Entry) -> None:
        if entry.verified:
            self._at_address[entry.contact.host, entry.contact.port] = entry.contact.id

    def _vacate(self, entry: Entry) -> None:
        address = (entry.contact.host, entry.contact.port)
        if self._at_address.get(address) == entry.contact.id:
            del self._at_address[address]

    def _hear(self, entry: Entry, now: float, rtt: float, incarnation: int) -> Heard:
        heard = NOTHING
        if not entry.verified or entry.failures or incarnation != entry.incarnation:
            heard = Heard(
                new=not entry.verified,
                restarted=bool(entry.incarnation) and incarnation != entry.incarnation,
                missed_since=entry.answered_at if entry.verified and entry.failures else None,
            )
            self._settle(entry, heard, now, incarnation)
        entry.seen = entry.answered_at = now
        entry.measure(rtt)
        return heard

    def _settle(self, entry: Entry, heard: Heard, now: float, incarnation: int) -> None:
        """Take down that a contact is alive in this incarnation, which was not known of it."""
        if heard:
            entry.steady_since = now
        if heard.restarted:
            entry.rtt = 0.0  # what was measured last was mostly its absence
        entry.verified, entry.failures, entry.incarnation = True, 0, incarnation
        self._expel_address(entry.contact)
        self._occupy(entry)
        self._note_life(entry)

    def _move(self, entry: Entry, contact: Contact, now: float, rtt: float, incarnation: int) -> Heard:
        """Let a contact have another address, where it answered. Its new subnet may have its places already."""
        self._remove(entry)
        entry.contact = contact
        heard = self._hear(entry, now, rtt, incarnation)
        return heard if self._admit(entry) else NOTHING

    def _expel_address(self, contact: Contact) -> None:
        """Remove whoever else was known at this address: it has a new identity now."""
        other = self._at_address.get((contact.host, contact.port))
        if other is None or other == contact.id:
            return
        if other in self._by_id:
            self._remove(self._by_id[other])
        else:
            self._forget_spare(self._bucket_of(as_int(other)), other)

    def _may_split(self, bucket: Bucket, entry: Entry) -> bool:
        if bucket.high - bucket.low <= 1:
            return False
        if bucket.covers(self._number):
            return True
        reach = entry.number ^ self._number
        nearer = bisect.bisect_left(self._ranks, reach)
        return nearer < self.k or (entry.verified and nearer - self._untried_within(reach) < self.k)

    def _untried_within(self, reach: int) -> int:
        """How many that never answered are nearer to us. They may be made up: who has answered is not hidden by them."""
        return sum(1 for e in self._doubtful.values() if not e.verified and e.number ^ self._number < reach)

    def _in_its_way(self, bucket: Bucket, entry: Entry, given_up: Entry | None = None) -> list[Entry] | None:
        """Who has to leave, along with who is ``given_up``, so that ``entry`` gets a place. None: it gets none.

        Only for a verified contact anybody leaves, and only who is `expendable`.
        """
        leaving = {} if given_up is None else {given_up.contact.id: given_up}
        for held, most in self._bounds(bucket, entry):
            staying = [other for other in held if other.contact.id not in leaving]
            if len(staying) < most:
                continue
            worse = [other for other in staying if other.expendable] if entry.verified else []
            if not worse:
                return None
            # one of its bucket if there is any: that makes room there, too
            other = min(worse, key=lambda e: e.contact.id not in bucket.entries)
            leaving[other.contact.id] = other
        return list(leaving.values())

    def _bounds(self, bucket: Bucket, entry: Entry) -> Iterator[tuple[Iterable[Entry], int]]:
        """Of whom there may be so many and no more, ``entry`` among them."""
        limits = self._limits
        subnet = limits.subnet_of(entry.contact.host) if limits.bucket or limits.table else ""
        if subnet and limits.bucket:
            yield self._of_subnet(subnet, bucket.entries.values()), limits.bucket
        if subnet and 0 < limits.table <= self._subnets.get(subnet, 0):
            yield self._of_subnet(subnet, self._by_id.values()), limits.table
        if len(bucket.entries) >= self.k:
            yield bucket.entries.values(), self.k

    def _of_subnet(self, subnet: str, entries: Iterable[Entry]) -> list[Entry]:
        return [entry for entry in entries if self._limits.subnet_of(entry.contact.host) == subnet]

    def _count_subnet(self, contact: Contact, change: int) -> None:
        if self._limits.table:
            subnet = self._limits.subnet_of(contact.host)
            count = self._subnets.pop(subnet, 0) + change
            if count:
                self._subnets[subnet] = count

    def _split(self, bucket: Bucket) -> None:
        middle = (bucket.low + bucket.high) // 2
        upper = Bucket(middle, bucket.high, refreshed=bucket.refreshed)
        for held in ("entries", "spares"):
            mine: dict[bytes, Entry] = getattr(bucket, held)
            theirs = {key: entry for key, entry in mine.items() if entry.number >= middle}
            setattr(upper, held, theirs)
            setattr(bucket, held, {key: entry for key, entry in mine.items() if entry.number < middle})
        bucket.high = middle
        at = bisect.bisect_right(self._lows, bucket.low)
        self._buckets.insert(at, upper)
        self._lows.insert(at, middle)

    def _keep_spare(self, bucket: Bucket, entry: Entry) -> None:
        known = bucket.spares.get(entry.contact.id)
        if known is not None and known.verified and not entry.verified:
            entry = known
        self._forget_spare(bucket, entry.contact.id)
        bucket.spares[entry.contact.id] = entry
        self._occupy(entry)
        if len(bucket.spares) > self.k:  # the oldest one that never answered goes, else the oldest
            self._forget_spare(bucket, min(bucket.spares.values(), key=lambda e: e.verified).contact.id)

    def _forget_spare(self, bucket: Bucket, identifier: bytes) -> None:
        spare = bucket.spares.pop(identifier, None)
        if spare is not None:
            self._vacate(spare)

    def _replace(self, entry: Entry, now: float) -> None:
        """Put the newest spare that answered lately into the place of a contact that was given up.

        The other spares are due now: one that answers takes the place, too. Where there are none, who ever answered stays.
        """
        bucket = self._bucket_of(entry.number)
        for spare in reversed(bucket.spares.values()):
            fresh = spare.verified and now - spare.answered_at <= LATELY
            leaving = self._in_its_way(bucket, spare, entry) if fresh else None
            if leaving is not None:
                self._take_place(bucket, spare, leaving)
                self._silent_from = 0.0  # it may have been silent for longer than all others
                return
        if not entry.verified and not bucket.spares and self.alive():  # with it would go the reason to ping spares
            self._remove(entry)
