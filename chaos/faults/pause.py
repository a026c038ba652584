"""`pause`: a member is frozen; its connections stay open, and nobody hears from it.

Effective if the machine says that it is stopped, and it answers no ping of another node; ended if it runs and is answered by,
or unknown where other faults act on it.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.membership import MembersOnly, member_action
from chaos.observing import Absence, until_shown, until_state
from harness.effects import Effect, MemberClaim
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.records import Action

ANSWER = 0.5  # s; a node that runs answers in far less


class Pause(Absence):
    """See the module."""

    key: ClassVar[str] = "pause"
    summary: ClassVar[str] = "frozen, connections stay open"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = MembersOnly

    def plan(self, options: MembersOnly, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action on all selected members."""
        return [member_action(self.key, entry, world.select_members(options.nodes, entry.at_us, rng))]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its targets are frozen."""
        return [MemberClaim(name, "paused") for name in action.targets]

    def observe(self, action: Action, probe: Probe, before: object) -> Observation:
        """By the process table first, then by a ping to each."""
        stopped = until_state(action, probe, "paused")
        if stopped.effective is False:
            return stopped
        asked = [name for name in probe.topology.names if name not in action.targets]
        asker = next((name for name in asked if probe.process_state(name) == "running"), None)
        if asker is None:
            return stopped
        pings = probe.ping(
            [(asker, name) for name in action.targets], timeout=min(ANSWER, max(0.05, probe.remaining()))
        )
        mute = {ping.destination: ping.outcome != "ok" for ping in pings}
        targets = {name: seen and mute[name] for name, seen in stopped.targets.items()}
        return Observation(targets, {**stopped.observed, "answering": [name for name in mute if not mute[name]]})

    def observe_healed(self, action: Action, probe: Probe, before: object) -> Observation:
        """By the process table."""
        return until_shown(probe, lambda: until_state(action, probe, "running", ignore_held=True))
