"""`partition`: groups of sites that do not hear each other.

All shapes but `isolate` are picked by the seed, `halves` too. `isolate` cuts the selected nodes, together, from all
others. Sites that are in none of the `groups` are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainValidator, ValidationInfo, field_validator

from chaos.links import ALL
from chaos.topologies import FEWEST, SHAPES, Groups, blocked_pairs, isolate
from harness.document import PathTo
from harness.effects import Effect, LinkEffect
from harness.faults import FaultOptions
from harness.fields import Flag, SelectorField, Toxicity, UnfitValueError, choice
from harness.quantities import shown
from harness.records import Action
from harness.selectors import Level, Selector, Several, Shape, parse
from harness.world import Entry, PlanWorld, SiteMap, UnplannableError

GROUPS = "groups"


def _read_groups(value: object) -> tuple[tuple[Selector, ...], ...]:
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(group, list) and group for group in value):
        raise UnfitValueError(f"`{shown(value)}` is no list of at least two lists, as in [[node-0, node-1], [node-2]]")
    return tuple(tuple(parse(part) for part in group) for group in value)


class PartitionOptions(FaultOptions):
    """`partition: halves` is short for `partition: {shape: halves}`."""

    shorthand: ClassVar[str] = "shape"

    shape: Annotated[str, choice(*SHAPES, "isolate")] | None = None
    nodes: SelectorField | None = None
    groups: Annotated[tuple[tuple[Selector, ...], ...], PlainValidator(_read_groups)] | None = None
    mode: Annotated[Literal["blackhole", "refuse"], choice("blackhole", "refuse")] = "blackhole"
    one_way: Flag = False
    toxicity: Toxicity = ALL

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A shape or groups; nodes with isolate and with nothing else."""
        shape = given.get("shape")
        if "shape" in given and GROUPS in given:
            yield GROUPS, "`shape` and `groups` exclude each other: keep one"
        elif "shape" not in given and GROUPS not in given:
            yield "", f"partition: a `shape` ({', '.join([*SHAPES, 'isolate'])}) or `groups` is missing"
        if shape == "isolate" and "nodes" not in given:
            yield "shape", "partition: isolate whom? Give `nodes`, as in {shape: isolate, nodes: node-0}"
        if "nodes" in given and shape != "isolate":
            yield "nodes", "partition.nodes: belongs to `shape: isolate`"

    @field_validator("one_way")
    @classmethod
    def _can_be_one_way(cls, one_way: bool, info: ValidationInfo) -> bool:
        if one_way and info.data.get("mode") == "refuse":
            raise UnfitValueError("a refusal works on whole connections, so it is never one-way: use `mode: blackhole`")
        if one_way and info.data.get("shape") == "ring":
            raise UnfitValueError("a ring has no first group that something could leave")
        return one_way

    @field_validator("toxicity")
    @classmethod
    def _all_connections(cls, toxicity: int, info: ValidationInfo) -> int:
        if toxicity != ALL and info.data.get("mode") == "refuse":
            raise UnfitValueError("a refusal closes whole links, so it is 100%: use `mode: blackhole`")
        return toxicity

    @classmethod
    def misfits(cls, given: Mapping[str, Any], shape: Shape, level: Level) -> Iterator[tuple[PathTo, str]]:
        """Selectors, and shapes that need more sites than there are."""
        yield from super().misfits(given, shape, level)
        name = given.get("shape") or GROUPS
        if shape.sites < FEWEST[name]:
            yield ("shape",), f"{name} needs at least {FEWEST[name]} sites, and there are {shape.sites}"


class Partition:
    """See the module."""

    key = "partition"
    summary = "groups of nodes that do not hear each other"
    level: ClassVar[Level] = "link"
    Options = PartitionOptions
    duration: ClassVar[Literal["required", "optional", "refused"]] = "optional"

    def plan(self, options: PartitionOptions, entry: Entry, world: PlanWorld, rng: random.Random) -> list[Action]:
        """See `Fault.plan`. Targets are all sites of the groups; options hold groups, mode, one_way and toxicity."""
        groups = grouped(options, world, rng)
        if not blocked_pairs(groups, one_way=options.one_way):
            raise UnplannableError("these groups cut nothing: every site would still hear every other")
        settings = {"mode": options.mode, "one_way": options.one_way, "toxicity": options.toxicity}
        inside = {site for group in groups for site in group}
        return [
            Action(
                at_us=entry.at_us,
                until_us=entry.until_us,
                fault=entry.fault,
                name=entry.name,
                entry=entry.index,
                targets=[site for site in world.sites if site in inside],
                options={GROUPS: groups, **settings},
            )
        ]

    def effects(self, action: Action, world: SiteMap) -> list[Effect]:  # noqa: ARG002 - the protocol's
        """See `Fault.effects`: one effect on each link that crosses."""
        mode: Literal["blackhole", "refuse"] = action.options["mode"]
        pairs = blocked_pairs(action.options[GROUPS], one_way=action.options["one_way"])
        return [LinkEffect(here, there, mode, toxicity=action.options["toxicity"]) for here, there in pairs]


def grouped(options: PartitionOptions, world: PlanWorld, rng: random.Random) -> Groups:
    """The groups of sites that the options ask for."""
    if options.groups is not None:
        return [world.pick_sites(Several(group), rng) for group in options.groups]
    if options.nodes is not None:
        return isolate(world.sites, world.pick_sites(options.nodes, rng))
    assert options.shape is not None
    return SHAPES[options.shape](world.sites, rng)
