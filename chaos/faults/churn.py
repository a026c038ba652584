"""`churn`: members leave and come back by sessions and downtimes drawn from distributions; identity is kept.

A plan of kills and restarts, one action for each downtime. The members are chosen once. They have been up for a
while when the fault begins, so their first session is a residual one. A session that would be shorter than a node
takes to start, and 200 ms, is lengthened. All members are back at the end: the last downtime is cut there, and none
begins in the last half second. Draws by which nobody would leave at all are drawn again, DRAWS times at most: a
churn in which nobody leaves did not happen.

A trace (`chaos/traces.py`) is both the sessions and the downtimes: it is replayed, and no `downtime` stands beside it, or
the same trace. The same bounds hold for what it says.

Effective if the process table has no such process during a downtime; ended if it has again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import ClassVar, Literal

from pydantic import BaseModel, model_validator

from chaos.distributions import OneDistribution
from chaos.observing import Absence
from chaos.traces import Interval, Trace, gaps
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
    downtime: OneDistribution | None = None
    leave: Literal["kill", "stop"] = "kill"
    keep_data: bool = False

    @model_validator(mode="after")
    def _trace_or_both(self) -> ChurnOptions:
        if self.session.trace is not None:
            if self.downtime is not None and self.downtime.trace != self.session.trace:
                raise ValueError("`downtime`: a trace of sessions says when nodes are away, too; none is expected")
        elif self.downtime is None:
            raise ValueError("`downtime` is missing: how long nodes are away")
        elif self.downtime.trace is not None:
            raise ValueError("`downtime`: a trace is expected under `session`, and is replayed as a whole")
        return self


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
        if options.session.trace is not None:
            return self._replayed(options, options.session.trace, entry, members)
        draws = (self._drawn(options, entry, members, rng) for _ in range(DRAWS))
        return next((actions for actions in draws if actions), [])

    def _drawn(self, options: ChurnOptions, entry: Entry, members: Sequence[str], rng: Random) -> list[Action]:
        assert entry.until_us is not None
        return [
            self._action(options, entry, member, away)
            for member in members
            for away in downtimes(options, entry.at_us, entry.until_us, rng)
        ]

    def _replayed(self, options: ChurnOptions, trace: Trace, entry: Entry, members: Sequence[str]) -> list[Action]:
        assert entry.until_us is not None
        length = entry.until_us - entry.at_us
        return [
            self._action(options, entry, member, (entry.at_us + left, entry.at_us + back))
            for member, sessions in trace.assigned(members).items()
            for left, back in bounded(gaps(sessions, length), length)
        ]

    def _action(self, options: ChurnOptions, entry: Entry, member: str, away: Interval) -> Action:
        return Action(
            at_us=away[0],
            until_us=away[1],
            fault=self.key,
            name=entry.name,
            entry=entry.index,
            targets=[member],
            options={"leave": options.leave, "keep_data": options.keep_data},
        )

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its member is dead."""
        graceful = action.options["leave"] == "stop"
        keep = action.options.get("keep_data", False)
        return [MemberClaim(name, "dead", graceful=graceful, keep_data=keep) for name in action.targets]


def downtimes(options: ChurnOptions, begin: int, end: int, rng: Random) -> Iterator[Interval]:
    """When one member leaves and is back, in µs, between ``begin`` and ``end``."""
    assert options.downtime is not None
    left = begin + options.session.chosen.residual(rng)
    while left < end - LAST_LEAVE:
        back = left + max(SHORTEST_DOWNTIME, options.downtime.chosen.draw(rng))
        yield left, min(back, end)
        left = back + max(SHORTEST_SESSION, options.session.chosen.draw(rng))


def bounded(away: Sequence[Interval], end: int) -> Iterator[Interval]:
    """Downtimes as they can be played: none too short, none too soon after another, none at the very end."""
    free = 0
    for left, back in away:
        begin = max(left, free)
        until = min(max(back, begin + SHORTEST_DOWNTIME), end)
        if begin < end - LAST_LEAVE:
            yield begin, until
            free = until + SHORTEST_SESSION
