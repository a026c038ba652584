"""How faults see whether they took effect: what they may ask of the cluster, and what they answer.

A fault observes from outside its own code path: node-to-node pings and the machine's process table, never the toxics that
the reconciler has just written.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.backends import ProcessState
from harness.links import Topology
from harness.records import Action
from harness.targets import Ping
from harness.transfers import Transfer


@dataclass(frozen=True)
class Observation:
    """What was measured. ``targets`` says for each target whether the effect was there: None where it cannot be known.

    ``observed`` is for the journal and the report: short, with units in its names.
    """

    targets: dict[str, bool | None]
    observed: dict[str, Any] = field(default_factory=dict)

    @property
    def effective(self) -> bool | None:
        """False if any target was not affected, None if nothing is known of any, else True."""
        if any(seen is False for seen in self.targets.values()):
            return False
        return True if any(self.targets.values()) else None


class Probe(Protocol):
    """What a fault may ask while it observes one action."""

    topology: Topology
    rng: random.Random  # seeded by the run and the action: the sample of pairs is the same in a replay

    def ping(self, pairs: Sequence[tuple[str, str]], *, timeout: float, padding: int = 0) -> list[Ping]:
        """Node-to-node pings, side by side; ``padding`` bytes travel with each, both ways."""
        ...

    def transfers(self, links: Sequence[tuple[str, str]], *, size: int, timeout: float) -> list[Transfer]:
        """Fresh connections of the harness's own through links (source site, destination node), each echoing ``size`` bytes."""
        ...

    def exits(self, name: str) -> list[str]:
        """How each past life of a member ended, as the machine told it (`exit code 0`), oldest first."""
        ...

    def process_state(self, name: str) -> ProcessState:
        """What the machine says about a member."""
        ...

    def undisturbed(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those pairs on which nothing else acts now: no other fault's effect, and no node that is down.

        A member by itself is the pair (name, name); then only other faults' claims on it matter.
        """
        ...

    def remaining(self) -> float:
        """Seconds that are left for this observation."""
        ...


class Observer(Protocol):
    """The part of a fault that measures. ``before`` is what `measure_before` returned."""

    def measure_before(self, action: Action, probe: Probe) -> Any:
        """Measure what the effect is compared with, shortly before it begins."""
        ...

    def observe(self, action: Action, probe: Probe, before: Any) -> Observation:
        """Measure the effect while it is in force."""
        ...

    def observe_healed(self, action: Action, probe: Probe, before: Any) -> Observation:
        """Measure that it has ended. A target is True if it has."""
        ...
