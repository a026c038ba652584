"""`reset`: connections from A to B are reset: live ones are closed first, new ones reset ``after`` their first bytes.

Tolerance: effective if each fresh connection through a sampled link ends in a reset, no earlier than ``after`` - 5 ms; ended if
each is answered.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.observing import DELAY_SLACK
from chaos.through import ALLOWANCE, ThroughLinks
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import Time, whole_ms
from harness.records import Action
from harness.transfers import Transfer


class ResetOptions(Ends):
    """``after`` is rounded up to whole ms."""

    after: Time = 0


class Reset(ThroughLinks):
    """See the module."""

    whole_connection = True
    key: ClassVar[str] = "reset"
    summary: ClassVar[str] = "connections are reset"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = ResetOptions

    def plan(self, options: ResetOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {"after_ms": whole_ms(options.after)})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """Resets on every link from A to B."""
        return list(effects_between(action, topology, "reset", {"timeout": action.options["after_ms"]}))

    def patience(self, action: Action) -> float:
        """See `ThroughLinks.patience`."""
        return ALLOWANCE + float(action.options["after_ms"]) / 1000

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        """See the module."""
        return seen.ending == "reset" and seen.answered_s >= action.options["after_ms"] / 1000 - DELAY_SLACK
