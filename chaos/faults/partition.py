"""`partition`: groups of sites that do not hear each other.

By black hole (bytes vanish, connections stay open) or by refusal. Tolerance: effective if no sampled ping crosses
the cut (by refusal: each is refused), while pings inside the groups are answered. Ended if all sampled crossing
pairs answer within 5 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, model_validator

from chaos import topologies
from chaos.observing import Refusal, Silence
from harness.effects import Effect, LinkEffect
from harness.faults import Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.options import Section, Select
from harness.records import Action

DRAWN: dict[str, Callable[[Sequence[str], Random], topologies.Groups]] = {
    "halves": topologies.halves,
    "majority-minority": topologies.majority_minority,
}


class PartitionOptions(Section):
    """``nodes`` belongs to `isolate`: those that are cut off from all others, together."""

    shape: Literal["halves", "majority-minority", "isolate"] = "halves"
    nodes: Select | None = None
    mode: Literal["blackhole", "refuse"] = "blackhole"
    one_way: bool = False

    @model_validator(mode="after")
    def _fits(self) -> PartitionOptions:
        if (self.shape == "isolate") != (self.nodes is not None):
            raise ValueError("`nodes` and the shape `isolate` belong together: whom to cut off")
        if self.one_way and self.mode == "refuse":
            raise ValueError("`one_way` needs the mode `blackhole`: a refused connection is gone in both directions")
        return self


class Partition(Silence):
    """See the module."""

    key: ClassVar[str] = "partition"
    summary: ClassVar[str] = "groups that do not hear each other"
    level: ClassVar[Level] = "link"
    lasts: ClassVar[ForRule] = "required"
    shorthand: ClassVar[str | None] = "shape"
    Options: ClassVar[type[BaseModel]] = PartitionOptions

    def plan(self, options: PartitionOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action; its targets are all sites, group by group in its options."""
        sites = world.sites()
        if options.nodes is not None:
            groups = topologies.split_off(sites, world.select_sites(options.nodes, entry.at_us, rng))
        else:
            groups = DRAWN[options.shape](sites, rng)
        return [
            Action(
                at_us=entry.at_us,
                until_us=entry.until_us,
                fault=self.key,
                name=entry.name,
                entry=entry.index,
                targets=[site for site in sites if any(site in group for group in groups)],
                options={"groups": groups, "mode": options.mode, "one_way": options.one_way},
            )
        ]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """A black hole or a refusal on every link that crosses the cut."""
        pairs = topologies.crossing(action.options["groups"], one_way=action.options["one_way"])
        return [LinkEffect(source, destination, action.options["mode"]) for source, destination in pairs]

    def observe(self: Any, action: Action, probe: Probe, before: None) -> Observation:
        """By refusal, pings must be refused; by black hole, they must vanish."""
        observer = Refusal if action.options["mode"] == "refuse" else Silence
        return observer.observe(_Judged(self, observer), action, probe, before)


class _Judged:
    """A partition's effects, with the judgement of pings that fits its mode."""

    def __init__(self, fault: Partition, observer: type[Silence]) -> None:
        self.effects = fault.effects
        self.is_cut = observer.is_cut
