"""`slow_close`: closing takes long: the end of a connection travels from A to B late.

Tolerance: fresh connections are answered and then closed for writing. Effective on a link if the other end's close comes at
least delay - 5 ms after that; ended if it comes before half of the delay, or within 50 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import BaseModel

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.observing import DELAY_SLACK, milliseconds
from chaos.through import ALLOWANCE, ThroughLinks, median_ms
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import PositiveTime, whole_ms
from harness.records import Action
from harness.transfers import Transfer


class SlowCloseOptions(Ends):
    """The delay is rounded up to whole ms."""

    delay: PositiveTime


class SlowClose(ThroughLinks):
    """See the module."""

    key: ClassVar[str] = "slow_close"
    summary: ClassVar[str] = "closing takes long"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "delay"
    Options: ClassVar[type[BaseModel]] = SlowCloseOptions

    def plan(self, options: SlowCloseOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {"delay_ms": whole_ms(options.delay)})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """A late close on every link from A to B."""
        return list(effects_between(action, topology, "slow_close", {"delay": action.options["delay_ms"]}))

    def patience(self, action: Action) -> float:
        """See `ThroughLinks.patience`."""
        return ALLOWANCE + 2 * float(action.options["delay_ms"]) / 1000

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        """See the module."""
        if seen.ending != "answered":
            return None
        return seen.closed_s is None or seen.closed_s >= action.options["delay_ms"] / 1000 - DELAY_SLACK

    def measured(self, seen: Sequence[Transfer], before: Sequence[Transfer]) -> dict[str, Any]:
        """See `ThroughLinks.measured`."""
        closed = [each.closed_s for each in seen if each.closed_s is not None]
        spread = {"least_ms": milliseconds(min(closed)), "most_ms": milliseconds(max(closed))} if closed else {}
        earlier = [each.closed_s for each in before if each.closed_s is not None]
        return {"closed_ms": median_ms(closed), **spread, "before_ms": median_ms(earlier)}
