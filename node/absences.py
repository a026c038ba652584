"""Who did not answer when last asked: those that refused have ended, of the silent nobody knows. Pure: the time is an argument.

A key that was not found may be with those that are silent, and is not with those that have ended.
"""

from __future__ import annotations

from typing import NamedTuple

DOUBT = 60.0  # s; who is silent for longer than that passes for gone
MOST = 1024  # contacts that are remembered; those that failed longest ago are forgotten


class Absence(NamedTuple):
    """Whether its address refused, and since when (monotonic, s) it has been so or silent."""

    refused: bool
    since: float


class Absences:
    """By identifier; ``known`` may be looked at, to see whether there are any."""

    def __init__(self) -> None:
        self.known: dict[bytes, Absence] = {}

    def note(self, identifier: bytes, now: float, *, refused: bool) -> None:
        """Note that it did not answer, or that nobody is there."""
        before = self.known.pop(identifier, None)
        since = before.since if before is not None and before.refused == refused else now
        self.known[identifier] = Absence(refused, since)
        if len(self.known) > MOST:
            del self.known[next(iter(self.known))]

    def answered(self, identifier: bytes) -> None:
        """Note that it lives."""
        self.known.pop(identifier, None)

    def refusing(self) -> set[bytes]:
        """Those that have ended, as it seems."""
        return {identifier for identifier, absence in self.known.items() if absence.refused}

    def silent(self, now: float) -> set[bytes]:
        """Those that fell silent less than DOUBT seconds ago."""
        return {
            identifier
            for identifier, absence in self.known.items()
            if not absence.refused and now - absence.since < DOUBT
        }
