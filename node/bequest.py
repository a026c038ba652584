"""Who inherits the records of a node that leaves.

Each record goes to the contact that becomes a holder by it: the k-th closest of the others. All that are closer count as
holders already, so they are asked whether they are still there: of those that left just before, nobody has heard yet, and
for each that is gone, or leaves too, the next closest inherits. Else those that leave one right after another leave ever fewer
copies: after three of eight, .15 s apart, 1.3 of k = 3 (simulated, 200 networks).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from node.errors import RpcError
from node.ids import as_int
from node.peer import Peer
from node.wire import Answer, Contact, Ping, Record

SLICE = 500  # records that are looked at in one turn of the event loop: some 20 ms
WINDOW = 32  # pings in flight


class Will(msgspec.Struct):
    """A record, and how far from its key those live that hold or inherit it: beyond ``reach`` nobody does."""

    record: Record
    key: int
    reach: int = -1  # nobody yet
    heeded: int = 0  # how many of those that were lost


class Bequest:
    """What one node leaves. ``inherits`` is told who gets what; ``heard``, that something was found out."""

    def __init__(
        self,
        peer: Peer,
        records: Iterable[Record],
        inherits: Callable[[Contact, Record], None],
        heard: Callable[[], None],
    ) -> None:
        self._peer = peer
        self._inherits = inherits
        self._heard = heard
        self._wills = [Will(record, as_int(record.key)) for record in records]
        self._at = 0  # the next will to look at
        self._heeded = 0  # how many were lost when this round began
        self._asked: set[bytes] = set()  # contacts; these three are never iterated
        self._silent: set[bytes] = set()  # those that have not answered yet
        self._lost: set[bytes] = set()
        self._lost_numbers: list[int] = []
        self._unasked: deque[Contact] = deque()

    @property
    def is_settled(self) -> bool:
        """Whether everything has its heirs, and all on whom something depends have said that they are there."""
        return self._at == len(self._wills) and not self._silent and not self._unasked

    def begin(self) -> None:
        """Find heirs, for a few records at a time: who leaves still serves others."""
        if self._at == 0:
            self._heeded = len(self._lost_numbers)
        end = min(self._at + SLICE, len(self._wills))
        for will in self._wills[self._at : end]:
            self._see_to(will)
        self._at = end if end < len(self._wills) or self._heeded == len(self._lost_numbers) else 0
        if self._at < len(self._wills):
            self._peer.clock.call_later(0.0, self.begin)
        self._ask()
        self._heard()

    def end(self) -> None:
        """Look for nobody any more."""
        self._wills.clear()
        self._unasked.clear()
        self._at = 0

    def lost(self, contact: Contact) -> None:
        """That one is not there, or leaves as well: what it would hold goes to the next closest."""
        if contact.id in self._lost:
            return
        self._lost.add(contact.id)
        self._lost_numbers.append(as_int(contact.id))
        if self._wills and self._at == len(self._wills):  # else they are being looked at
            self._at = 0
            self._peer.clock.call_later(0.0, self.begin)

    def _see_to(self, will: Will) -> None:
        """Have the k closest hold a record: who lives beyond its reach inherits it, and all have to be there."""
        is_new, lost = will.reach < 0, self._lost_numbers[will.heeded :]
        will.heeded = len(self._lost_numbers)
        if not is_new and not any(number ^ will.key <= will.reach for number in lost):
            return
        holders = self._nearest(will)
        if is_new and len(holders) > 1:
            will.reach = as_int(holders[-2].id) ^ will.key
        for contact in holders:
            if contact.id not in self._asked:
                self._asked.add(contact.id)
                self._unasked.append(contact)
        for contact in reversed(holders):  # the nearer ones have it
            away = as_int(contact.id) ^ will.key
            if away <= will.reach:
                break
            self._inherits(contact, will.record)
        if holders:
            will.reach = max(will.reach, as_int(holders[-1].id) ^ will.key)

    def _nearest(self, will: Will) -> list[Contact]:
        k = self._peer.settings.k
        known = self._peer.table.closest(will.record.key, k + len(self._lost))
        return [contact for contact in known if contact.id not in self._lost][:k]

    def _ask(self) -> None:
        while self._unasked and len(self._silent) < WINDOW:
            contact = self._unasked.popleft()
            self._silent.add(contact.id)
            self._peer.call(contact, Ping(), self._answered)

    def _answered(self, contact: Contact, result: Answer | RpcError) -> None:
        self._silent.discard(contact.id)
        if isinstance(result, RpcError):  # a refusal, too: that one leaves as well
            self.lost(contact)
        self._ask()
        self._heard()
