"""`refuse`: A cannot open or use connections to B; those that it had are closed.

It works on whole connections, so that answers on them are gone as well; what B sends on its own connections to A
still arrives. Tolerance: effective if each sampled ping of A to B is refused or cut off, and none arrives. Ended if
all answer within 5 s.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel, field_validator

from chaos.faults.ends import ALL_CONNECTIONS, Ends, effects_between, link_action
from chaos.observing import Refusal
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.records import Action


class RefuseOptions(Ends):
    """A proxy is switched for all of its connections, so the toxicity is whole."""

    @field_validator("toxicity")
    @classmethod
    def _all(cls, value: int) -> int:
        if value != ALL_CONNECTIONS:
            raise ValueError("a refusal closes the whole link: 100% is expected (`blackhole` can hit a share)")
        return value


class Refuse(Refusal):
    """See the module."""

    key: ClassVar[str] = "refuse"
    summary: ClassVar[str] = "A cannot open or use connections to B"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = RefuseOptions

    def plan(self, options: RefuseOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Refusal on every link from A to B."""
        return list(effects_between(action, topology, "refuse", {}))
