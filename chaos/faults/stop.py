"""`stop`: SIGTERM. The member hands its records over, leaves, and exits with 0.

Effective if its process is gone and its exit code was 0. One that had to be killed, since it ignored the signal for 5 s, or that
exits with anything else, did not leave: the fault had no effect on it, and the journal says how it ended.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.membership import MembersOnly, member_action
from chaos.observing import Absence, until_state
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.records import Action

LEFT = "exit code 0"


class Stop(Absence):
    """See the module."""

    key: ClassVar[str] = "stop"
    summary: ClassVar[str] = "SIGTERM: hands its records over, leaves, exit 0"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "refused"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = MembersOnly

    def plan(self, options: MembersOnly, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action on all selected members."""
        return [member_action(self.key, entry, world.select_members(options.nodes, entry.at_us, rng))]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its targets leave."""
        return [MemberClaim(name, "dead", graceful=True) for name in action.targets]

    def observe(self, action: Action, probe: Probe, before: object) -> Observation:
        """The process table, and how each process ended."""
        gone = until_state(action, probe, "dead", settled=lambda name: bool(probe.exits(name)))
        how = {name: (probe.exits(name) or ["still running"])[-1] for name in action.targets}
        targets = {name: seen and how[name] == LEFT for name, seen in gone.targets.items()}
        return Observation(targets, {**gone.observed, "ended": how})
