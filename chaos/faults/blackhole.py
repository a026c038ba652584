"""`blackhole`: A's bytes to B vanish, while connections stay open."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from chaos.links import DirectedOptions, directed_action, directed_effects
from harness.effects import Effect
from harness.records import Action
from harness.selectors import Level
from harness.world import Entry, PlanWorld, SiteMap


class Blackhole:
    """See the module."""

    key = "blackhole"
    summary = "A's bytes to B vanish, connections stay open"
    level: ClassVar[Level] = "link"
    Options = DirectedOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "optional"

    def plan(self, options: DirectedOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`."""
        return [directed_action(options, entry, world, rng, {})]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:
        """See `Fault.effects`."""
        return [*directed_effects(action, world, "blackhole")]
