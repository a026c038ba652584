"""When requests are due, in steps of TICK: a timing wheel. Pure: the time is an argument.

All that is due within one step shares a place, so that noting a deadline and passing over one that has been settled cost
the same however many are noted (Varghese and Lauck 1987, scheme 6, with a heap of the places instead of a ring of them).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

TICK = 0.02  # s; deadlines are rounded up to it


class Settled(Protocol):
    """What has a deadline, and whether that has lost its meaning."""

    settled: bool


Item = TypeVar("Item", bound=Settled)


class Deadlines(Generic[Item]):
    """Items by their deadlines, in seconds of any clock."""

    def __init__(self) -> None:
        self._due: dict[int, deque[Item]] = {}  # by the tick at which their time is up
        self._ticks: list[int] = []  # a heap of those

    def note(self, deadline: float, item: Item) -> bool:
        """Have ``item`` come out of `take` once ``deadline`` is over; whether that is a new step."""
        tick = int(deadline / TICK) + 1
        due = self._due.get(tick)
        if due is not None:
            due.append(item)
            return False
        self._due[tick] = deque((item,))
        heapq.heappush(self._ticks, tick)
        return True

    def first(self) -> float | None:
        """When the first deadline of what is not settled is over; settled items before it are let go."""
        while self._ticks:
            due = self._due[self._ticks[0]]
            while due and due[0].settled:
                due.popleft()
            if due:
                return self._ticks[0] * TICK
            self._drop_first()
        return None

    def take(self, now: float) -> Iterator[Item]:
        """What is due by ``now`` and not settled when its turn comes, by deadline; what is not asked for stays."""
        while self._ticks and self._ticks[0] * TICK <= now:
            due = self._due[self._ticks[0]]
            if not due:
                self._drop_first()
                continue
            item = due.popleft()
            if not item.settled:
                yield item

    def _drop_first(self) -> None:
        del self._due[heapq.heappop(self._ticks)]
