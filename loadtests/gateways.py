"""Choosing a gateway, and leaving one that failed alone for a while.

Clients learn that a gateway is gone only by failing on it. It then rests for 1 s, and twice as long each time that it fails
again right after its rest, up to 30 s. There are no hidden retries: the operation that failed stays failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from loadtests.client import LoadClient

REST_FIRST, REST_MOST = 1.0, 30.0  # s


@dataclass
class Gateway:
    """One node that clients may ask. Times are monotonic seconds."""

    name: str
    client: LoadClient
    rests_until: float = 0.0
    rest: float = 0.0

    def failed(self, now: float) -> None:
        """Let it rest; what fails while it rests already was on its way before and does not count again."""
        if now >= self.rests_until:
            self.rest = min(REST_MOST, self.rest * 2 or REST_FIRST)
            self.rests_until = now + self.rest

    def worked(self, now: float) -> None:
        """Forget its failures, unless it rests: an answer that was on its way proves nothing."""
        if now >= self.rests_until:
            self.rest = 0.0


class Gateways:
    """All gateways of one worker."""

    def __init__(self, gateways: Sequence[Gateway], rng: Random, clock: Callable[[], float]) -> None:
        self._gateways, self._rng, self._clock = list(gateways), rng, clock

    def random(self) -> Gateway:
        """Any that does not rest; if all do, the one whose rest ends first."""
        now = self._clock()
        awake = [gateway for gateway in self._gateways if gateway.rests_until <= now]
        if not awake:
            return min(self._gateways, key=lambda gateway: gateway.rests_until)
        return awake[int(self._rng.random() * len(awake))]

    def sticky(self, present: Gateway | None) -> Gateway:
        """The present one, until it rests."""
        if present is not None and present.rests_until <= self._clock():
            return present
        return self.random()

    def some(self, names: Collection[str], count: int) -> list[Gateway]:
        """Up to ``count`` different ones among ``names``."""
        there = [gateway for gateway in self._gateways if gateway.name in names]
        keyed = sorted((self._rng.random(), index) for index in range(len(there)))
        return [there[index] for _, index in keyed[:count]]

    def close(self) -> None:
        """Close every connection."""
        for gateway in self._gateways:
            gateway.client.close()
