"""`latency`: every byte from A to B is late.

Tolerance: effective if each source's median one-way delay, less the one before, is at least latency - jitter - 5 ms
(strict: a busy machine only adds), and its least is at most twice latency + jitter and 100 ms more. Ended within 25
ms or a quarter of what was asked. With a toxicity below 100%, fresh connections are looked at instead (`chaos/through.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.observing import DELAY_SLACK, Delay, asked_delay, milliseconds
from chaos.through import ALLOWANCE, Either, OfAnother, median_ms
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import PositiveTime, Time, whole_ms
from harness.quantities import time_text
from harness.records import Action
from harness.transfers import Transfer


class LatencyOptions(Ends):
    """Times are rounded up to whole ms."""

    latency: PositiveTime
    jitter: Time = 0

    @model_validator(mode="after")
    def _jitter_fits(self) -> LatencyOptions:
        if self.jitter > self.latency:
            raise ValueError(f"`jitter`: at most the latency, {time_text(self.latency)}, is expected")
        return self


class _Some(OfAnother):
    """Latency on a share of the connections: a fresh one is answered that much later, or is not hit."""

    def patience(self, action: Action) -> float:
        return ALLOWANCE + 2 * sum(asked_delay(action))

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        latency, jitter = asked_delay(action)
        return seen.answered_s - before.answered_s >= latency - jitter - DELAY_SLACK

    def measured(self, seen: Sequence[Transfer], before: Sequence[Transfer]) -> dict[str, Any]:
        return {
            "answered_ms": median_ms([each.answered_s for each in seen]),
            "most_ms": milliseconds(max(each.answered_s for each in seen)),
            "before_ms": median_ms([each.answered_s for each in before]),
        }


class Latency(Either, Delay):
    """See the module."""

    key: ClassVar[str] = "latency"
    summary: ClassVar[str] = "every byte from A to B is late"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "latency"
    Options: ClassVar[type[BaseModel]] = LatencyOptions
    some = _Some

    def plan(self, options: LatencyOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        extra = {"latency_ms": whole_ms(options.latency), "jitter_ms": whole_ms(options.jitter)}
        return [link_action(self.key, options, entry, world, rng, extra)]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Latency on every link from A to B."""
        attributes = {"latency": action.options["latency_ms"], "jitter": action.options["jitter_ms"]}
        return list(effects_between(action, topology, "latency", attributes))
