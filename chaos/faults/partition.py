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
from chaos.faults.membership import how_many
from chaos.observing import Refusal, Silence
from harness.effects import Effect, LinkEffect
from harness.faults import CannotPlan, Entry, ForRule, Level, PlanWorld
from harness.links import Topology
from harness.observation import Observation, Probe
from harness.options import Section, Select
from harness.records import Action
from harness.selectors import Selector, pick

DRAWN: dict[str, Callable[[Sequence[str], Random], topologies.Groups]] = {
    "halves": topologies.halves,
    "majority-minority": topologies.majority_minority,
    "ring": topologies.ring,
    "bridge": topologies.bridge,
    "random": topologies.random_groups,
}
Shape = Literal["halves", "majority-minority", "isolate", "ring", "bridge", "random"]


class PartitionOptions(Section):
    """``nodes`` belongs to `isolate`: those that are cut off from all others, together. ``groups`` are written instead of a
    shape: who is in none of them hears everybody."""

    shape: Shape | None = None
    nodes: Select | None = None
    groups: list[Select] | None = None
    mode: Literal["blackhole", "refuse"] = "blackhole"
    one_way: bool = False

    @model_validator(mode="after")
    def _fits(self) -> PartitionOptions:
        if self.groups is not None and (self.shape is not None or len(self.groups) < 2):
            raise ValueError("`groups`: two groups or more, instead of a `shape`, are expected")
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
    lasts: ClassVar[ForRule] = "optional"
    shorthand: ClassVar[str | None] = "shape"
    Options: ClassVar[type[BaseModel]] = PartitionOptions

    def plan(self, options: PartitionOptions, entry: Entry, world: PlanWorld, rng: Random) -> list[Action]:
        """One action; its targets are all sites, group by group in its options."""
        sites = world.sites()
        if options.nodes is not None:
            groups = topologies.split_off(sites, world.select_sites(options.nodes, entry.at_us, rng))
        elif options.groups is not None:
            groups = _written(options.groups, entry, world, rng)
        else:
            groups = DRAWN[options.shape or "halves"](sites, rng)
        shape = options.shape or ("groups" if options.groups else "halves")
        return [
            Action(
                at_us=entry.at_us,
                until_us=entry.until_us,
                fault=self.key,
                name=entry.name,
                entry=entry.index,
                targets=[site for site in sites if any(site in group for group in groups)],
                options={"shape": shape, "groups": groups, "mode": options.mode, "one_way": options.one_way},
            )
        ]

    def effects(self, action: Action, topology: Topology) -> list[Effect]:
        """A black hole or a refusal on every link that crosses the cut."""
        asked = action.options
        pairs = topologies.crossing(asked["groups"], one_way=asked["one_way"], shape=asked.get("shape", "halves"))
        return [LinkEffect(source, destination, action.options["mode"]) for source, destination in pairs]

    def observe(self: Any, action: Action, probe: Probe, before: None) -> Observation:
        """By refusal, pings must be refused; by black hole, they must vanish."""
        observer = Refusal if action.options["mode"] == "refuse" else Silence
        return observer.observe(_Judged(self, observer), action, probe, before)


def _written(groups: Sequence[Selector], entry: Entry, world: PlanWorld, rng: Random) -> topologies.Groups:
    """The sites of each group. Counts and shares pick among those that no group before has."""
    chosen: topologies.Groups = []
    for number, selector in enumerate(groups, 1):
        taken = [site for group in chosen for site in group]
        if all(atom.kind in ("count", "share") for atom in selector.atoms):
            free = [site for site in world.sites() if site not in taken]
            wanted = sum(how_many(atom, len(world.sites())) for atom in selector.atoms)
            if wanted > len(free):
                raise CannotPlan(f"`groups`: group {number} wants {wanted} sites, and {len(free)} are left")
            chosen.append(sorted(pick(free, wanted, rng), key=world.sites().index))
            continue
        sites = world.select_sites(selector, entry.at_us, rng)
        if twice := [site for site in sites if site in taken]:
            raise CannotPlan(f"`groups`: {twice[0]} is in two groups; a site is in one, or in none")
        chosen.append(sites)
    return chosen


class _Judged:
    """A partition's effects, with the judgement of pings that fits its mode."""

    def __init__(self, fault: Partition, observer: type[Silence]) -> None:
        self.effects = fault.effects
        self.is_cut = observer.is_cut
