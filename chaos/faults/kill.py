"""`kill`: SIGKILL; the member stays dead unless `restart_after` brings it back, under the same identity."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from harness.effects import Effect, MemberClaim
from harness.faults import FaultOptions
from harness.fields import Flag, PositiveDuration, SelectorField
from harness.records import Action
from harness.selectors import Level
from harness.world import Entry, PlanWorld, SiteMap


class KillOptions(FaultOptions):
    """`keep_data`: whether a restart finds the member's records again."""

    nodes: SelectorField
    restart_after: PositiveDuration | None = None
    keep_data: Flag = False

    @classmethod
    def lasts_us(cls, given: Mapping[str, Any]) -> int:
        """Until the restart, if there is one."""
        return given.get("restart_after") or 0


class Kill:
    """See the module."""

    key = "kill"
    summary = "SIGKILL; stays dead unless restart_after"
    level: ClassVar[Level] = "member"
    Options = KillOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "refused"

    def plan(self, options: KillOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`."""
        restart_after = options.restart_after
        return [
            Action(
                at_us=entry.at_us,
                until_us=None if restart_after is None else entry.at_us + restart_after,
                fault=entry.fault,
                name=entry.name,
                entry=entry.index,
                targets=world.pick_members(options.nodes, entry.at_us, rng),
                options={"keep_data": options.keep_data},
            )
        ]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:  # noqa: ARG002 - the protocol's
        """See `Fault.effects`."""
        keep = action.options["keep_data"]
        return [MemberClaim(name, "dead", keep_data=keep) for name in action.targets]
