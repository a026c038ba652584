"""Records with absolute expiry, in memory; `durable.py` adds a file.

Time is an argument: wall-clock seconds, as in `Record.expires_at`, unless it is said to be monotonic.

The newest (version, publisher) wins, and of the same the one that lives longer: it was put later. Republishing never
prolongs a record's life: expiry is part of the record. Two
quotas bound the store, by count and by bytes of values; a record that does not fit is refused, and nothing that was
acknowledged is dropped for it. No publisher gets more than PUBLISHER_SHARE of either.

What is acknowledged is kept: a record that is older than what is there is refused as outdone. Of one version, the value is
what counts: a client that tries again through another gateway, which is another publisher, has its value acknowledged.

A *cached* copy, left on a lookup's path, lives shorter than its record and is neither republished nor handed over, nor
saved. It lies beside the records: it is looked at for answers as long as it is newer than the record here, nothing is
acknowledged because of it, and copies go first when room is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import msgspec

from node.wire import Held, Record

MOST_RECORDS = 100_000
MOST_BYTES = 256 * 2**20  # of values
OUTDONE = "a newer one is kept"
LIFE_SHARE = 0.5  # of what a record has left to live: so long must the same value here live to pass for it
PUBLISHER_SHARE = 0.5  # of either; few clients have few gateways, and the gateway is the publisher


class Kept(msgspec.Struct):
    """A record and when it is to be republished, if nobody else does it before (monotonic seconds)."""

    record: Record
    stored_at: float  # monotonic seconds
    republish_at: float
    cached: bool = False
    gave_way: bool = False  # whether its turn has come once, and was left to holders closer to the key


class _Share(msgspec.Struct):
    """How much somebody has."""

    records: int = 0
    bytes: int = 0

    def add(self, record: Record, count: int) -> None:
        """Count a record in, or out with -1."""
        self.records += count
        self.bytes += count * len(record.value)

    def has_room(self, size: int, records: int, most: _Share, share: float = 1.0) -> bool:
        """Whether so many more bytes and records fit into that share of ``most``. What does not grow always fits."""
        fits = self.bytes + size <= most.bytes * share or size <= 0
        return fits and (self.records + records <= most.records * share or records <= 0)

    def __add__(self, other: _Share) -> _Share:
        return _Share(self.records + other.records, self.bytes + other.bytes)


class _Ledger:
    """What is kept by its key, how much that is, and how much of each publisher."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Kept] = {}
        self.total = _Share()
        self._of: dict[bytes, _Share] = {}

    def of(self, publisher: bytes) -> _Share:
        """How much of a publisher is kept."""
        return self._of.get(publisher) or _Share()

    def keep(self, kept: Kept) -> None:
        """Take it in, for whatever is there of its key."""
        self.drop(kept.record.key)
        self.kept[kept.record.key] = kept
        self.total.add(kept.record, 1)
        self._of.setdefault(kept.record.publisher, _Share()).add(kept.record, 1)

    def drop(self, key: bytes) -> None:
        """Let go of what is there of a key, if anything."""
        old = self.kept.pop(key, None)
        if old is not None:
            self._count_out(old)

    def drop_last(self) -> None:
        """Let go of what came last."""
        self._count_out(self.kept.popitem()[1])

    def _count_out(self, old: Kept) -> None:
        share = self._of[old.record.publisher]
        self.total.add(old.record, -1)
        share.add(old.record, -1)
        if not share.records:
            del self._of[old.record.publisher]

    def alive(self, key: bytes, wall: float) -> Kept | None:
        """What is there of a key, unless it has expired."""
        kept = self.kept.get(key)
        return kept if kept is not None and kept.record.expires_at > wall else None

    def dead(self, wall: float) -> list[bytes]:
        """The keys of what has expired."""
        return [key for key, kept in self.kept.items() if kept.record.expires_at <= wall]


class Storage(Protocol):
    """Where a node keeps its records."""

    @property
    def size(self) -> int:
        """Bytes of the values that are kept."""
        ...

    def put(self, record: Record, *, wall: float, now: float, republish_at: float, cached: bool = False) -> str:
        """Keep ``record``; an empty string if its value is kept, else why not: `OUTDONE` if a newer one is."""
        ...

    def get(self, key: bytes, *, wall: float) -> Record | None:
        """The record under ``key`` if it has not expired."""
        ...

    def kept(self) -> Iterator[Kept]:
        """All that is kept, the expired too; may be changed while one iterates."""
        ...

    def expire(self, *, wall: float) -> int:
        """Drop what has expired; how many."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...

    def __len__(self) -> int: ...


class MemoryStorage:
    """See `Storage`. Gone with the process."""

    def __init__(self, *, most_records: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> None:
        self._records, self._copies = _Ledger(), _Ledger()
        self._most = _Share(most_records, most_bytes)

    def __len__(self) -> int:
        return len(self._records.kept) + len(self._copies.kept)

    @property
    def size(self) -> int:
        """See `Storage.size`."""
        return (self._records.total + self._copies.total).bytes

    def put(self, record: Record, *, wall: float, now: float, republish_at: float, cached: bool = False) -> str:
        """See `Storage.put`."""
        if not wall < record.expires_at < math.inf:
            return "it has expired, or never would"
        new = Kept(record, now, republish_at, cached)
        return self._put_copy(new, wall) if cached else self._put_record(new, wall)

    def _put_record(self, new: Kept, wall: float) -> str:
        record, key = new.record, new.record.key
        old = self._records.alive(key, wall)
        if old is not None and recency(record) <= recency(old.record):
            if recency(record) == recency(old.record):
                # Somebody has just republished it: no need to do it as well.
                old.republish_at, old.gave_way = new.republish_at, False
            return "" if _stands_for(old.record, record, wall) else OUTDONE
        if why := self._refused(record, self._records.kept.get(key), self._records) or self._write(record):
            return why
        self._records.keep(new)
        copy = self._copies.kept.get(key)
        if copy is not None and recency(copy.record)[:2] <= recency(record)[:2]:
            self._copies.drop(key)
        self._crowd_out()
        return ""

    def _put_copy(self, new: Kept, wall: float) -> str:
        record, key = new.record, new.record.key
        lasting, old = self._records.alive(key, wall), self._copies.alive(key, wall)
        if lasting is not None:
            return "" if recency(lasting.record)[:2] == recency(record)[:2] else "a record of this key is kept"
        if old is not None and recency(record) <= recency(old.record):
            return "" if _stands_for(old.record, record, wall) else OUTDONE
        if why := self._refused(record, self._copies.kept.get(key), self._records, self._copies):
            return why
        self._copies.keep(new)
        return ""

    def _refused(self, record: Record, old: Kept | None, *ledgers: _Ledger) -> str:
        """Why there is no room for a record in the place of ``old``, beside what is in ``ledgers``; empty if there is."""
        size = len(record.value)
        gone = len(old.record.value) if old else 0
        total = sum((ledger.total for ledger in ledgers), _Share())
        if not total.has_room(size - gone, 0 if old else 1, self._most):
            return "this node's store is full"
        same = old is not None and old.record.publisher == record.publisher
        share = sum((ledger.of(record.publisher) for ledger in ledgers), _Share())
        if not share.has_room(size - (gone if same else 0), 0 if same else 1, self._most, PUBLISHER_SHARE):
            return "this publisher's share of this node's store is full"
        return ""

    def _crowd_out(self) -> None:
        """Drop copies until what is left fits."""
        while self._copies.kept:
            total = self._records.total + self._copies.total
            if total.records <= self._most.records and total.bytes <= self._most.bytes:
                return
            self._copies.drop_last()

    def get(self, key: bytes, *, wall: float) -> Record | None:
        """See `Storage.get`."""
        kept, copy = self._records.alive(key, wall), self._copies.alive(key, wall)
        if copy is not None and (kept is None or recency(copy.record) > recency(kept.record)):
            return copy.record
        return kept.record if kept is not None else None

    def kept(self) -> Iterator[Kept]:
        """See `Storage.kept`."""
        yield from [*self._records.kept.values(), *self._copies.kept.values()]

    def expire(self, *, wall: float) -> int:
        """See `Storage.expire`."""
        dead, ended = self._records.dead(wall), self._copies.dead(wall)
        for key in dead:
            self._records.drop(key)
        for key in ended:
            self._copies.drop(key)
        self._erase(dead)
        return len(dead) + len(ended)

    def close(self) -> None:
        """See `Storage.close`."""

    def _write(self, record: Record) -> str:
        """Save a record where it outlives the process; an empty string, or why it cannot be."""
        return ""

    def _erase(self, keys: list[bytes]) -> None:
        """Forget saved records."""


def _stands_for(kept: Record, record: Record, wall: float) -> bool:
    """Whether who wants ``record`` stored is served by what is kept: the same value, and for not much shorter."""
    lives = kept.expires_at - wall >= LIFE_SHARE * (record.expires_at - wall)
    return lives and kept.version == record.version and kept.value == record.value


def recency(record: Record) -> tuple[int, bytes, float]:
    """Of two records of a key, the one of which this is greater wins."""
    return record.version, record.publisher, record.expires_at


def held(storage: Storage) -> tuple[Held, ...]:
    """What is kept, without the values."""
    return tuple(Held(k.record.key, k.record.version, k.record.expires_at) for k in storage.kept())
