"""What faults on links from some sites to others have in common: their options, their actions, their pairs."""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from harness.effects import LinkEffect, LinkEffectKind
from harness.faults import FaultOptions
from harness.fields import SelectorField, Toxicity
from harness.records import Action
from harness.selectors import Everything
from harness.world import Entry, PlanWorld, SiteMap, UnplannableError, linked_pairs

ALL = 1000  # toxicity: all connections


class DirectedOptions(FaultOptions):
    """`from`, `to`: whose bytes to whom; and the share of connections that are hit."""

    from_: SelectorField = Field(Everything(), alias="from")
    to: SelectorField = Everything()
    toxicity: Toxicity = ALL


def directed_action(
    options: DirectedOptions, entry: Entry, world: PlanWorld, rng: random.Random, settings: dict[str, Any]
) -> Action:
    """One action on all links from the sources to the destinations.

    The action's targets are the source sites, its options hold `from`, `to`, `toxicity` and ``settings``.
    Raises UnplannableError if there is no link from any source to any destination.
    """
    sources, destinations = world.pick_sites(options.from_, rng), world.pick_sites(options.to, rng)
    linked = list(dict.fromkeys(here for here, _ in linked_pairs(sources, destinations, world)))
    if not linked:
        raise UnplannableError(f"there is no link from {', '.join(sources)} to {', '.join(destinations)}")
    return Action(
        at_us=entry.at_us,
        until_us=entry.until_us,
        fault=entry.fault,
        name=entry.name,
        entry=entry.index,
        targets=linked,
        options={"from": linked, "to": destinations, "toxicity": options.toxicity, **settings},
    )


def directed_effects(
    action: Action, world: SiteMap, kind: LinkEffectKind, attributes: dict[str, int] | None = None
) -> list[LinkEffect]:
    """The same effect on every link from the action's sources to its destinations."""
    pairs = linked_pairs(action.options["from"], action.options["to"], world)
    fixed, toxicity = tuple(sorted((attributes or {}).items())), action.options["toxicity"]
    return [LinkEffect(here, there, kind, fixed, toxicity) for here, there in pairs]
