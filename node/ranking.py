"""Contacts by their distance to any identifier. Pure.

What a node does most is to name the contacts closest to a target, so this is built for the machine: distances are taken
of the first bits of identifiers only, as many as still tell all these contacts apart. With PREFIX bits they are numbers
of one digit, which Python compares and combines without an allocation that counts; for the contacts of one table that
is nearly always enough, and the order by the first bits is then the order by all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from node.ids import BITS, as_int
from node.wire import Contact

PREFIX = 30  # bits of one digit of CPython's integers


class Ranking:
    """Contacts with their identifiers as numbers.

    Contacts near a target share a prefix with it: only those of the smallest such block that holds enough of them are
    ranked at all.
    """

    def __init__(self, contacts: Iterable[tuple[int, Contact]]) -> None:
        everyone = list(contacts)
        for bits in (PREFIX, BITS):
            self._bits, self._shift = bits, BITS - bits
            self._by_prefix = {number >> self._shift: contact for number, contact in everyone}
            if len(self._by_prefix) == len(everyone):
                break
        self._prefixes = sorted(self._by_prefix)

    def add(self, number: int, contact: Contact) -> bool:
        """Have one more contact, or one at another address; False if its first bits do not tell it from another one."""
        prefix = number >> self._shift
        known = self._by_prefix.get(prefix)
        if known is None:
            insort(self._prefixes, prefix)
        elif known.id != contact.id:
            return False
        self._by_prefix[prefix] = contact
        return True

    def discard(self, number: int) -> bool:
        """Have a contact no more, if it is here at all; False if fewer bits may do for those that are left."""
        prefix = number >> self._shift
        known = self._by_prefix.get(prefix)
        if known is not None and as_int(known.id) == number:
            del self._by_prefix[prefix]
            del self._prefixes[bisect_left(self._prefixes, prefix)]
        return self._bits == PREFIX

    def __len__(self) -> int:
        return len(self._prefixes)

    def nearest(self, target: int, count: int, but: bytes = b"") -> list[Contact]:
        """The ``count`` contacts nearest to ``target``, nearest first; whoever has the identifier ``but`` is left out."""
        prefix, by_prefix = target >> self._shift, self._by_prefix
        ranked = [each ^ prefix for each in self._block(prefix, count + 1)]
        ranked.sort()
        if but:
            left_out = as_int(but) >> self._shift
            if left_out in by_prefix and by_prefix[left_out].id == but and left_out ^ prefix in ranked:
                ranked.remove(left_out ^ prefix)
        return [by_prefix[distance ^ prefix] for distance in ranked[:count]]

    def _block(self, prefix: int, count: int) -> list[int]:
        """Those who share so many bits with ``prefix`` that there are at least ``count`` of them, and not many more."""
        prefixes, unshared = self._prefixes, self._bits
        low, high = 0, len(prefixes)
        while high - low > 2 * count:
            unshared -= 1
            middle = prefix >> unshared << unshared
            if prefix >> unshared & 1:
                inner = bisect_left(prefixes, middle, low, high), high
            else:
                inner = low, bisect_left(prefixes, middle + (1 << unshared), low, high)
            if inner[1] - inner[0] < count:
                break
            low, high = inner
        return prefixes[low:high]
