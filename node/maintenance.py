"""What a node does by itself: joining, keeping its table fresh, republishing, handing records to newcomers.

- Join: look up our own identifier through the bootstrap nodes, again and again with growing pauses, so that nodes that all
  start at once find each other without waiting for the hourly refresh. The first such lookup says that we are *joining*.
- Suspects and unverified contacts are pinged when they are due, a few at a time.
- A bucket in which nothing was looked up for tRefresh is refreshed (paper, section 2.3).
- Each record is republished every tRepublish by one holder: a holder that receives it meanwhile puts its own turn off
  (paper, section 2.5). Expiry stays what it was.
- Hand-off: a contact that is new, that joins (again, with an empty store), or that answers again after an outage gets the
  records for which it is now among the k closest. Of all who could send, only the two closest to the key do so (the paper's
  rule names one; the second is there for when that one has just died).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from node.errors import RpcError
from node.ids import BITS, BYTES, as_int, distance
from node.peer import Peer, Search
from node.routing import Bucket, Heard
from node.wire import Answer, Contact, Ping, Record, Store

TICK = 0.25  # s between two looks at what is due
PINGS_PER_TICK = 3
JOIN_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # s after each lookup of our own identifier
BOOTSTRAP_PAUSE = 0.1  # s between two tries while no bootstrap node answers; doubles up to the next
BOOTSTRAP_PAUSE_MOST = 2.0
LONELY = 10.0  # s between two looks at the bootstrap nodes while nobody in the table answers
SENDERS = 2  # holders that hand a record to a newcomer
WINDOW = 8  # hand-offs in flight
EXPIRE_EVERY = 10.0  # s
REPUBLISH_PER_TICK = 20  # records of one node
FAR_BUCKETS = 16  # refreshed at once after a join


class Maintenance:
    """Keeps one peer going. ``bootstrap`` are advertised addresses; who lives there is not known yet."""

    def __init__(self, peer: Peer, bootstrap: Sequence[tuple[str, int]]) -> None:
        self._peer = peer
        self._bootstrap = [Contact(bytes(BYTES), host, port) for host, port in bootstrap]
        self._outbox: deque[tuple[Contact, Record]] = deque()
        self._sending = 0
        self._bootstrap_asked = 0.0
        peer.on_contact = self._on_contact
        peer.on_join = self._on_join

    def start(self) -> None:
        """Join, and look after everything from now on."""
        self._tick()
        self._expire()
        if self._bootstrap:
            self._ask_bootstrap(BOOTSTRAP_PAUSE)

    # --- join ------------------------------------------------------------------------------------

    def _ask_bootstrap(self, pause: float) -> None:
        """Ping all bootstrap nodes; look around once one has answered, or else try again."""
        self._bootstrap_asked = self._peer.clock.monotonic()
        met = False

        def done(_: Contact, result: Answer | RpcError) -> None:
            nonlocal met
            if not met and not isinstance(result, RpcError):
                met = True
                self._look_around(0)

        def again() -> None:
            if not met:
                self._ask_bootstrap(min(BOOTSTRAP_PAUSE_MOST, pause * 2))

        for contact in self._bootstrap:
            self._peer.call(contact, Ping(), done)
        self._peer.clock.call_later(pause, again)

    def _look_around(self, step: int) -> None:
        """Look our own identifier up, and after a pause again."""

        def ended(_: Search) -> None:
            if step < len(JOIN_PAUSES):
                self._peer.clock.call_later(JOIN_PAUSES[step], lambda: self._look_around(step + 1))
            if step == 0:
                self._refresh_far_buckets()

        self._peer.search(self._peer.contact.id, ended, joining=step == 0)

    def _refresh_far_buckets(self) -> None:
        """After the first look-around, fill the buckets farther away than the nearest neighbour (paper, section 2.3)."""
        for bucket in self._peer.table.stale_buckets(self._peer.clock.monotonic(), 0.0)[:FAR_BUCKETS]:
            self._refresh(bucket)

    # --- what is due -----------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._peer.clock.monotonic()
        for contact in self._peer.table.due(now, PINGS_PER_TICK):
            entry = self._peer.table.entry(contact.id)
            if entry is not None:
                entry.retry_at = now + entry.timeout + TICK  # not twice while the first is under way
            self._peer.ping(contact)
        for bucket in self._peer.table.stale_buckets(now, self._peer.settings.refresh)[:1]:
            self._refresh(bucket)
        self._republish(now)
        self._mend_loneliness(now)
        self._peer.clock.call_later(TICK, self._tick)

    def _refresh(self, bucket: Bucket) -> None:
        number = bucket.low + self._peer.rng.getrandbits(BITS) % (bucket.high - bucket.low)
        self._peer.search(number.to_bytes(BYTES, "big"), lambda search: None)

    def _mend_loneliness(self, now: float) -> None:
        """If nobody in the table answers, the bootstrap nodes may."""
        table = self._peer.table
        if self._bootstrap and now - self._bootstrap_asked >= LONELY and not table.closest(self._peer.contact.id, 1):
            self._ask_bootstrap(BOOTSTRAP_PAUSE_MOST)

    def _expire(self) -> None:
        self._peer.storage.expire(wall=self._peer.clock.wall())
        self._peer.clock.call_later(EXPIRE_EVERY, self._expire)

    # --- republish -------------------------------------------------------------------------------

    def _republish(self, now: float) -> None:
        due = [kept for kept in self._peer.storage.kept() if kept.republish_at <= now][:REPUBLISH_PER_TICK]
        for kept in due:
            kept.republish_at = now + self._peer.settings.republish * (1 + self._peer.rng.random() / 4)
            self._peer.search(kept.record.key, lambda search, record=kept.record: self._send_to_holders(record, search))

    def _send_to_holders(self, record: Record, search: Search) -> None:
        others, _ = self._peer.holders(record.key, search.lookup.closest())
        self._post((contact, record) for contact in others)

    # --- hand-off --------------------------------------------------------------------------------

    def _on_join(self, contact: Contact) -> None:
        self._hand_over(contact, since=0.0)

    def _on_contact(self, contact: Contact, heard: Heard) -> None:
        self._hand_over(contact, since=heard.restored_since or 0.0)

    def _hand_over(self, contact: Contact, since: float) -> None:
        """Send ``contact`` the records that came here after ``since`` and that it should hold too."""
        records = (kept.record for kept in self._peer.storage.kept() if kept.stored_at >= since)
        self._post((contact, record) for record in records if self._is_mine_to_send(record.key, contact))

    def _is_mine_to_send(self, key: bytes, newcomer: Contact) -> bool:
        near = self._peer.table.closest(key, self._peer.settings.k, but=newcomer.id)
        own = distance(self._peer.contact.id, key)
        closer = [as_int(other.id) ^ as_int(key) for other in near]
        if sum(other < own for other in closer) >= SENDERS:
            return False
        return len(closer) < self._peer.settings.k or distance(newcomer.id, key) < closer[-1]

    def _post(self, letters: Iterable[tuple[Contact, Record]]) -> None:
        self._outbox.extend(letters)
        self._send_next()

    def _send_next(self) -> None:
        while self._outbox and self._sending < WINDOW:
            contact, record = self._outbox.popleft()
            self._sending += 1
            self._peer.call(contact, Store(record), self._landed())

    def _landed(self) -> Callable[[Contact, Answer | RpcError], None]:
        landed = False

        def done(_: Contact, __: Answer | RpcError) -> None:
            nonlocal landed
            if not landed:
                landed = True
                self._sending -= 1
                self._send_next()

        return done
