"""`latency`: every byte from A to B is late."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from chaos.links import DirectedOptions, directed_action, directed_effects
from harness.effects import Effect
from harness.fields import Milliseconds, PositiveMilliseconds, UnfitValueError
from harness.records import Action
from harness.selectors import Level
from harness.world import Entry, PlanWorld, SiteMap


class LatencyOptions(DirectedOptions):
    """One-way delays in whole ms; each chunk is late by latency ± jitter."""

    shorthand: ClassVar[str] = "latency"

    latency: PositiveMilliseconds
    jitter: Milliseconds = 0

    @field_validator("jitter")
    @classmethod
    def _at_most_latency(cls, jitter: int, info: ValidationInfo) -> int:
        latency = info.data.get("latency", jitter)
        if jitter > latency:
            raise UnfitValueError(f"{jitter}ms is more than the latency, {latency}ms: a delay cannot be negative")
        return jitter


class Latency:
    """See the module."""

    key = "latency"
    summary = "every byte from A to B is late"
    level: ClassVar[Level] = "link"
    Options = LatencyOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "optional"

    def plan(self, options: LatencyOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`."""
        settings = {"latency_ms": options.latency, "jitter_ms": options.jitter}
        return [directed_action(options, entry, world, rng, settings)]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:
        """See `Fault.effects`."""
        delay = {"latency": action.options["latency_ms"], "jitter": action.options["jitter_ms"]}
        return [*directed_effects(action, world, "latency", delay)]
