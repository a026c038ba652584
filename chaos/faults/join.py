"""`join`: so many new nodes at once (a flash crowd), or spread evenly `over` a time.

The new nodes are planned with the others: their names, identities and sites follow from the seed, and their links exist before
they start. A joiner is in site i mod S, and lives with whatever faults are on that site's links. Effective if its process runs
and it answers a ping from another node.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.membership import Amount, how_many, member_action
from chaos.observing import PING_TIMEOUT, POLL, Absence, until_shown, until_state
from harness.effects import Effect, MemberClaim
from harness.faults import CannotPlan, Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.options import Section, Time
from harness.records import Action


class JoinOptions(Section):
    nodes: Amount
    over: Time = 0


class Arrival(Absence):
    """Mixin for faults that bring new members in."""

    def arrived(self, names: Sequence[str], probe: Probe) -> Observation:
        """Whether each runs and answers a ping from a node that was there; unknown while other faults act on that pair."""
        return until_shown(probe, lambda: self._answering(names, probe))

    def observe_healed(self, action: Action, probe: Probe, before: object) -> Observation:
        """By hand it can be taken back: those who came are gone again, those who were ended are there."""
        new = action.options.get("new", action.targets)
        gone = until_state(action, probe, "dead", names=new)
        back = until_state(action, probe, "running", ignore_held=True, names=action.options.get("old", []))
        return Observation({**gone.targets, **back.targets}, gone.observed)

    @staticmethod
    def _answering(names: Sequence[str], probe: Probe) -> Observation:
        states = {name: probe.process_state(name) for name in names}
        asker = next((n for n in probe.topology.names if n not in names and probe.process_state(n) == "running"), None)
        pairs = [] if asker is None else probe.undisturbed([(asker, name) for name in names])
        pings = probe.ping(pairs, timeout=min(PING_TIMEOUT, max(POLL, probe.remaining())))
        answers = {ping.destination: ping.outcome == "ok" for ping in pings}
        targets: dict[str, bool | None] = {name: state == "running" for name, state in states.items()}
        targets |= {name: bool(targets[name]) and answered for name, answered in answers.items()}
        return Observation(targets, {"joined": sum(bool(seen) for seen in targets.values()), "of": len(names)})


class Join(Arrival):
    """See the module."""

    key: ClassVar[str] = "join"
    summary: ClassVar[str] = "so many new nodes at once (flash crowd)"
    level: ClassVar[Level] = "member"
    lasts: ClassVar[ForRule] = "refused"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = JoinOptions

    def plan(self, options: JoinOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action for all; with `over`, one for each at its time."""
        new = world.recruit(how_many(options.nodes, len(world.members_at(entry.at_us))))
        if not options.over:
            return [member_action(self.key, entry, new)]
        times = [entry.at_us + options.over * number // max(1, len(new) - 1) for number in range(len(new))]
        if world.duration_us is not None and times[-1] >= world.duration_us:
            raise CannotPlan("`over`: the last one would join after the end of the experiment")
        return [
            member_action(self.key, Entry(entry.index, entry.name, at, None), [name])
            for at, name in zip(times, new, strict=True)
        ]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Its targets are there."""
        return [MemberClaim(name, "running") for name in action.targets]

    def observe(self, action: Action, probe: Probe, before: object) -> Observation:
        """See the module."""
        return self.arrived(action.targets, probe)
