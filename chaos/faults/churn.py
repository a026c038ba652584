"""`churn`: members leave and come back, identity kept.

Who takes part is picked once, at the start, among those that run then. Each member alternates between sessions and
downtimes of its own; each downtime is one action. Rules:

- The first session is a residual one (see `distributions.py`): the member was up before the churn began.
- Later sessions are at least SHORTEST_SESSION + START_UP long, counted from the restart, and downtimes at least
  SHORTEST_DOWNTIME: what is shorter could not be told from a member that never changed.
- All are back at the end: the last downtime is cut, its restart is issued at the entry's end at the latest; a member
  that would leave too late for a downtime stays.
- A churn in which nobody leaves did not happen. Such draws are thrown away and drawn again, DRAWS times at most; so
  what comes out is distributed as asked, on the condition that somebody leaves.
- A member that something else has killed meanwhile stays dead as long as anything wants it so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from chaos.distributions import Distribution, Lengths
from harness.effects import Effect, MemberClaim
from harness.faults import FaultOptions
from harness.fields import Flag, SelectorField, choice
from harness.records import Action
from harness.selectors import Level
from harness.world import Entry, PlanWorld, SiteMap, UnplannableError

SHORTEST_SESSION = 200_000  # µs
START_UP = 300_000  # µs that a member may take until it serves
SHORTEST_DOWNTIME = 300_000  # µs
DRAWS = 100
MOST_ACTIONS = 100_000


class ChurnOptions(FaultOptions):
    """`leave: stop` asks members to leave (SIGTERM); `keep_data`: whether they find their records again."""

    nodes: SelectorField
    session: Lengths
    downtime: Lengths
    leave: Annotated[Literal["kill", "stop"], choice("kill", "stop")] = "kill"
    keep_data: Flag = False


class Churn:
    """See the module."""

    key = "churn"
    summary = "members leave and come back, identity kept"
    level: ClassVar[Level] = "member"
    Options = ChurnOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "required"

    def plan(self, options: ChurnOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`. Options hold the claim: state, graceful, keep_data."""
        members = world.pick_members(options.nodes, entry.at_us, rng)
        session, downtime = options.session.distribution(), options.downtime.distribution()
        claim = {"state": "dead", "graceful": options.leave == "stop", "keep_data": options.keep_data}
        return [
            Action(
                at_us=begin,
                until_us=end,
                fault=entry.fault,
                name=entry.name,
                entry=entry.index,
                targets=[member],
                options=dict(claim),
            )
            for begin, end, member in absences(members, session, downtime, entry, rng)
        ]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:  # noqa: ARG002
        """See `Fault.effects`."""
        graceful, keep = action.options["graceful"], action.options["keep_data"]
        return [MemberClaim(name, "dead", graceful=graceful, keep_data=keep) for name in action.targets]


def absences(
    members: list[str], session: Distribution, downtime: Distribution, entry: Entry, rng: random.Random
) -> list[tuple[int, int, str]]:
    """(leaves, is back, member) for all, by time. Raises UnplannableError if nobody ever leaves, or too many do."""
    for _ in range(DRAWS):
        found: list[tuple[int, int, str]] = []
        for member in members:
            for begin, end in member_absences(session, downtime, entry, rng):
                found.append((begin, end, member))
                if len(found) > MOST_ACTIONS:
                    raise UnplannableError(f"more than {MOST_ACTIONS} departures: lengthen session, or shorten `for`")
        if found:
            return sorted(found, key=lambda absence: (absence[0], members.index(absence[2])))
    raise UnplannableError("with these sessions nobody would ever leave: shorten session, or lengthen `for`")


def member_absences(
    session: Distribution, downtime: Distribution, entry: Entry, rng: random.Random
) -> Iterator[tuple[int, int]]:
    """One member's (leaves, is back) within the entry, in µs since the clock's start."""
    leaves = entry.at_us + microseconds(session.draw_residual(rng))
    while leaves + SHORTEST_DOWNTIME <= entry.until_us:
        away = max(SHORTEST_DOWNTIME, microseconds(downtime.draw(rng)))
        back = min(leaves + away, entry.until_us)
        yield leaves, back
        leaves = back + max(SHORTEST_SESSION + START_UP, microseconds(session.draw(rng)))


def microseconds(length: float) -> int:
    """Seconds, rounded to whole µs; beyond a thousand years all lengths are the same."""
    return round(min(length, 3e10) * 1_000_000)
