"""`limit_data`: a connection ends after so many bytes from A to B.

Tolerance: fresh connections try to echo more than that, by a half and 1 KiB. Effective on a link if the connection ends before
all is answered, with no more than the limit having come back where answers are what is limited; ended if all is answered.
Above 16 MiB nothing can be said.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import BaseModel, Field

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.through import ALLOWANCE, ThroughLinks
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import Size
from harness.records import Action
from harness.transfers import Transfer

SEEN = 2**24  # bytes; a larger limit is not tried
SPEED = 10e6  # bytes a second that a link carries at least


class LimitDataOptions(Ends):
    """The limit of each connection, in bytes."""

    bytes_: Size = Field(alias="bytes")


class LimitData(ThroughLinks):
    """See the module."""

    key: ClassVar[str] = "limit_data"
    summary: ClassVar[str] = "a connection ends after so many bytes"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "bytes"
    Options: ClassVar[type[BaseModel]] = LimitDataOptions

    def plan(self, options: LimitDataOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {"bytes": options.bytes_})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """The limit on every link from A to B."""
        return list(effects_between(action, topology, "limit_data", {"bytes": action.options["bytes"]}))

    def echo_size(self, action: Action) -> int:
        """More than may pass."""
        limit = min(SEEN, int(action.options["bytes"]))
        return limit + limit // 2 + 1024

    def patience(self, action: Action) -> float:
        """See `ThroughLinks.patience`."""
        return ALLOWANCE + self.echo_size(action) / SPEED

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        """See the module. Both ways, the whole echo does not come back."""
        if action.options["bytes"] > SEEN:
            return None
        return seen.ending in ("closed", "reset") and seen.received <= action.options["bytes"]
