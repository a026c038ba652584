"""`churn`: members leave and come back by sessions and downtimes drawn from distributions; identity is kept.

A plan of kills and restarts, one action for each downtime. The members are chosen once. They have been up for a
while when the fault begins, so their first session is a residual one. A session that would be shorter than a node
takes to start, and 200 ms, is lengthened. All members are back at the end: the last downtime is cut there, and none
begins in the last half second. Draws by which nobody would leave at all are drawn again, DRAWS times at most: a
churn in which nobody leaves did not happen.

Effective if the process table has no such process during a downtime; ended if it has again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import ClassVar, Literal

from pydantic import BaseModel

from chaos.distributions import OneDistribution
from chaos.observing import Absence
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import Section, Select
from harness.records import Action

START_UP = 800_000  # µs that a node takes to serve, generously
SHORTEST_SESSION = 200_000 + START_UP  # µs
SHORTEST_DOWNTIME = 300_000  # µs
LAST_LEAVE = 500_000  # µs before the end
DRAWS = 100


class ChurnOptions(Section):
    nodes: Select
    session: OneDistribution
    downtime: OneDistribution
    leave: Literal["kill", "stop"] = "kill"
    keep_data: bool = False


class Churn(Absence):
    """See the module."""

    key: ClassVar[str] = "churn"
    summary: ClassVar[str] = "members leave and come back, identity kept"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "required"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = ChurnOptions

    def plan(self, options: ChurnOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """An action for each downtime of each member; none if nobody ever leaves."""
        members = world.select_members(options.nodes, entry.at_us, rng)
        draws = (self._drawn(options, entry, members, rng) for _ in range(DRAWS))
        return next((actions for actions in draws if actions), [])

    def _drawn(self, options: ChurnOptions, entry: Entry, members: Sequence[str], rng: Random) -> list[Action]:
        assert entry.until_us is not None
        return [
            Action(
                at_us=left,
                until_us=back,
                fault=self.key,
                name=entry.name,
                entry=entry.index,
                targets=[member],
                options={"leave": options.leave, "keep_data": options.keep_data},
            )
            for member in members
            for left, back in downtimes(options, entry.at_us, entry.until_us, rng)
        ]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its member is dead."""
        graceful = action.options["leave"] == "stop"
        keep = action.options.get("keep_data", False)
        return [MemberClaim(name, "dead", graceful=graceful, keep_data=keep) for name in action.targets]


def downtimes(options: ChurnOptions, begin: int, end: int, rng: Random) -> Iterator[tuple[int, int]]:
    """When one member leaves and is back, in µs, between ``begin`` and ``end``."""
    left = begin + options.session.chosen.residual(rng)
    while left < end - LAST_LEAVE:
        back = left + max(SHORTEST_DOWNTIME, options.downtime.chosen.draw(rng))
        yield left, min(back, end)
        left = back + max(SHORTEST_SESSION, options.session.chosen.draw(rng))
