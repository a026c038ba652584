"""`bandwidth`: at most so much from A to B, on each connection.

Tolerance: pings padded to what the link carries in 300 ms (1 MiB at most) go from node to node. Effective if each source's
median one-way time, less the one before, is at least 70% of what the padding takes at that rate: Toxiproxy lets a
first piece through at once, and a busy machine only adds. Ended if the least is under half of it again. At rates that carry
1 MiB in less than 50 ms nothing can be said.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from random import Random
from typing import ClassVar

from pydantic import BaseModel, field_validator

from chaos.faults.ends import Ends, effects_between, link_action
from chaos.observing import Delays, affected_pairs, compared, one_way, sample, unknown, until_shown
from chaos.through import ALL
from harness.effects import Effect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.options import Bandwidth as Rate
from harness.records import Action

ASKED = 0.3  # s that the padding is to take
LEAST, MOST = 2_000, 2**20  # bytes of padding
UNSEEN = 0.05  # s; what takes less cannot be told from nothing
SHOWN, ENDED = 0.7, 0.5  # shares of the time that is asked
PATIENCE = 5.0  # s a ping


class BandwidthOptions(Ends):
    """Whole KB/s, as Toxiproxy takes them."""

    rate: Rate

    @field_validator("rate")
    @classmethod
    def _whole(cls, value: int) -> int:
        if value < 1000 or value % 1000:
            raise ValueError("whole KB/s, 1KB/s at least, are expected")
        return value


class Bandwidth:
    """See the module."""

    key: ClassVar[str] = "bandwidth"
    summary: ClassVar[str] = "at most so much from A to B"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "rate"
    Options: ClassVar[type[BaseModel]] = BandwidthOptions

    def plan(self, options: BandwidthOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action."""
        return [link_action(self.key, options, entry, world, rng, {"rate_kb_s": options.rate // 1000})]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """That bandwidth on every link from A to B."""
        return list(effects_between(action, topology, "bandwidth", {"rate": action.options["rate_kb_s"]}))

    def measure_before(self, action: Action, probe: Probe) -> Delays:
        """Least one-way times of padded pings, of a sample of the affected pairs."""
        pairs = sample(affected_pairs(self, action, probe), probe)
        seen = one_way(pairs, probe, padding=padding(action), timeout=PATIENCE)
        return Delays({pair: min(times) for pair, times in seen.items()})

    def observe(self, action: Action, probe: Probe, before: Delays) -> Observation:
        """See the module."""
        if asked(action) < UNSEEN:
            return unknown(action, "the rate is too high to be told from none")
        if action.options["toxicity"] < ALL:
            return unknown(action, "the nodes' own connections need not be among those that it hits")
        floor = SHOWN * asked(action)
        return until_shown(probe, lambda: _look(action, probe, before, lambda more: statistics.median(more) >= floor))

    def observe_healed(self, action: Action, probe: Probe, before: Delays) -> Observation:
        """See the module."""
        ceiling = max(UNSEEN, ENDED * asked(action))
        return until_shown(probe, lambda: _look(action, probe, before, lambda more: min(more) <= ceiling))


def padding(action: Action) -> int:
    """Bytes that travel with each ping."""
    return max(LEAST, min(MOST, round(float(action.options["rate_kb_s"]) * 1000 * ASKED)))


def asked(action: Action) -> float:
    """Seconds that the padding takes at the rate."""
    return padding(action) / (float(action.options["rate_kb_s"]) * 1000)


def _look(action: Action, probe: Probe, before: Delays, shown: Callable[[list[float]], bool]) -> Observation:
    seen = compared(action, probe, before, shown, padding=padding(action), timeout=PATIENCE)
    taken = seen.observed.get("delay_ms")
    rate = {"rate_kb_s": round(padding(action) / taken)} if taken else {}
    return Observation(seen.targets, {**rate, "padding": padding(action), **seen.observed})
