"""`blackhole`: A's bytes to B vanish, connections stay open.

Tolerance: effective if no sampled ping of A arrives at B, while B's pings arrive at A (unless that is cut as well).
Ended if all sampled pairs answer within 5 s: connections that were held are closed by the heal, and nodes
reconnect. With a toxicity below 100%, fresh connections are looked at instead (`chaos/through.py`).
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.observing import PING_TIMEOUT, Silence
from chaos.through import Either, OfAnother
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.records import Action
from harness.transfers import Transfer


class _Some(OfAnother):
    """A black hole for a share of the connections: a fresh one is silent, or is not hit."""

    def patience(self, action: Action) -> float:
        return PING_TIMEOUT

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        return seen.ending == "silent"


class Blackhole(Either, Silence):
    """See the module."""

    key: ClassVar[str] = "blackhole"
    summary: ClassVar[str] = "A's bytes to B vanish, connections stay open"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = None
    Options: ClassVar[type[BaseModel]] = Ends
    some = _Some

    def plan(self, options: Ends, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """A black hole on every link from A to B."""
        return list(effects_between(action, topology, "blackhole", {}))
