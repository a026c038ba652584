"""What a node does by itself: joining, keeping its table fresh, republishing, handing records to newcomers.

- Join: look up our own identifier through the bootstrap nodes, again and again with pauses that grow up to tRefresh, so
  that nodes that start together, or one after another for a while, find each other without waiting for the hourly
  refresh. The same again when contacts get lost. Clients wait until the first of them has ended. Right after it we look where
  those live that should know us and did not hear of us by it; farther buckets are refreshed later (FAR_PAUSE).
- Suspects and unverified contacts are pinged when they are due, a few at a time; so are those of which nothing was
  heard for CHECK_AFTER, so that what is handed out as alive was so lately.
- A bucket in which nothing was looked up for tRefresh is refreshed (paper, section 2.3).
- Each record is republished every tRepublish by one holder: a holder that receives it meanwhile puts its own turn off
  (paper, section 2.5). The closest holder takes the first turn, and each further one gives way to those that are closer for
  a while: on a busy network, where republishing takes long, turns drawn by chance overlapped, and made it busier.
  Expiry stays what it was. Who is not among the k closest any more, since others have come, hears of no such turn. It
  asks the SENDERS closest whether they hold the record, and rests for DISTANT times as long if they do: else each
  newcomer would add one republisher for each of its keys, for ever.
- On leaving, records go to those that become holders by it (`bequest.py`).
- Hand-off: a contact that is new, was restarted (another incarnation), or answers again after an outage gets the
  records that it should hold and may lack. The SENDERS holders closest to the key send them (the paper names one; the
  second is there for when the first has just died). Who may lack a record too, because it was not steady when that
  came, does not count as a holder: after a partition, no half relies on the other.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from node.bequest import Bequest
from node.errors import RpcError
from node.ids import BITS, BYTES, Range, as_int, distance, sibling
from node.peer import UNKNOWN, OnResult, Peer
from node.routing import Entry, Heard
from node.search import Search, Thrift, record_of
from node.storage import Kept, recency
from node.wire import LEAVING, Answer, Contact, FindValue, Ping, Record, Store, Stored

# s between two looks at what is due: at first, when whoever has just called is to be known soon to those that join along
# with it, later, and while there is nobody to be pinged. An idle node does little else, and hundreds of them share a machine.
TICK, TICK_LATER, TICK_IDLE = 0.25, 0.5, 1.0
PINGS = 12  # to contacts that are due, a second
CHECK_AFTER = 60.0  # s of silence; BEP 5 says 15 minutes, but the sessions that it was made for are longer
JOIN_PAUSE = 0.1  # s after the first lookup of our own identifier, on average; grows after each, up to tRefresh
# Of that pause, as long as a look finds somebody new: with 2, four tables in a thousand lack one contact 2 s after 100 nodes
# started at once; with 1.6 none (simulated, 8 networks). And when it finds nobody.
JOIN_GROWTH, JOIN_GROWTH_LATER = 1.6, 2.5
NEW_FOR = 8.0  # s after a bootstrap node has answered
HOLD_MOST = 1.0  # s for which clients wait for the join; with an operation's own limits still within their usual 5 s
BOOTSTRAP_PAUSE = 0.1  # s between two tries while no bootstrap node answers; doubles up to the next
BOOTSTRAP_PAUSE_MOST = 2.0
LONELY = 10.0  # s between two looks at the bootstrap nodes while nobody in the table answers
LONELY_PING = 1.0  # s between two pings of suspects, whose back-off is longer, meanwhile
HURRY_AFTER = 5.0  # s; who was silent for longer than that and answers again tells of the end of a partition
# s at least between two looks around because neighbours came or contacts were lost: at first, while many may be joining
# along with us, and later, when those that join call on whom they have to by themselves.
LOOK_AGAIN, LOOK_AGAIN_LATER = 2.0, 5.0
SENDERS = 2  # holders that hand a record to a newcomer
SETTLED = 5.0  # s after which a contact has got what it lacked
LEAVE_MOST = 2.0  # s; whoever stops us waits longer
WINDOW = 8  # hand-offs in flight
EXPIRE_EVERY = 10.0  # s
REPUBLISH_EVERY = 1.0  # s between two looks at the records, on average
REPUBLISH_AT_ONCE = 80  # records of one node
# The so many closest holders know 99.5 % of the others, the k-th 91 % (simulated: 53 to 300 nodes, k of 10 and 20).
NEAR = 3
GIVE_WAY = 1 / 8  # of tRepublish, for each holder that is closer
DISTANT = 8  # times as rarely does a node republish that is no holder any more, since closer ones have come
STALE_EVERY = 1.0  # s between two looks at the buckets
FAR_BUCKETS = 16  # refreshed after a join, one after another
# s after a join until the buckets beyond the nearest are refreshed, on average. Until then they fill by themselves, with whoever
# calls on us: contacts from all over their range, where a refresh finds those near one point of it. Simulated: 1,000 nodes
# that join at once need 139 RPCs each in the first two seconds if it is done at once; after 15 s a lookup takes 1.12 hops
# then, and 0.96 so.
FAR_PAUSE = 5.0
# Of k contacts: a bucket with so many alive is not refreshed after a join. Simulated, as above: a lookup takes .91 hops instead
# of .87 then, and those 15 s 199 RPCs of each node instead of 247, most of them the first to their contact, so a dial.
ENOUGH = 0.5


class Letter(NamedTuple):
    """A record on its way to a contact that should hold it, as should all that came here since ``since``."""

    contact: Contact
    record: Record
    since: float


class Maintenance:
    """Keeps one peer going. ``bootstrap`` are advertised addresses; who lives there is not known yet.

    Our own one among them, as in a list that all nodes are given, is passed over: who joins through itself stays alone.
    """

    def __init__(self, peer: Peer, bootstrap: Sequence[tuple[str, int]]) -> None:
        self._peer = peer
        own = (peer.contact.host, peer.contact.port)
        self._bootstrap = [Contact(UNKNOWN, *address) for address in bootstrap if address != own]
        self._outbox: OrderedDict[tuple[bytes, bytes], Letter] = OrderedDict()  # by contact and key
        self._owed: dict[bytes, float] = {}  # by contact: what came since then could not be handed over
        self._handed: dict[bytes, float] = {}  # by contact: when everything was last sent on its way
        self._put_off: set[bytes] = set()  # contacts that get what they are owed in a while; never iterated
        self._sending = 0
        self._bootstrap_asked = self._looked_around = self._lonely_pinged = 0.0
        self._alive = 0
        self._changed = False  # neighbours came or contacts were lost, since we last looked around
        self._leaving: Callable[[], None] | None = None
        self._bequest: Bequest | None = None  # while we leave
        self._join_pause = JOIN_PAUSE
        self._new_until = peer.clock.monotonic() + NEW_FOR
        self._rejoin = peer.clock.call_later(0.0, lambda: None)  # whatever comes next looks for who came later
        self._tick_due = self._republish_from = self._stale_from = 0.0
        self._next_tick = peer.clock.call_later(0.0, lambda: None)
        peer.on_contact, peer.on_doubt = self._on_contact, self._on_doubt
        peer.expects_others = bool(self._bootstrap)

    def start(self) -> None:
        """Join, and look after everything from now on."""
        if self._bootstrap:
            self._peer.hold_clients()
            self._peer.clock.call_later(HOLD_MOST, self._peer.release_clients)
            self._ask_bootstrap(BOOTSTRAP_PAUSE)
        else:
            self._greet()
        self._tick()
        self._expire()
        self._republish()

    def leave(self, left: Callable[[], None]) -> None:
        """Hand the records to the next closest, then call ``left``; after LEAVE_MOST seconds in any case."""
        self._leaving = left
        self._peer.leaving = True  # what came now would go with us
        self._peer.clock.call_later(LEAVE_MOST, self._left)
        records = [kept.record for kept in self._peer.storage.kept() if not kept.cached]
        self._bequest = Bequest(self._peer, records, self._inherits, self._send_next)
        self._bequest.begin()

    def _inherits(self, contact: Contact, record: Record) -> None:
        self._post(Letter(contact, record, math.inf))

    def _left(self) -> None:
        left, self._leaving = self._leaving, None
        bequest, self._bequest = self._bequest, None
        if bequest is not None:
            bequest.end()
        self._outbox.clear()  # what fails from now on fails since we are gone ourselves
        if left is not None:
            left()

    # --- join ------------------------------------------------------------------------------------

    def _ask_bootstrap(self, pause: float = 0.0) -> None:
        """Ping all bootstrap nodes; look around once one has answered, or else try again after ``pause``; 0: do not."""
        self._bootstrap_asked = self._peer.clock.monotonic()
        met = False

        def done(_: Contact, result: Answer | RpcError) -> None:
            nonlocal met
            if not met and not isinstance(result, RpcError):
                met = True
                self._join_pause = JOIN_PAUSE
                self._new_until = self._peer.clock.monotonic() + NEW_FOR
                self._join()

        def again() -> None:
            if not met:
                self._ask_bootstrap(min(BOOTSTRAP_PAUSE_MOST, pause * 2))

        for contact in self._bootstrap:
            self._peer.call(contact, Ping(), done)
        if pause:
            self._peer.clock.call_later(pause, again)

    def _join(self) -> None:
        """Look our own identifier up, and after a pause again: who came later may be closer, and not call on us."""
        began = self._peer.clock.monotonic()
        known = {*self._neighbours()}

        def ended(search: Search) -> None:
            growth = JOIN_GROWTH_LATER if known.issuperset(search.lookup.closest()) else JOIN_GROWTH
            pause, self._join_pause = self._join_pause, growth * self._join_pause
            self._rejoin.cancel()
            if pause < self._peer.settings.refresh:
                took = self._peer.clock.monotonic() - began  # so that joining does not make a busy machine busier
                drawn = pause * (0.75 + self._peer.rng.random() / 2)
                self._rejoin = self._peer.clock.call_later(max(drawn, took), self._join)
            if pause == JOIN_PAUSE:
                self._peer.release_clients()
                self._refresh_in_turn(self._near_ranges(), 1.0, self._greet)
                self._peer.clock.call_later(FAR_PAUSE * (0.5 + self._peer.rng.random()), self._refresh_far_buckets)

        self._look_around(ended, Thrift.NONE if self._join_pause == JOIN_PAUSE else Thrift.THROUGHOUT)

    def _neighbours(self) -> list[Contact]:
        """Our k closest, as far as we know."""
        return self._peer.table.closest(self._peer.contact.id, self._peer.settings.k)

    def _look_around(self, ended: Callable[[Search], None], thrift: Thrift = Thrift.THROUGHOUT) -> None:
        self._looked_around = self._peer.clock.monotonic()
        self._peer.search(self._peer.contact.id, ended, thrift=thrift)

    def _refresh_far_buckets(self) -> None:
        """Fill those farther away than the nearest neighbour (section 2.3) that have not got ENOUGH by themselves."""
        lacking = [each for each in self._far_buckets() if self._lacks(each, ENOUGH)]
        self._refresh_in_turn(lacking[:FAR_BUCKETS], ENOUGH, lambda: None)

    def _far_buckets(self) -> list[Range]:
        """All but our own, the nearest first."""
        own = as_int(self._peer.contact.id)
        far = [bucket for bucket in self._peer.table.buckets() if not bucket.covers(own)]
        return [(bucket.low, bucket.high) for bucket in sorted(far, key=lambda bucket: bucket.low ^ own)]

    def _near_ranges(self) -> list[Range]:
        """Where those live that are not among our k closest, and yet may have us among theirs, the nearest first.

        They are about as far away as the k-th, where nodes happen to lie less densely.
        """
        closest = self._neighbours()
        if len(closest) < self._peer.settings.k:
            return []  # these are all that there are
        bits = distance(closest[-1].id, self._peer.contact.id).bit_length()
        return [sibling(self._peer.contact.id, bit) for bit in range(bits - 1, min(BITS, bits + 1))]

    def _greet(self) -> None:
        """Have strangers who call be pinged at once from now on.

        While a newcomer asks around where it knows too few, those hear of it who hold records for it. Had it pinged all who call
        at once, it would have known enough, and fewer had heard of it: 39 of 6,000 copies were missing in place of 26 after all
        nodes had been restarted in turn (simulated, 150 networks of 20).
        """
        self._peer.greets = True

    def _refresh_in_turn(self, ranges: Sequence[Range], enough: float, done: Callable[[], None]) -> None:
        """Refresh the first that lacks contacts, then the others: by that time, some may have filled."""
        for number, each in enumerate(ranges):
            if self._lacks(each, enough):
                self._refresh(each, partial(self._refresh_in_turn, ranges[number + 1 :], enough, done))
                return
        done()

    def _lacks(self, where: Range, enough: float) -> bool:
        """Whether fewer than ``enough`` times k contacts there are alive."""
        low, high = where
        alive = sum(entry.alive and low <= entry.number < high for entry in self._peer.table.entries())
        return alive < enough * self._peer.settings.k

    # --- what is due -----------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._peer.clock.monotonic()
        self._peer.note_lag(now - self._tick_due if self._tick_due else 0.0)
        table, pause = self._peer.table, self._tick_pause()
        self._tick_at(now + TICK_IDLE)  # whatever happens in this one
        due = [*table.due(now, int(PINGS * pause)), *table.unheard(now, CHECK_AFTER, 1)]
        for entry in due:
            # not twice while the first is under way
            entry.retry_at = now + entry.timeout(self._peer.settings.rpc_timeout) + pause
            self._peer.ping(entry.contact)
        self._tick_by(now + pause if due else self._next_look(now))
        if now >= self._stale_from:
            self._stale_from = now + STALE_EVERY
            for bucket in table.stale_buckets(now, self._peer.settings.refresh)[:1]:
                self._refresh((bucket.low, bucket.high))
        self._mend_losses(now)

    def _tick_pause(self) -> float:
        return TICK if self._is_new() else TICK_LATER

    def _tick_at(self, due: float) -> None:
        self._tick_due = due
        self._next_tick = self._peer.clock.call_later(due - self._peer.clock.monotonic(), self._tick)

    def _tick_by(self, due: float) -> None:
        if self._tick_due > due:
            self._next_tick.cancel()
            self._tick_at(due)

    def _next_look(self, now: float) -> float:
        """When somebody is to be pinged, as far as we know, but neither too soon nor too late."""
        pause = self._tick_pause()
        return min(max(now + pause, self._peer.table.next_due()), now + (TICK_IDLE if self._peer.greets else pause))

    def _on_doubt(self) -> None:
        """Somebody is to be pinged who was not when the next look was put down."""
        self._tick_by(self._next_look(self._peer.clock.monotonic()))

    def _look_around_by(self) -> float:
        """When to look around because neighbours came or contacts were lost."""
        return self._looked_around + (LOOK_AGAIN if self._is_new() else LOOK_AGAIN_LATER)

    def _tick_to_look_around(self, now: float) -> None:
        self._tick_by(max(now + self._tick_pause(), self._look_around_by()))

    def _is_new(self) -> bool:
        """Whether we have joined lately, perhaps along with many."""
        return self._peer.clock.monotonic() < self._new_until

    def _refresh(self, where: Range, done: Callable[[], None] = lambda: None) -> None:
        low, high = where
        number = low + self._peer.rng.getrandbits(BITS) % (high - low)
        self._peer.search(number.to_bytes(BYTES, "big"), lambda _search: done(), thrift=Thrift.FINAL_BURST)

    def _mend_losses(self, now: float) -> None:
        """Look around if neighbours came or contacts were lost; if nobody in the table answers, the bootstrap nodes may."""
        before, self._alive = self._alive, self._peer.table.alive()
        if self._alive:
            self._changed |= self._alive < before
            if self._changed and now >= self._look_around_by():
                self._changed = False
                self._look_around(lambda _search: None)
            elif self._changed:
                self._tick_to_look_around(now)
            return
        if self._bootstrap and now - self._bootstrap_asked >= LONELY:
            self._ask_bootstrap()
        if now - self._lonely_pinged >= LONELY_PING and len(self._peer.table):
            self._lonely_pinged = now
            anybody = self._peer.rng.choice(list(self._peer.table.entries()))
            self._peer.ping(anybody.contact)

    def _expire(self) -> None:
        self._peer.clock.call_later(EXPIRE_EVERY, self._expire)
        self._peer.storage.expire(wall=self._peer.clock.wall())
        self._owed = {i: since for i, since in self._owed.items() if self._peer.table.entry(i) is not None}
        long_ago = self._peer.clock.monotonic() - SETTLED
        self._handed = {i: when for i, when in self._handed.items() if when > long_ago}

    # --- republish -------------------------------------------------------------------------------

    def _republish(self) -> None:
        # Drawn: nodes of one machine that were once held up together would else take all their turns together from then on,
        # and so hold each other up (Floyd and Jacobson 1993, "The synchronization of periodic routing messages").
        now, drawn = self._peer.clock.monotonic(), REPUBLISH_EVERY * (0.5 + self._peer.rng.random())
        if now < self._republish_from:
            self._peer.clock.call_later(self._republish_from - now + drawn, self._republish)
            return
        self._peer.clock.call_later(drawn, self._republish)
        due: list[Kept] = []
        following = now + self._peer.settings.republish  # what comes later is due later
        for kept in self._peer.storage.kept():
            if kept.republish_at <= now:
                if not kept.cached:
                    due.append(kept)
            elif kept.republish_at < following:
                following = kept.republish_at
        self._republish_from = now if due else following
        for kept in due[:REPUBLISH_AT_ONCE]:
            self._take_turn(kept, now)
        self._send_next()

    def _take_turn(self, kept: Kept, now: float) -> None:
        """Republish a record, or give way to those that are closer to it, once."""
        key, k = kept.record.key, self._peer.settings.k
        here = distance(self._peer.contact.id, key)
        closest = self._peer.table.closest(key, k)
        closer = sum(1 for contact in closest if distance(contact.id, key) < here)
        if closer and not kept.gave_way:
            kept.gave_way = True
            kept.republish_at = now + closer * GIVE_WAY * self._peer.settings.republish
            return
        kept.gave_way = False
        kept.republish_at = now + self._peer.republish_pause()
        if closer >= k:
            self._leave_to(closest[:SENDERS], kept)
        elif closer >= NEAR or len(closest) < k:
            self._peer.spread(kept.record, partial(self._republished, kept))
        else:  # so close, we know the others: no lookup (paper, section 2.5)
            for contact in closest[: k - 1]:
                self._post(Letter(contact, kept.record, kept.stored_at))

    def _leave_to(self, holders: Sequence[Contact], kept: Kept) -> None:
        """Rest if all of ``holders`` have the record, so that it is republished by them; else republish it.

        An RPC each, where a republication takes more than twice k of them.
        """
        record, having, republished = kept.record, set[bytes](), False

        def done(contact: Contact, result: Answer | RpcError) -> None:
            nonlocal republished
            self._keep_newer(result, record)
            held = record_of(result, record.key, self._peer.clock.wall())
            if held is not None and recency(held) >= recency(record):  # a copy that ends sooner is none
                having.add(contact.id)
                if len(having) == len(holders):
                    kept.republish_at = self._peer.clock.monotonic() + DISTANT * self._peer.republish_pause()
            elif not republished:
                republished = True
                self._peer.spread(record, partial(self._republished, kept))

        for contact in holders:
            self._peer.call(contact, FindValue(record.key), done)

    def _keep_newer(self, answer: Answer | RpcError, record: Record) -> None:
        """Who is no holder any more hears of no new version, and would hand the old one out as long as that lives."""
        newer = record_of(answer, record.key, self._peer.clock.wall())
        if newer is not None and recency(newer) > recency(record):
            self._peer.keep(newer)

    def _republished(self, kept: Kept, search: Search) -> None:
        """Send the record to those whom the search did not reach with it; rest if others are its holders now."""
        record = kept.record
        others, holds = self._peer.holders(record.key, search.lookup.closest())
        if search.complete and not holds:
            kept.republish_at = self._peer.clock.monotonic() + DISTANT * self._peer.republish_pause()
            self._peer.call(others[0], FindValue(record.key), lambda _, result: self._keep_newer(result, record))
        reached = search.acked | search.outdone
        for contact in others:
            if contact.id not in reached:
                self._post(Letter(contact, record, kept.stored_at))
        self._send_next()

    # --- hand-off --------------------------------------------------------------------------------

    def _on_contact(self, contact: Contact, heard: Heard) -> None:
        """Send a contact the records that it should hold and may lack."""
        now = self._peer.clock.monotonic()
        if heard.missed_since is not None and now - heard.missed_since >= HURRY_AFTER:
            self._peer.table.hurry(now)
            self._on_doubt()
        if heard.new and contact in self._neighbours():
            # Who came with it, and has us not among its own closest, does not call on us: we have to look for it.
            self._changed = True
            self._tick_to_look_around(now)
        self._hand_over(contact, 0.0 if heard.new or heard.restarted else heard.missed_since or 0.0)

    def _hand_over(self, contact: Contact, since: float) -> None:
        """Send what came since then, and what is owed; of everything, once in SETTLED at most, the next time later."""
        now = self._peer.clock.monotonic()
        again = self._handed.get(contact.id, -math.inf) + SETTLED
        since = min(since, self._owed.pop(contact.id, math.inf))
        if since <= 0.0 and now < again:
            self._owed[contact.id] = since
            if contact.id not in self._put_off:
                self._put_off.add(contact.id)
                self._peer.clock.call_later(again - now, partial(self._hand_over_owed, contact.id))
            return
        due = [kept for kept in self._peer.storage.kept() if kept.stored_at >= since and not kept.cached]
        if self._post_what_is_mine(due, contact, since) and since <= 0.0:
            self._handed[contact.id] = now
        self._send_next()

    def _post_what_is_mine(self, due: Sequence[Kept], contact: Contact, since: float) -> bool:
        """Of records that came since then, those that we are to send to a newcomer; whether there were any."""
        if not due:
            return False  # as for nearly all contacts of a cluster that boots
        newcomer = as_int(contact.id)
        others = [entry for entry in self._peer.table.entries() if entry.alive and entry.number != newcomer]
        mine = [kept for kept in due if self._is_mine_to_send(kept, newcomer, others)]
        for kept in mine:
            self._post(Letter(contact, kept.record, since))
        return bool(mine)

    def _hand_over_owed(self, identifier: bytes) -> None:
        """What was put off, unless that contact is silent by now: then when it answers again."""
        self._put_off.discard(identifier)
        entry = self._peer.table.entry(identifier)
        if entry is not None and entry.alive and identifier in self._owed:
            self._hand_over(entry.contact, self._owed[identifier])

    def _is_mine_to_send(self, kept: Kept, newcomer: int, others: Sequence[Entry]) -> bool:
        """Whether the newcomer should hold this record, and fewer than SENDERS others that hold it are closer than we.

        This runs for every record and newcomer; most are somebody else's to send, which shows after a few steps.
        """
        key = as_int(kept.record.key)
        here = as_int(self._peer.contact.id) ^ key
        if self._has_closer_holders(key, here, kept.stored_at, others):
            return False
        there = newcomer ^ key
        closer_than_newcomer = sum(1 for entry in others if entry.number ^ key < there) + (here < there)
        return closer_than_newcomer < self._peer.settings.k

    def _has_closer_holders(self, key: int, here: int, stored_at: float, others: Sequence[Entry]) -> bool:
        """Whether SENDERS contacts are closer to the key than we and surely hold it."""
        steady_from = max(stored_at, self._peer.clock.monotonic() - SETTLED)
        closer = (1 for entry in others if entry.number ^ key < here and entry.steady_since <= steady_from)
        return sum(itertools.islice(closer, SENDERS)) == SENDERS

    def _post(self, letter: Letter) -> None:
        """Put a letter into the outbox; one of the same record to the same contact takes its place, if it waits there."""
        at = letter.contact.id, letter.record.key
        waiting = self._outbox.get(at)
        if waiting is not None:
            record = max(waiting.record, letter.record, key=recency)
            letter = Letter(letter.contact, record, min(waiting.since, letter.since))
        self._outbox[at] = letter

    def _send_next(self) -> None:
        """Send until the window is full. The silent are passed over: they would block it, and get all when they answer."""
        while self._outbox and self._sending < WINDOW:
            _, letter = self._outbox.popitem(last=False)
            if self._peer.table.is_suspect(letter.contact.id):
                self._did_not_arrive(letter)
                continue
            self._sending += 1
            self._peer.call(letter.contact, Store(letter.record), self._landed(letter))
        if self._bequest is not None and self._bequest.is_settled and not self._sending:
            self._left()

    def _did_not_arrive(self, letter: Letter) -> None:
        """Owe it to that contact; whoever has no entry is new when it answers, and gets everything."""
        if self._bequest is not None:
            self._bequest.lost(letter.contact)
        contact = letter.contact.id
        if self._peer.table.entry(contact) is not None:
            self._owed[contact] = min(letter.since, self._owed.get(contact, math.inf))

    def _landed(self, letter: Letter) -> OnResult:
        landed = False

        def done(_: Contact, result: Answer | RpcError) -> None:
            nonlocal landed
            if landed:
                return  # late
            landed = True
            if isinstance(result, RpcError) or (isinstance(result, Stored) and result.why == LEAVING):
                self._did_not_arrive(letter)
            self._sending -= 1
            self._send_next()

        return done
