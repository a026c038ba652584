"""Who did not answer when last asked: those that refused have ended, of the silent nobody knows. Pure: the time is an argument.

A key that was not found may be with those that are silent, and is not with those that have ended. Who is where counts: that
nobody is at an address which somebody made up says nothing of whoever has that identifier.
"""

from __future__ import annotations

from typing import NamedTuple

from node.wire import Contact

DOUBT = 60.0  # s; who is silent for longer than that passes for gone
MOST = 1024  # contacts that are remembered; those that failed longest ago are forgotten


class Absence(NamedTuple):
    """Whether its address refused, and since when (monotonic, s) it has been so or silent."""

    refused: bool
    since: float


class Absences:
    """By contact; ``known`` may be looked at, to see whether there are any."""

    def __init__(self) -> None:
        self.known: dict[Contact, Absence] = {}

    def note(self, contact: Contact, now: float, *, refused: bool) -> None:
        """Note that it did not answer, or that nobody is there."""
        before = self.known.pop(contact, None)
        since = before.since if before is not None and before.refused == refused else now
        self.known[contact] = Absence(refused, since)
        if len(self.known) > MOST:
            del self.known[next(iter(self.known))]

    def answered(self, contact: Contact) -> None:
        """Note that it lives."""
        self.known.pop(contact, None)

    def refusing(self) -> set[Contact]:
        """Those that have ended, as it seems."""
        return {contact for contact, absence in self.known.items() if absence.refused}

    def silent(self, now: float) -> set[Contact]:
        """Those that fell silent less than DOUBT seconds ago."""
        return {
            contact for contact, absence in self.known.items() if not absence.refused and now - absence.since < DOUBT
        }
