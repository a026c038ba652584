"""Which gateway the next operation goes to, and which are left alone for a while. Pure: the clock is an argument.

Clients learn that a gateway is gone only by failing on it. It then rests for 1 s, and for twice as long each time it
fails again, up to 30 s; the first answer ends that. Many operations are in flight on a gateway when it dies, and all of
them fail: that is one failure, so only operations that were sent after the rest had ended count as "again".

If all gateways rest, the one whose rest ends first is asked: an operation that is due is never held back.

Users that keep to one gateway (`sticky`) have it by a seeded draw, so that it says nothing of the site that they are in, which
goes by their number. In the open model nobody waits for an answer and so nobody is a user: there each arrival is put
down to one of VISITORS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

FIRST_REST = 1.0  # s
LONGEST_REST = 30.0
VISITORS = 1000  # users to whom the arrivals of all workers are put down


@dataclass(slots=True)
class _Health:
    """``since``: when its last rest began; ``until``: when it ends. Both -inf while it never failed."""

    failures: int = 0
    since: float = -math.inf
    until: float = -math.inf


class Gateways:
    """One worker's view of its gateways. All times in seconds on one monotonic clock."""

    def __init__(self, names: Sequence[str], rng: Random) -> None:
        self.names = tuple(names)
        self._rng = rng
        self._health = {name: _Health() for name in names}
        self._rested_at = -math.inf  # from then on nobody rests: the fast path

    def pick(self, now: float) -> str:
        """Any gateway that does not rest, uniformly."""
        awake = self.names if now >= self._rested_at else self._awake(now)
        return awake[int(self._rng.random() * len(awake))]

    def pick_sticky(self, home: int, now: float) -> str:
        """The gateway of user number ``home``; while that one rests, the next one that does not."""
        if now >= self._rested_at:
            return self.names[home % len(self.names)]
        order = [self.names[(home + step) % len(self.names)] for step in range(len(self.names))]
        awake = self._awake(now)
        return next(name for name in order if name in awake)

    def failed(self, name: str, *, sent: float, now: float) -> None:
        """An operation that was sent to ``name`` at ``sent`` failed for its gateway's sake."""
        health = self._health[name]
        if sent < health.until:
            return
        health.since, health.until = now, now + min(FIRST_REST * 2**health.failures, LONGEST_REST)
        health.failures += 1
        self._rested_at = max(self._rested_at, health.until)

    def answered(self, name: str, *, sent: float) -> None:
        """``name`` answered an operation sent at ``sent``. Answers to what was sent before it failed say nothing."""
        health = self._health[name]
        if health.failures and sent >= health.since:
            health.failures, health.until = 0, -math.inf

    def _awake(self, now: float) -> tuple[str, ...]:
        awake = tuple(name for name in self.names if now >= self._health[name].until)
        return awake or (min(self.names, key=lambda name: self._health[name].until),)


class Homes:
    """Which gateway, by its index, is a user's own: the same in every worker, and each gateway's as often as another's."""

    def __init__(self, gateways: int, seed: int, *, index: int = 0, workers: int = 1) -> None:
        self._gateways, self._seed = gateways, seed
        self._orders: dict[int, list[int]] = {}
        self._mine = range(index, VISITORS, workers)
        self._rng = Random(f"visitors/{seed}/{index}")

    def of(self, user: int) -> int:
        """The gateway of user number ``user``, who may be a visitor. As many users in a row as there are gateways share
        one shuffle of them."""
        shuffle, place = divmod(user, self._gateways)
        order = self._orders.get(shuffle)
        if order is None:
            order = self._orders[shuffle] = list(range(self._gateways))
            Random(f"homes/{self._seed}/{shuffle}").shuffle(order)
        return order[place]

    def visitor(self) -> int:
        """Whose the next arrival is: any of this worker's visitors, uniformly."""
        return self._mine[int(self._rng.random() * len(self._mine))]
