"""The routing table: k-buckets with replacement caches. Pure: the time is an argument, nothing is sent from here.

Rules:
- Buckets split as in the paper (Maymounkov and Mazières 2002, sections 2.2 and 2.4): a full bucket splits if it covers our
  own identifier, or if the newcomer is among the k closest contacts that we know. So a node always knows its true k closest.
- One timeout evicts nobody. A contact that failed is *suspect*: it is not handed out to others and not asked in lookups, and is
  pinged again with back-off. Only after EVICTION_FAILURES failures in a row does a live contact from the replacement cache
  take its place (BEP 5: "bad" nodes are replaced, not removed). Without a replacement it stays, however dead it looks: a
  table that a total outage made suspect heals by itself when the outage ends.
- A contact is *verified* once it has answered a request that we sent to its advertised address. Those that we only heard
  from fill free places, and never push out a verified one.
- An address belongs to one identity: a verified contact at an address replaces whoever we knew there.
- Iteration follows insertion, never the order of a set or a hash: the same events give the same table.

Rejected: one flat list ordered by distance (simple up to some hundred contacts; each look-up is then linear in the table).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from node.ids import BITS, as_int
from node.wire import Contact

EVICTION_FAILURES = 5  # libp2p and BEP 5 are less patient; the paper evicts after one (and is wrong on lossy links)
BACKOFF_FIRST = 0.5  # s after the first failure; doubles with each further one
BACKOFF_MOST = 3.0  # s; so a healed network is whole again within a few seconds
TIMEOUT_UNKNOWN = 0.5  # s while a contact's round-trip time is not known
TIMEOUT_LEAST, TIMEOUT_MOST = 0.3, 2.0  # s
GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4  # Jacobson 1988, as in RFC 6298 section 2
RTT_FACTOR = 3.0  # timeouts are about three round trips (Rhea 2004 keeps to mean + 4 deviations; the larger wins)


@dataclass(slots=True)
class Entry:
    """What we know of one contact. Times are monotonic seconds."""

    contact: Contact
    number: int  # the identifier as an integer
    seen: float
    verified: bool = False
    failures: int = 0
    failing_since: float = 0.0  # of the first failure in the present row
    retry_at: float = 0.0
    rtt: float = 0.0  # smoothed round-trip time in seconds, 0 while unknown
    deviation: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it answered when it was last asked."""
        return self.verified and not self.failures

    @property
    def timeout(self) -> float:
        """How long to wait for its answer, in seconds."""
        if not self.rtt:
            return TIMEOUT_UNKNOWN
        wait = max(RTT_FACTOR * self.rtt, self.rtt + 4 * self.deviation)
        return min(TIMEOUT_MOST, max(TIMEOUT_LEAST, wait))

    def measure(self, rtt: float) -> None:
        """Take one more round trip into account (RFC 6298)."""
        if not self.rtt:
            self.rtt, self.deviation = rtt, rtt / 2
            return
        self.deviation += DEVIATION_GAIN * (abs(rtt - self.rtt) - self.deviation)
        self.rtt += GAIN * (rtt - self.rtt)


@dataclass(slots=True)
class Bucket:
    """Contacts whose identifiers lie in [low, high); least recently seen first. ``spares`` is the replacement cache."""

    low: int
    high: int
    entries: dict[bytes, Entry] = field(default_factory=dict)
    spares: dict[bytes, Entry] = field(default_factory=dict)
    refreshed: float = 0.0

    def covers(self, number: int) -> bool:
        return self.low <= number < self.high


@dataclass(frozen=True, slots=True)
class Heard:
    """What `heard` changed. ``restored_since``: the contact answers again after it failed since that time."""

    new: bool = False
    restored_since: float | None = None


class RoutingTable:
    """All contacts of one node. ``own`` is its identifier, ``k`` the size of a bucket."""

    def __init__(self, own: bytes, k: int) -> None:
        self.own = own
        self.k = k
        self._number = as_int(own)
        self._buckets = [Bucket(0, 1 << BITS)]
        self._lows = [0]
        self._by_id: dict[bytes, Entry] = {}  # those in buckets, not the spares
        self._at_address: dict[tuple[str, int], bytes] = {}

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

    def heard(self, contact: Contact, now: float, *, verified: bool, rtt: float | None = None) -> Heard:
        """Note that a contact sent us something: an answer (``verified``, after ``rtt`` seconds) or a request of its own."""
        if contact.id == self.own:
            return Heard()
        entry = self._by_id.get(contact.id)
        if entry is None:
            return Heard(new=self._admit(contact, now, verified=verified, rtt=rtt))
        if entry.contact != contact:
            if not verified:
                return Heard()  # an identity moves only when the new address has answered
            self._move(entry, contact)
        return self._refresh(entry, now, verified=verified, rtt=rtt)

    def failed(self, identifier: bytes, now: float) -> None:
        """Note that a contact did not answer."""
        entry = self._by_id.get(identifier)
        if entry is None:
            self._bucket_of(as_int(identifier)).spares.pop(identifier, None)
            return
        entry.failing_since = entry.failing_since if entry.failures else now
        entry.failures += 1
        entry.retry_at = now + min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (entry.failures - 1))
        if entry.failures >= EVICTION_FAILURES:
            self._replace(entry)

    # --- asking ----------------------------------------------------------------------------------

    def closest(self, target: bytes, count: int, *, alive: bool = True, but: bytes = b"") -> list[Contact]:
        """The ``count`` contacts nearest to ``target``, nearest first; only those alive unless told otherwise."""
        number = as_int(target)
        fit = (e for e in self._by_id.values() if (e.alive or not alive) and e.contact.id != but)
        return [e.contact for e in heapq.nsmallest(count, fit, key=lambda e: e.number ^ number)]

    def seeds(self, target: bytes, count: int) -> list[Contact]:
        """Where a lookup starts: the alive; if they are fewer than ``count``, those not tried yet, then suspects."""
        number = as_int(target)

        def rank(entry: Entry) -> tuple[int, int]:
            return (0 if entry.alive else 2 if entry.failures else 1), entry.number ^ number

        return [e.contact for e in heapq.nsmallest(count, self._by_id.values(), key=rank)]

    def due(self, now: float, limit: int) -> list[Contact]:
        """Suspect and unverified contacts that are to be pinged now, the longest overdue first."""
        waiting = (e for e in self._by_id.values() if not e.alive and e.retry_at <= now)
        return [e.contact for e in heapq.nsmallest(limit, waiting, key=lambda e: e.retry_at)]

    def stale_buckets(self, now: float, age: float) -> list[Bucket]:
        """Buckets in which nothing was looked up for ``age`` seconds."""
        return [bucket for bucket in self._buckets if now - bucket.refreshed >= age]

    def touch(self, target: bytes, now: float) -> None:
        """Note that something was looked up in the range of ``target``."""
        self._bucket_of(as_int(target)).refreshed = now

    # --- inside ----------------------------------------------------------------------------------

    def _bucket_of(self, number: int) -> Bucket:
        return self._buckets[bisect.bisect_right(self._lows, number) - 1]

    def _admit(self, contact: Contact, now: float, *, verified: bool, rtt: float | None) -> bool:
        entry = Entry(contact, as_int(contact.id), now, verified)
        if rtt is not None:
            entry.measure(rtt)
        if verified:
            self._expel_address(contact)
        bucket = self._bucket_of(entry.number)
        while len(bucket.entries) >= self.k and self._may_split(bucket, entry.number):
            self._split(bucket)
            bucket = self._bucket_of(entry.number)
        if len(bucket.entries) >= self.k and not self._make_room(bucket, entry):
            self._keep_spare(bucket, entry)
            return False
        bucket.spares.pop(contact.id, None)
        self._insert(bucket, entry)
        return True

    def _insert(self, bucket: Bucket, entry: Entry) -> None:
        bucket.entries[entry.contact.id] = entry
        self._by_id[entry.contact.id] = entry
        if entry.verified:
            self._at_address[entry.contact.host, entry.contact.port] = entry.contact.id

    def _remove(self, entry: Entry) -> None:
        identifier = entry.contact.id
        self._bucket_of(entry.number).entries.pop(identifier, None)
        self._by_id.pop(identifier, None)
        address = (entry.contact.host, entry.contact.port)
        if self._at_address.get(address) == identifier:
            del self._at_address[address]

    def _refresh(self, entry: Entry, now: float, *, verified: bool, rtt: float | None) -> Heard:
        entry.seen = now
        if not verified:
            if entry.failures:
                entry.retry_at = min(entry.retry_at, now)  # it lives, it seems: ping it without further delay
            return Heard()
        first, since = not entry.verified, entry.failing_since if entry.failures else None
        entry.verified, entry.failures = True, 0
        if rtt is not None:
            entry.measure(rtt)
        self._expel_address(entry.contact)
        self._at_address[entry.contact.host, entry.contact.port] = entry.contact.id
        entries = self._bucket_of(entry.number).entries
        entries[entry.contact.id] = entries.pop(entry.contact.id)  # to the end: most recently seen
        return Heard(new=first, restored_since=since)

    def _move(self, entry: Entry, contact: Contact) -> None:
        address = (entry.contact.host, entry.contact.port)
        if self._at_address.get(address) == contact.id:
            del self._at_address[address]
        entry.contact = contact

    def _expel_address(self, contact: Contact) -> None:
        """Remove whoever else was known at this address: it has a new identity now."""
        other = self._at_address.get((contact.host, contact.port))
        if other is not None and other != contact.id:
            self._remove(self._by_id[other])

    def _may_split(self, bucket: Bucket, number: int) -> bool:
        if bucket.high - bucket.low <= 1:
            return False
        if bucket.covers(self._number):
            return True
        closer = sum(1 for e in self._by_id.values() if e.number ^ self._number < number ^ self._number)
        return closer < self.k

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

    def _make_room(self, bucket: Bucket, entry: Entry) -> bool:
        """Push out a contact that is worse than ``entry``: one given up, or, for a verified one, one never verified."""
        if not entry.verified:
            return False
        for other in bucket.entries.values():
            if other.failures >= EVICTION_FAILURES or not (other.verified or other.failures):
                self._remove(other)
                return True
        return False

    def _keep_spare(self, bucket: Bucket, entry: Entry) -> None:
        known = bucket.spares.pop(entry.contact.id, None)
        if known is not None and known.verified and not entry.verified:
            entry = known  # a request does not unmake what an answer has shown
        bucket.spares[entry.contact.id] = entry
        if len(bucket.spares) > self.k:
            del bucket.spares[next(iter(bucket.spares))]

    def _replace(self, entry: Entry) -> None:
        """Put the newest verified spare into the place of a contact that was given up; without one it stays."""
        bucket = self._bucket_of(entry.number)
        spare = next((e for e in reversed(bucket.spares.values()) if e.verified), None)
        if spare is None:
            return
        del bucket.spares[spare.contact.id]
        self._remove(entry)
        self._insert(bucket, spare)
