"""`restart`: killed and started again at once, with the same identity, and with its data unless `keep_data` says no.

Effective if one more of its lives has ended than before; ended if its process runs again.
"""

from __future__ import annotations

import time
from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.membership import member_action
from chaos.observing import POLL, Absence
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.options import Section, Select
from harness.records import Action

DOWN = 200_000  # µs between the kill and the start, so that the others' connections to it break


class RestartOptions(Section):
    nodes: Select
    keep_data: bool = True


class Restart(Absence):
    """See the module."""

    key: ClassVar[str] = "restart"
    summary: ClassVar[str] = "killed and started again, same identity"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "refused"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = RestartOptions

    def plan(self, options: RestartOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action on all selected members."""
        targets = world.select_members(options.nodes, entry.at_us, rng)
        return [member_action(self.key, entry, targets, until_us=entry.at_us + DOWN, keep_data=options.keep_data)]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its targets are dead."""
        return [MemberClaim(name, "dead", keep_data=action.options["keep_data"]) for name in action.targets]

    def measure_before(self, action: Action, probe: Probe) -> dict[str, int]:  # type: ignore[override]
        """How many lives of each have ended."""
        return {name: len(probe.exits(name)) for name in action.targets}

    def observe(self, action: Action, probe: Probe, before: dict[str, int]) -> Observation:  # type: ignore[override]
        """It may live again by now: what counts is that a life has ended."""
        while True:
            ended = {name: probe.exits(name)[before[name] :] for name in action.targets}
            targets: dict[str, bool | None] = {name: bool(exits) for name, exits in ended.items()}
            if all(targets.values()) or probe.remaining() <= POLL:
                return Observation(targets, {"ended": {name: exits[-1:] for name, exits in ended.items()}})
            time.sleep(POLL)  # the process table cannot be awaited, only looked at
