"""Records with absolute expiry, in memory; `durable.py` adds a file.

Time is an argument: wall-clock seconds, as in `Record.expires_at`, unless it is said to be monotonic.

The newest (version, publisher) wins. Republishing never prolongs a record's life: expiry is part of the record. Two
quotas bound the store, by count and by bytes of values; a record that does not fit is refused, and nothing that was
acknowledged is dropped for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from node.wire import Held, Record

MOST_RECORDS = 100_000
MOST_BYTES = 256 * 2**20  # of values


@dataclass(slots=True)
class Kept:
    """A record and when it is to be republished, if nobody else does it before (monotonic seconds)."""

    record: Record
    stored_at: float  # monotonic seconds
    republish_at: float


class Storage(Protocol):
    """Where a node keeps its records."""

    def put(self, record: Record, *, wall: float, now: float, republish_at: float) -> str:
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
        self._bytes = 0
        self._most_records, self._most_bytes = most_records, most_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, record: Record, *, wall: float, now: float, republish_at: float) -> str:
        """See `Storage.put`."""
        if record.expires_at <= wall:
            return "it has expired"
        old = self._kept.get(record.key)
        if old is not None and _rank(old.record) >= _rank(record):
            old.republish_at = republish_at  # somebody has just republished it: no need to do it as well
            return ""
        grown = self._bytes + len(record.value) - (len(old.record.value) if old else 0)
        if grown > self._most_bytes or (old is None and len(self._kept) >= self._most_records):
            return "this node's store is full"
        if why := self._write(record):
            return why
        self._keep(record, now=now, republish_at=republish_at)
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
        self._erase(dead)
        for key in dead:
            self._bytes -= len(self._kept.pop(key).record.value)
        return len(dead)

    def close(self) -> None:
        """See `Storage.close`."""

    def _keep(self, record: Record, *, now: float, republish_at: float) -> None:
        old = self._kept.get(record.key)
        self._bytes += len(record.value) - (len(old.record.value) if old else 0)
        self._kept[record.key] = Kept(record, now, republish_at)

    def _write(self, record: Record) -> str:
        """Save a record where it outlives the process; an empty string, or why it cannot be."""
        return ""

    def _erase(self, keys: list[bytes]) -> None:
        """Forget saved records."""


def _rank(record: Record) -> tuple[int, bytes]:
    return record.version, record.publisher


def held(storage: Storage) -> tuple[Held, ...]:
    """What is kept, without the values."""
    return tuple(Held(k.record.key, k.record.version, k.record.expires_at) for k in storage.kept())
