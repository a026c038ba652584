"""`refuse`: A cannot open or use connections to B, both ways on them; all of them, never a share."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import field_validator

from chaos.links import ALL, DirectedOptions, directed_action, directed_effects
from harness.effects import Effect
from harness.fields import UnfitValueError
from harness.records import Action
from harness.selectors import Level
from harness.world import Entry, PlanWorld, SiteMap


class RefuseOptions(DirectedOptions):
    """`from`, `to`; `toxicity` can only be 100%."""

    @field_validator("toxicity")
    @classmethod
    def _all_connections(cls, toxicity: int) -> int:
        if toxicity != ALL:
            raise UnfitValueError(
                "a refusal closes the whole link, so it is 100% (blackhole can hit a share of connections)"
            )
        return toxicity


class Refuse:
    """See the module."""

    key = "refuse"
    summary = "A cannot open or use connections to B"
    level: ClassVar[Level] = "link"
    Options = RefuseOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "optional"

    def plan(self, options: RefuseOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`."""
        return [directed_action(options, entry, world, rng, {})]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:
        """See `Fault.effects`."""
        return [*directed_effects(action, world, "refuse")]
