"""How many bytes others may make this node hold: frames that are not whole yet, and answers that are not taken. Pure.

Each connection may hold little, and all of them together far more than there is memory: 4,096 frames of 4 MiB, each one byte
short. So what they hold is added up, and once that is too much, whoever holds most has to go.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Holder = TypeVar("Holder")


class Budget(Generic[Holder]):
    """``most`` bytes for all holders together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._held: dict[Holder, int] = {}  # those that hold anything

    def note(self, holder: Holder, size: int) -> Holder | None:
        """Note that ``holder`` now holds ``size`` bytes; who has to go for it, if anybody. That one holds nothing any more."""
        self._set(holder, size)
        if self.total <= self.most:
            return None
        largest = max(self._held, key=self._held.__getitem__)
        self._set(largest, 0)
        return largest

    def _set(self, holder: Holder, size: int) -> None:
        self.total += size - self._held.pop(holder, 0)
        if size:
            self._held[holder] = size
