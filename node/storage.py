"""Records with absolute expiry, in memory; `durable.py` adds a file.

Time is an argument: wall-clock seconds, as in `Record.expires_at`, unless it is said to be monotonic.

The newest (version, publisher) wins, and of the same the one that lives longer: it was put later. Republishing never
prolongs a record's life: expiry is part of the record. Two
quotas bound the store, by count and by bytes of values; a record that does not fit is refused, and nothing that was
acknowledged is dropped for it. No publisher gets more than PUBLISHER_SHARE of either.

A *cached* copy, left on a lookup's path, lives shorter than its record and is neither republished nor handed over, nor
saved. The record itself takes its place when it comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from node.wire import Held, Record

MOST_RECORDS = 100_000
MOST_BYTES = 256 * 2**20  # of values
PUBLISHER_SHARE = 0.5  # of either; few clients have few gateways, and the gateway is the publisher


@dataclass(slots=True)
class Kept:
    """A record and when it is to be republished, if nobody else does it before (monotonic seconds)."""

    record: Record
    stored_at: float  # monotonic seconds
    republish_at: float
    cached: bool = False
    gave_way: bool = False  # whether its turn has come once, and was left to holders closer to the key


@dataclass(slots=True)
class _Share:
    """How much somebody has."""

    records: int = 0
    bytes: int = 0

    def has_room(self, size: int, records: int, most: _Share, share: float) -> bool:
        """Whether so many more bytes and records fit into that share of ``most``. What does not grow always fits."""
        fits = self.bytes + size <= most.bytes * share or size <= 0
        return fits and (self.records + records <= most.records * share or records <= 0)


class Storage(Protocol):
    """Where a node keeps its records."""

    @property
    def size(self) -> int:
        """Bytes of the values that are kept."""
        ...

    def put(self, record: Record, *, wall: float, now: float, republish_at: float, cached: bool = False) -> str:
        """Keep ``record``; an empty string if it (or a newer one) is kept, else why not."""
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
        self._kept: dict[bytes, Kept] = {}
        self._total = _Share()
        self._by_publisher: dict[bytes, _Share] = {}
        self._most = _Share(most_records, most_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """See `Storage.size`."""
        return self._total.bytes

    def put(self, record: Record, *, wall: float, now: float, republish_at: float, cached: bool = False) -> str:
        """See `Storage.put`."""
        if not wall < record.expires_at < math.inf:
            return "it has expired, or never would"
        old = self._kept.get(record.key)
        if old is not None and old.record.expires_at > wall and not _replaces(record, old, cached=cached):
            # Somebody has just republished it: no need to do it as well.
            old.republish_at, old.gave_way = republish_at, False
            return ""
        if why := self._refused(record, old):
            return why
        if not cached and (why := self._write(record)):
            return why
        self._keep(record, now=now, republish_at=republish_at, cached=cached)
        return ""

    def _refused(self, record: Record, old: Kept | None) -> str:
        """Why there is no room for a record in the place of ``old``; empty if there is."""
        size = len(record.value)
        gone = len(old.record.value) if old else 0
        if not self._total.has_room(size - gone, 0 if old else 1, self._most, 1.0):
            return "this node's store is full"
        same = old is not None and old.record.publisher == record.publisher
        share = self._by_publisher.get(record.publisher, _Share())
        if not share.has_room(size - (gone if same else 0), 0 if same else 1, self._most, PUBLISHER_SHARE):
            return "this publisher's share of this node's store is full"
        return ""

    def get(self, key: bytes, *, wall: float) -> Record | None:
        """See `Storage.get`."""
        kept = self._kept.get(key)
        return kept.record if kept is not None and kept.record.expires_at > wall else None

    def kept(self) -> Iterator[Kept]:
        """See `Storage.kept`."""
        yield from list(self._kept.values())

    def expire(self, *, wall: float) -> int:
        """See `Storage.expire`."""
        dead = [key for key, kept in self._kept.items() if kept.record.expires_at <= wall]
        for key in dead:
            self._drop(key)
        self._erase(dead)
        return len(dead)

    def close(self) -> None:
        """See `Storage.close`."""

    def _keep(self, record: Record, *, now: float, republish_at: float, cached: bool = False) -> None:
        self._drop(record.key)
        self._kept[record.key] = Kept(record, now, republish_at, cached)
        for share in (self._total, self._by_publisher.setdefault(record.publisher, _Share())):
            share.records += 1
            share.bytes += len(record.value)

    def _drop(self, key: bytes) -> None:
        old = self._kept.pop(key, None)
        if old is None:
            return
        publisher = old.record.publisher
        for share in (self._total, self._by_publisher[publisher]):
            share.records -= 1
            share.bytes -= len(old.record.value)
        if not self._by_publisher[publisher].records:
            del self._by_publisher[publisher]

    def _write(self, record: Record) -> str:
        """Save a record where it outlives the process; an empty string, or why it cannot be."""
        return ""

    def _erase(self, keys: list[bytes]) -> None:
        """Forget saved records."""


def _replaces(new: Record, old: Kept, *, cached: bool) -> bool:
    """Whether a record takes the place of what is kept.

    A copy never takes that of a record, whatever its version: it would leave nothing behind when it ends.
    """
    if cached and not old.cached:
        return False
    one, other = recency(new), recency(old.record)
    return one > other or (one[:2] == other[:2] and old.cached and not cached)


def recency(record: Record) -> tuple[int, bytes, float]:
    """Of two records of a key, the one of which this is greater wins."""
    return record.version, record.publisher, record.expires_at


def held(storage: Storage) -> tuple[Held, ...]:
    """What is kept, without the values."""
    return tuple(Held(k.record.key, k.record.version, k.record.expires_at) for k in storage.kept())
