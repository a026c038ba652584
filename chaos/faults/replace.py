"""`replace`: members are killed for good, and as many new ones with new identities join.

Effective if the old processes are gone, the new ones run, and each new one answers a ping from another node.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.join import Arrival
from chaos.faults.membership import MembersOnly, member_action
from chaos.observing import until_state
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.records import Action


class Replace(Arrival):
    """See the module."""

    key: ClassVar[str] = "replace"
    summary: ClassVar[str] = "killed; a new node with a new identity joins"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "refused"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = MembersOnly

    def plan(self, options: MembersOnly, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action; its targets are the old members, and then the new ones."""
        old = world.select_members(options.nodes, entry.at_us, rng)
        new = world.recruit(len(old))
        return [member_action(self.key, entry, [*old, *new], old=old, new=new)]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """The old are dead, the new are there."""
        dead: list[Effect] = [MemberClaim(name, "dead") for name in action.options["old"]]
        return dead + [MemberClaim(name, "running") for name in action.options["new"]]

    def observe(self, action: Action, probe: Probe, before: object) -> Observation:
        """See the module."""
        gone = until_state(action, probe, "dead", names=action.options["old"])
        came = self.arrived(action.options["new"], probe)
        return Observation({**gone.targets, **came.targets}, {**gone.observed, **came.observed})
