"""One iterative lookup as a sans-IO state machine: answers in, queries out. Pure.

    while not lookup.done:  send to each of lookup.queries(), then tell it answered(…), slow(…) or failed(…)

It streams: as soon as an answer comes, the next query goes out; no round waits for its slowest. While the ``beta``
closest candidates have not all answered, at most ``alpha`` queries are in flight. Then it has ``converged``, and the
final burst begins: all that are left of the k closest are asked at once (simulated on full tables of 100 nodes: 2.8
round trips instead of 7). The lookup is done when the k closest candidates that did not fail have all answered.

Who is slow is overtaken: it takes no place in alpha, beta or k any more, so that the next closest is asked in its stead.
Neither that nor a failure is final: an answer that comes late, while the lookup still goes on, counts.

An identifier may be told with several addresses, of which others may have made some up. Whoever fails at one is asked at the
next that was told, so that a few false addresses hide nobody; one liar does not fill the time of a search with its own.

`DisjointLookup` is several of these that share no contact (S/Kademlia 2007, section 4.4): who lies on one path cannot
lead the others astray.
Sources: Maymounkov and Mazières 2002, section 2.3; libp2p's kad-dht specification (beta, "resiliency").
"""

from __future__ import annotations

import bisect
from collections.abc import Container, Iterable, Sequence
from typing import Protocol

from node.ids import as_int
from node.wire import Contact

KNOWN, ASKED, SLOW, ANSWERED, FAILED = range(5)
MOST_ELSEWHERE = 4  # further addresses that are tried of one identifier: each may take its whole timeout


class Candidate:
    """One identifier in a lookup; ``hops`` counts the contacts through which it was learnt, 0 for our own table's.

    ``elsewhere`` is where it is said to live too, and was not asked yet; of each answer (``telling``) one such address counts.
    ``given_up`` is where it did not answer.
    """

    __slots__ = ("contact", "elsewhere", "given_up", "hops", "progress", "telling")

    def __init__(self, contact: Contact, hops: int, telling: int = 0) -> None:
        self.contact, self.hops, self.progress, self.telling = contact, hops, KNOWN, telling
        self.elsewhere: tuple[Contact, ...] = ()
        self.given_up: tuple[Contact, ...] = ()

    def is_also_at(self, contact: Contact, telling: int) -> bool:
        """Note another address of it; whether it counts: one liar is not to fill the time of a search with its own."""
        if telling == self.telling or len(self.elsewhere) + len(self.given_up) >= MOST_ELSEWHERE:
            return False
        self.elsewhere, self.telling = (*self.elsewhere, contact), telling
        return True


class Finder(Protocol):
    """What `Lookup` and `DisjointLookup` have in common."""

    @property
    def done(self) -> bool: ...
    @property
    def converged(self) -> bool: ...
    def reseed(self, contacts: Sequence[Contact]) -> None: ...
    def queries(self) -> list[Contact]: ...
    def answered(self, contact: Contact, contacts: Iterable[Contact] = (), suspects: Container[bytes] = ()) -> None: ...
    def slow(self, contact: Contact) -> None: ...
    def failed(self, contact: Contact) -> None: ...
    def hops_to(self, contact: Contact) -> int: ...
    def closest(self) -> list[Contact]: ...
    def overtaken(self) -> bool: ...
    def unheard(self) -> list[Contact]: ...
    def nearest(self) -> list[Contact]: ...


class Lookup:
    """A search for the ``k`` contacts closest to ``target``. ``own`` is never a candidate.

    ``claimed`` are contacts that other paths of the same search have taken; those taken here are added. Contacts, since an
    identifier that is claimed with a false address would be lost to all paths.
    """

    def __init__(
        self,
        target: bytes,
        own: bytes,
        seeds: Iterable[Contact],
        *,
        k: int,
        alpha: int,
        beta: int,
        claimed: set[Contact] | None = None,
    ) -> None:
        self.target = target
        self._number = as_int(target)
        self._k, self._alpha, self._beta = k, alpha, min(beta, k)
        self._distances: list[int] = []  # sorted; a distance names its candidate, since XOR is a bijection
        self._candidates: dict[int, Candidate] = {}
        self._told: dict[Contact, Candidate] = {}
        self._own = own
        self._claimed = set() if claimed is None else claimed
        self._in_flight = self._tellings = 0
        self._given_up = 0  # how often somebody was slow or failed
        self._near: list[Candidate] | None = None  # the k closest that are neither slow nor failed; None: to be found
        self._learn(seeds, 0, ())

    @property
    def done(self) -> bool:
        """Whether the k closest candidates that are neither slow nor failed have all answered."""
        for candidate in self._nearest():  # twice as fast as all(…), and asked after every answer
            if candidate.progress != ANSWERED:
                return False
        return not self._waits_for_slow()

    @property
    def converged(self) -> bool:
        """Whether the beta closest have all answered."""
        return all(c.progress == ANSWERED for c in self._nearest()[: self._beta])

    def reseed(self, contacts: Sequence[Contact]) -> None:
        """Take more contacts of our own table in; those that are known already change nothing."""
        self._learn(contacts, 0, ())

    def queries(self) -> list[Contact]:
        """Whom to ask now; they count as asked."""
        nearest = self._nearest()
        room = len(nearest) if self.converged else self._alpha - self._in_flight
        chosen = [c for c in nearest if c.progress == KNOWN][: max(0, room)]
        for candidate in chosen:
            candidate.progress = ASKED
        self._in_flight += len(chosen)
        return [candidate.contact for candidate in chosen]

    def answered(self, contact: Contact, contacts: Iterable[Contact] = (), suspects: Container[bytes] = ()) -> None:
        """An answer came, late or not, and with it these contacts. Those of them that are ``suspects`` are ignored."""
        candidate = self._told.get(contact)
        if candidate is None or candidate.progress == ANSWERED:
            return
        self._land(candidate)
        if candidate.progress != KNOWN and candidate.progress != ASKED:
            self._near = None
        candidate.contact, candidate.progress = contact, ANSWERED
        self._learn(contacts, candidate.hops + 1, suspects)

    def slow(self, contact: Contact) -> None:
        """Its answer has not come as soon as answers of this contact do; do not wait for it any longer."""
        self._give_up(contact, (ASKED,), SLOW)

    def failed(self, contact: Contact) -> None:
        """No answer came in time, or the contact cannot be reached."""
        self._give_up(contact, (ASKED, SLOW), FAILED)

    def hops_to(self, contact: Contact) -> int:
        """How often a contact had to be learnt from another node until this one was known."""
        candidate = self._told.get(contact)
        return 0 if candidate is None else candidate.hops

    def closest(self) -> list[Contact]:
        """Up to k contacts that answered, nearest first."""
        candidates = (self._candidates[distance] for distance in self._distances)
        return [c.contact for c in candidates if c.progress == ANSWERED][: self._k]

    def overtaken(self) -> bool:
        """Whether anybody slow is nearer than the last of `closest`, so that its answer would still change that."""
        answered = 0
        for distance in self._distances if self._given_up else ():
            progress = self._candidates[distance].progress
            if progress == SLOW:
                return True
            answered += progress == ANSWERED
            if answered == self._k:
                break
        return False

    def unheard(self) -> list[Contact]:
        """Who was asked and has not answered, the slow and the failed: each where it was asked."""
        if not self._given_up:
            return []
        return [where for c in self._candidates.values() if c.progress != ANSWERED for where in c.given_up]

    def nearest(self) -> list[Contact]:
        """Up to k contacts that are neither slow nor failed, whether asked or not, nearest first."""
        return [candidate.contact for candidate in self._nearest()]

    def _give_up(self, contact: Contact, what: Sequence[int], progress: int) -> None:
        candidate = self._told.get(contact)
        if candidate is not None and candidate.contact == contact and candidate.progress in what:
            self._land(candidate)
            if candidate.progress != SLOW:
                candidate.given_up += (contact,)
            candidate.progress = progress
            self._given_up += 1
            self._near = None
            self._try_elsewhere(candidate)

    def _try_elsewhere(self, candidate: Candidate) -> None:
        """Ask whoever failed where else it is said to live, if anybody said so."""
        if candidate.progress == FAILED and candidate.elsewhere:
            candidate.contact, *others = candidate.elsewhere
            candidate.elsewhere, candidate.progress, self._near = tuple(others), KNOWN, None

    def _waits_for_slow(self) -> bool:
        """Whether nobody has answered, but somebody still may."""
        return not self._near and any(c.progress == SLOW for c in self._candidates.values())

    def _learn(self, contacts: Iterable[Contact], hops: int, suspects: Container[bytes]) -> None:
        claimed = self._claimed
        self._tellings += 1
        for contact in contacts:
            identifier = contact.id
            if contact in claimed or identifier == self._own or identifier in suspects:
                continue
            distance = int.from_bytes(identifier, "big") ^ self._number
            candidate = self._candidates.get(distance)
            if candidate is None:
                candidate = self._candidates[distance] = Candidate(contact, hops, self._tellings)
                bisect.insort(self._distances, distance)
                self._near = None
            elif candidate.is_also_at(contact, self._tellings):
                self._try_elsewhere(candidate)
            else:
                continue
            claimed.add(contact)
            self._told[contact] = candidate

    def _land(self, candidate: Candidate) -> None:
        if candidate.progress == ASKED:
            self._in_flight -= 1

    def _nearest(self) -> list[Candidate]:
        if self._near is None:
            candidates = self._candidates
            first = [candidates[distance] for distance in self._distances[: self._k + self._given_up]]
            if self._given_up:
                first = [c for c in first if c.progress != FAILED and c.progress != SLOW][: self._k]
            self._near = first
        return self._near


class DisjointLookup:
    """``paths`` lookups of the same target that share no contact; the seeds are dealt out among them."""

    def __init__(
        self, target: bytes, own: bytes, seeds: Sequence[Contact], *, k: int, alpha: int, beta: int, paths: int
    ) -> None:
        claimed: set[Contact] = set()
        self._k, self._number = k, as_int(target)
        self._paths = [
            Lookup(target, own, seeds[n::paths], k=k, alpha=alpha, beta=beta, claimed=claimed) for n in range(paths)
        ]

    @property
    def done(self) -> bool:
        """See `Lookup.done`: of every path."""
        return all(path.done for path in self._paths)

    @property
    def converged(self) -> bool:
        """See `Lookup.converged`: of every path."""
        return all(path.converged for path in self._paths)

    def reseed(self, contacts: Sequence[Contact]) -> None:
        """See `Lookup.reseed`; dealt out among the paths."""
        for number, path in enumerate(self._paths):
            path.reseed(contacts[number :: len(self._paths)])

    def queries(self) -> list[Contact]:
        """See `Lookup.queries`."""
        return [contact for path in self._paths for contact in path.queries()]

    def answered(self, contact: Contact, contacts: Iterable[Contact] = (), suspects: Container[bytes] = ()) -> None:
        """See `Lookup.answered`. Only the path that asked this contact learns from it."""
        for path in self._paths:
            path.answered(contact, contacts, suspects)

    def slow(self, contact: Contact) -> None:
        """See `Lookup.slow`."""
        for path in self._paths:
            path.slow(contact)

    def failed(self, contact: Contact) -> None:
        """See `Lookup.failed`."""
        for path in self._paths:
            path.failed(contact)

    def hops_to(self, contact: Contact) -> int:
        """See `Lookup.hops_to`."""
        return max(path.hops_to(contact) for path in self._paths)

    def closest(self) -> list[Contact]:
        """See `Lookup.closest`: of all paths together."""
        return self._first(contact for path in self._paths for contact in path.closest())

    def overtaken(self) -> bool:
        """See `Lookup.overtaken`: of any path."""
        return any(path.overtaken() for path in self._paths)

    def unheard(self) -> list[Contact]:
        """See `Lookup.unheard`: of all paths together."""
        return [contact for path in self._paths for contact in path.unheard()]

    def nearest(self) -> list[Contact]:
        """See `Lookup.nearest`: of all paths together."""
        return self._first(contact for path in self._paths for contact in path.nearest())

    def _first(self, contacts: Iterable[Contact]) -> list[Contact]:
        # two paths may have been told different addresses of one identifier
        of_each = {contact.id: contact for contact in contacts}.values()
        return sorted(of_each, key=lambda contact: as_int(contact.id) ^ self._number)[: self._k]
