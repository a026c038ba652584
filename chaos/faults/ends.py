"""What faults on links from A to B have in common: the ends, and the effects between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from pydantic import Field, field_validator

from harness.effects import LinkEffect, LinkEffectKind
from harness.faults import Entry, PlanWorld
from harness.links import Topology
from harness.options import Section, Select, Share
from harness.records import Action
from harness.selectors import ALL, Selector

ALL_CONNECTIONS = 1_000_000  # millionths


class Ends(Section):
    """``from`` and ``to`` select sites; ``toxicity`` is drawn once per connection."""

    from_: Select = Field(default=ALL, alias="from")
    to: Select = ALL
    toxicity: Share = ALL_CONNECTIONS

    @field_validator("toxicity")
    @classmethod
    def _some(cls, value: int) -> int:
        if value < 1000:
            raise ValueError("a share from 0.1% to 100% is expected")
        return value


def link_action(
    key: str, options: Ends, entry: Entry, world: PlanWorld, rng: Random, extra: Mapping[str, Any]
) -> Action:
    """One action on the links between the selected ends; its targets are the sources."""
    ends: dict[str, Selector] = {"from": options.from_, "to": options.to}
    chosen = {name: world.select_sites(selector, entry.at_us, rng) for name, selector in ends.items()}
    return Action(
        at_us=entry.at_us,
        until_us=entry.until_us,
        fault=key,
        name=entry.name,
        entry=entry.index,
        targets=chosen["from"],
        options={**extra, **chosen, "toxicity": options.toxicity // 1000},
    )


def effects_between(
    action: Action, topology: Topology, kind: LinkEffectKind, attributes: Mapping[str, int]
) -> Iterator[LinkEffect]:
    """The effect on each link from one of the action's sources to one of its destinations; those within a site too."""
    for source in action.options["from"]:
        for destination in action.options["to"]:
            if source != destination or len(topology.nodes_of(source)) > 1:
                pairs = tuple(sorted(attributes.items()))
                yield LinkEffect(source, destination, kind, pairs, action.options["toxicity"])
