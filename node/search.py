"""Searches and stores under way: what brings the sans-IO lookup to life over a peer's RPCs.

Everything is a callback on one thread, as in `peer.py`, which starts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from node.errors import RpcError, RpcTimeout
from node.ids import distance
from node.lookup import DisjointLookup, Finder, Lookup
from node.routing import SLOW_LEAST
from node.settings import Settings
from node.storage import OUTDONE
from node.wire import (
    Answer,
    Contact,
    FindNode,
    FindValue,
    Found,
    PutResult,
    Record,
    Request,
    Store,
    Stored,
)

if TYPE_CHECKING:
    from node.peer import Peer

NEAREST, FARTHEST = 1, 2  # of the k closest, whom a thrifty search asks though they are known to be alive
LOOK_FOR_SLOW = 0.05  # s at least between two looks at who is slow in a lookup
# s; whatever takes longer goes on with what it has. Together well below the 5 s that clients usually wait.
LOOKUP_LIMIT = 2.5
STORE_LIMIT = 1.5
CUT_SHORT = "the search was cut short"  # and so what was not found may be there

Reply = Callable[[Answer], None]


class Thrift(Enum):
    """Of the contacts that the table knows to be alive, which ones a search passes over, as if they had answered."""

    NONE = 0
    FINAL_BURST = 1  # those of the final burst, but for the farthest
    THROUGHOUT = 2  # all but the nearest and the farthest: for our own neighbourhood, which the table knows best


class Search:
    """One lookup under way: sends what `Lookup` asks for. It ends when that is done, has the value, or takes too long.

    One for a value waits for whoever was overtaken and is near before it ends without: it may be a holder. ``complete``
    says whether the k closest were really asked. With a ``record`` to store, the final burst brings it along: who is a
    holder, as far as is known, gets a STORE that answers as a FIND_NODE does. ``acked`` are those that keep it,
    ``outdone`` those that keep a newer one, ``stored`` those that were asked to. One with ``thrift`` is there to find who is
    new.
    """

    def __init__(
        self,
        peer: Peer,
        target: bytes,
        ended: Callable[[Search], None],
        *,
        value: bool = False,
        record: Record | None = None,
        thrift: Thrift = Thrift.NONE,
    ) -> None:
        settings = peer.settings
        self.peer, self.target, self._thrift = peer, target, thrift
        self.lookup: Finder = finder(target, peer.contact.id, peer.table.seeds(target, settings.k), settings)
        self.rpcs = self.timeouts = self.hops = 0
        self.complete = False
        self.record: Record | None = None
        self.source: Contact | None = None  # whose answer held the record
        self.stored: set[Contact] = set()
        self.acked: set[bytes] = set()
        self.outdone: set[bytes] = set()
        self._store = Store(record, search=True) if record is not None else None
        self._for_value = value
        self._message: Request = FindValue(target) if value else FindNode(target)
        self._ended: Callable[[Search], None] | None = ended
        self._slow_from: dict[Contact, float] = {}  # of those asked: when each counts as slow
        self._began = peer.clock.monotonic()
        self._look_at = self._began + SLOW_LEAST  # nobody is slow before
        self._stalled = False
        self._timer = peer.clock.call_later(SLOW_LEAST, self._overtake)
        peer.table.touch(target, self._began)

    def advance(self) -> None:
        """Ask whom there is to ask; end if there is nothing left to learn."""
        if self._ended is None:
            return
        if self.lookup.done and len(self.lookup.closest()) < self.peer.settings.k:
            # Those that we began with may all have gone, though others that we know have not.
            self.lookup.reseed(self.peer.table.seeds(self.target, self.peer.settings.k))
        asked = self._queries()
        if asked:
            self._ask(asked)
        if self.lookup.done and not (self._for_value and self.lookup.overtaken()):
            self.complete = bool(self.lookup.closest()) or not self.peer.expects_others
            self._end()

    def doubt(self) -> str:
        """Why what was not found may be there all the same; empty if the k closest that live were heard.

        Of those that were silent, here or lately before, the nearest may be holders. Who refused is dead, and none.
        """
        if not self.complete:
            return f"{CUT_SHORT}: {'it took too long' if self.lookup.closest() else 'nobody answered'}"
        absences, now = self.peer.absences, self.peer.clock.monotonic()
        absent = {*self.lookup.unheard()} | absences.silent(now)
        silent = {contact.id for contact in absent - absences.refusing()}
        if not silent:
            return ""
        heard = {contact.id for contact in self.lookup.closest()}
        nearest = sorted(heard | silent, key=lambda one: distance(one, self.target))[: self.peer.settings.k]
        return (
            ""
            if 2 * len(heard.intersection(nearest)) >= len(nearest)
            else f"{CUT_SHORT}: most of the closest were silent"
        )

    def _queries(self) -> list[Contact]:
        asked = self.lookup.queries()
        while asked and (
            self._thrift is Thrift.THROUGHOUT or (self._thrift is Thrift.FINAL_BURST and self.lookup.converged)
        ):
            left = self._not_spared(asked)
            if left:
                return left
            asked = self.lookup.queries()
        return asked

    def _not_spared(self, asked: list[Contact]) -> list[Contact]:
        """Whom of these to ask: those that are not known to be alive, and the outermost. The others pass for having answered.

        The farthest, since a newcomer that has us not among its own closest is as far from us as they are: close to them,
        so that they know it.
        """
        table, near = self.peer.table, self.lookup.nearest()
        wanted = near[-FARTHEST:] if self._thrift is Thrift.FINAL_BURST else near[:NEAREST] + near[-FARTHEST:]
        spared = {c.id for c in asked if c not in wanted and (entry := table.entry(c.id)) is not None and entry.alive}
        for contact in asked:
            if contact.id in spared:
                self.lookup.answered(contact)
        return [contact for contact in asked if contact.id not in spared]

    def _ask(self, asked: list[Contact]) -> None:
        holders: set[bytes] = set()
        if self._store is not None and self.lookup.converged:
            others, _ = self.peer.holders(self.target, self.lookup.nearest())
            holders = {contact.id for contact in others}
        now = self.peer.clock.monotonic()
        for contact in asked:
            self.rpcs += 1
            self._slow_from[contact] = now + self.peer.soft_timeout_of(contact)
            message = self._message
            if contact.id in holders and self._store is not None:
                message = self._store
                self.stored.add(contact)
            self.peer.call(contact, message, self._on_result)

    def _overtake(self) -> None:
        """Look who is slow by now, and for whether it all takes too long."""
        now = self.peer.clock.monotonic()
        if now - self._began >= LOOKUP_LIMIT:
            self.complete = self.lookup.done and bool(self.lookup.closest())  # if only the overtaken were waited for
            self._end()
            return
        # We were busy: their answers may be waiting for us. Not twice in a row: who is always busy would never look.
        self._stalled = not self._stalled and now - self._look_at >= LOOK_FOR_SLOW
        slow = [] if self._stalled else [contact for contact, due in self._slow_from.items() if due <= now]
        first = min((due for due in self._slow_from.values() if due > now), default=math.inf)
        # who is asked from now on is not slow before that, either
        wait = LOOK_FOR_SLOW if self._stalled else min(SLOW_LEAST, max(LOOK_FOR_SLOW, first - now))
        self._look_at = now + wait
        self._timer = self.peer.clock.call_later(wait, self._overtake)
        for contact in slow:
            del self._slow_from[contact]
            self.lookup.slow(contact)
        if slow:
            self.peer.overtaken += len(slow)
            self.advance()

    def _on_result(self, contact: Contact, result: Answer | RpcError) -> None:
        if self._ended is None:
            return
        self._slow_from.pop(contact, None)
        if isinstance(result, Found | Stored) and self._fits(contact, result):
            self.lookup.answered(contact, result.contacts[: self.peer.settings.k], self.peer.table.suspects())
            if isinstance(result, Stored):
                note(result, contact, self.acked, self.outdone)
            elif (found := record_of(result, self.target, self.peer.clock.wall())) is not None:
                self.record, self.source, self.hops = found, contact, self.lookup.hops_to(contact)
                self._end()
                return
        else:
            self.timeouts += isinstance(result, RpcTimeout)
            self.lookup.failed(contact)
        self.advance()

    def _fits(self, contact: Contact, answer: Found | Stored) -> bool:
        """Whether this answers what that contact was asked; whoever says anything else has not answered."""
        if isinstance(answer, Stored):
            return contact in self.stored
        return answer.record is None or (self._for_value and answer.record.key == self.target)

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._timer.cancel()
        if self.record is None and (closest := self.lookup.closest()):
            self.hops = self.lookup.hops_to(closest[0])
        ended(self)


def record_of(answer: Answer | RpcError, key: bytes, wall: float) -> Record | None:
    """The record in an answer to a FIND_VALUE of ``key``, if it is one of that key and lives at that Unix time."""
    record = answer.record if isinstance(answer, Found) else None
    return record if record is not None and record.key == key and wall < record.expires_at < math.inf else None


def note(answer: Stored, contact: Contact, acked: set[bytes], outdone: set[bytes]) -> None:
    """Take down whether who answered a STORE keeps the record, or a newer one."""
    if answer.kept:
        acked.add(contact.id)
    elif answer.why == OUTDONE:
        outdone.add(contact.id)


def finder(target: bytes, own: bytes, seeds: list[Contact], settings: Settings) -> Finder:
    """A lookup, over disjoint paths if so many are wanted."""
    k, alpha, beta, paths = settings.k, settings.alpha, settings.beta, settings.paths
    if paths > 1:
        return DisjointLookup(target, own, seeds, k=k, alpha=alpha, beta=beta, paths=paths)
    return Lookup(target, own, seeds, k=k, alpha=alpha, beta=beta)


class Spread:
    """One record on its way to its holders. It ends when all have answered or failed, or after STORE_LIMIT.

    Those that the search has asked already are not asked again. Who answers late counts, as long as others are still
    waited for.
    """

    def __init__(self, peer: Peer, record: Record, search: Search, reply: Reply) -> None:
        self._peer, self._search = peer, search
        self._reply: Reply | None = reply
        holders, holds = peer.holders(record.key, search.lookup.closest())
        why = peer.keep(record) if holds else "it is not for this node to keep"
        self._kept_here, self._outdone_here = not why, why == OUTDONE
        self._left = [contact for contact in holders if contact not in search.stored]
        self._waiting = {contact.id for contact in self._left}
        self._acked = {contact.id for contact in holders if contact.id in search.acked}
        self._outdone = {contact.id for contact in holders if contact.id in search.outdone}
        self._timeouts = search.timeouts
        self._message = Store(record)
        self._timer = peer.clock.call_later(STORE_LIMIT, self._end)

    def start(self) -> None:
        """Send it."""
        for contact in self._left:
            self._peer.call(contact, self._message, self._on_result)
        if not self._waiting:
            self._end()

    def _on_result(self, contact: Contact, result: Answer | RpcError) -> None:
        if isinstance(result, Stored):
            note(result, contact, self._acked, self._outdone)
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
        acks, newer = len(self._acked) + self._kept_here, len(self._outdone) + self._outdone_here
        rpcs = self._search.rpcs + len(self._left)
        error = OUTDONE if newer else self._search.doubt() or ("" if acks else "no node keeps it")
        reply(PutResult(acks, self._kept_here, self._search.hops, rpcs, self._timeouts, error, newer))
