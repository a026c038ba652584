"""`slicer`: bytes come in small pieces.

Tolerance: fresh connections echo 4 KiB, or 64 pieces where those are more. Effective on a link if the answer takes at least
half of pieces x delay longer than before, or, without a delay that can be felt, comes in at least four times as many reads as
before (pieces may arrive together, so the number of reads is a floor). Ended if neither is so.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.through import ALLOWANCE, ThroughLinks, median_ms
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.options import Size, Time
from harness.records import Action
from harness.transfers import Transfer

PIECES, BYTES, MOST = 64, 4096, 2**20  # of one echo: at least so many of either, at most so many bytes
FELT = 0.02  # s that all delays together must take to be looked for
LONGEST = 2.0  # s of delays that an echo is to take at most
READS = 4  # times as many as before


class SlicerOptions(Ends):
    """Sizes in bytes; the delay between two pieces is kept in µs."""

    average_size: Size
    size_variation: Size = 0
    delay: Time = 0

    @model_validator(mode="after")
    def _fits(self) -> SlicerOptions:
        if self.average_size < 1:
            raise ValueError("`average_size`: 1B at least is expected")
        if self.size_variation >= self.average_size:
            raise ValueError(f"`size_variation`: less than the average size, {self.average_size}B, is expected")
        return self


class Slicer(ThroughLinks):
    """See the module."""

    key: ClassVar[str] = "slicer"
    summary: ClassVar[str] = "bytes come in small pieces"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "average_size"
    Options: ClassVar[type[BaseModel]] = SlicerOptions

    def plan(self, options: SlicerOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        sizes = {"average_size": options.average_size, "size_variation": options.size_variation}
        return [link_action(self.key, options, entry, world, rng, {**sizes, "delay_us": options.delay})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """A slicer on every link from A to B."""
        asked = action.options
        attributes = {name: asked[name] for name in ("average_size", "size_variation")}
        return list(effects_between(action, topology, "slicer", {**attributes, "delay": asked["delay_us"]}))

    def echo_size(self, action: Action) -> int:
        """PIECES pieces, fewer where their delays would take too long."""
        piece, delay = action.options["average_size"], action.options["delay_us"] / 1e6
        wanted: int = min(MOST, max(BYTES, PIECES * piece))
        return min(wanted, max(2 * piece, round(LONGEST / delay) * piece)) if delay else wanted

    def patience(self, action: Action) -> float:
        """See `ThroughLinks.patience`."""
        return ALLOWANCE + 3 * self._delays(action)

    def hit(self, action: Action, seen: Transfer, before: Transfer) -> bool | None:
        """See the module."""
        delays = self._delays(action)
        if seen.ending not in ("answered", "silent"):
            return None
        if delays >= FELT:
            return seen.ending == "silent" or seen.answered_s - before.answered_s >= delays / 2
        return seen.ending == "answered" and seen.reads >= READS * before.reads

    def measured(self, seen: Sequence[Transfer], before: Sequence[Transfer]) -> dict[str, Any]:
        """See `ThroughLinks.measured`."""
        reads = sorted(each.reads for each in seen)
        return {
            "answered_ms": median_ms([each.answered_s for each in seen]),
            "before_ms": median_ms([each.answered_s for each in before]),
            "reads": reads[len(reads) // 2],
            "bytes": max(each.received for each in seen),
        }

    def _delays(self, action: Action) -> float:
        """Seconds that the delays between the pieces of one echo take together."""
        pieces: float = self.echo_size(action) / action.options["average_size"]
        return pieces * float(action.options["delay_us"]) / 1e6
