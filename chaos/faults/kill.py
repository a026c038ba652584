"""`kill`: SIGKILL. The member stays dead unless `restart_after` brings it back, with the same identity, and
with its data only if `keep_data` says so.

Effective if the process table has no such process; ended if it has again.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.observing import Absence
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import PositiveTime, Section, Select
from harness.records import Action


class KillOptions(Section):
    nodes: Select
    restart_after: PositiveTime | None = None
    keep_data: bool = False


class Kill(Absence):
    """See the module."""

    key: ClassVar[str] = "kill"
    summary: ClassVar[str] = "SIGKILL; stays dead unless restart_after"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "refused"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = KillOptions

    def plan(self, options: KillOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action on all selected members."""
        until = None if options.restart_after is None else entry.at_us + options.restart_after
        return [
            Action(
                at_us=entry.at_us,
                until_us=until,
                fault=self.key,
                name=entry.name,
                entry=entry.index,
                targets=world.select_members(options.nodes, entry.at_us, rng),
                options={"keep_data": options.keep_data},
            )
        ]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its targets are dead."""
        return [MemberClaim(name, "dead", keep_data=action.options.get("keep_data", False)) for name in action.targets]
