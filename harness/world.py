"""What the planner knows, and what a fault may ask it while it plans: who is there at what time, and who is picked.

Pure, and without pydantic: `effects` are computed on every run, also of a stored plan.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.selectors import Census, Selector, pick_members, pick_sites


class UnplannableError(ValueError):
    """An entry that can be read but has no plan: nobody is left to pick, or nothing would happen."""


class SiteMap(Protocol):
    """Sites and their nodes. `links.Topology` is one, and so is `PlanWorld`."""

    @property
    def sites(self) -> Sequence[str]: ...
    @property
    def nodes(self) -> Sequence[str]: ...
    def nodes_of(self, site: str, /) -> Sequence[str]: ...
    def site_of(self, name: str, /) -> str: ...


def linked_pairs(sources: Sequence[str], destinations: Sequence[str], world: SiteMap) -> list[tuple[str, str]]:
    """(source site, destination site) with links between them; a site of one node has none to itself."""
    return [
        (here, there) for here in sources for there in destinations if here != there or len(world.nodes_of(here)) > 1
    ]


@dataclass(frozen=True)
class Repeat:
    """A fault that comes again: ``times`` in all, one start every ``every_us``."""

    every_us: int
    times: int


@dataclass(frozen=True)
class Entry:
    """One entry of the timeline; µs since the clock's start. A fault plans one occurrence, the planner repeats."""

    index: int
    name: str
    fault: str
    at_us: int
    for_us: int | None
    repeat: Repeat | None
    duration_us: int  # of the whole run

    def occurrences(self) -> Iterator[Entry]:
        """Each of its injections as an entry of its own."""
        repeat = self.repeat or Repeat(0, 1)
        return (
            dataclasses.replace(self, at_us=self.at_us + turn * repeat.every_us, repeat=None)
            for turn in range(repeat.times)
        )

    @property
    def until_us(self) -> int:
        """When one injection ends; without `for` it lasts to the end of the run."""
        return self.duration_us if self.for_us is None else self.at_us + self.for_us


@dataclass
class PlanWorld:
    """The cluster while it is planned. Faults ask; only the planner calls `note_absence`."""

    census: Census
    _absences: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = [node.name for node in self.census.nodes]
        self._site = {node.name: node.site for node in self.census.nodes}
        self.sites = list(dict.fromkeys(self._site.values()))
        self._members: dict[str, list[str]] = {site: [] for site in self.sites}
        for node in self.census.nodes:
            self._members[node.site].append(node.name)

    def nodes_of(self, site: str) -> Sequence[str]:
        """Names of a site's nodes."""
        return self._members[site]

    def site_of(self, name: str) -> str:
        """The site of a node."""
        return self._site[name]

    def alive(self, at_us: int) -> list[str]:
        """Who runs at that time, according to everything that is planned so far."""
        return [name for name in self.nodes if not self._absent(name, at_us)]

    def note_absence(self, name: str, at_us: int, until_us: int | None) -> None:
        """The member is not there in [at_us, until_us), or from at_us on."""
        self._absences.setdefault(name, []).append((at_us, until_us))

    def pick_members(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """Selected nodes among those that run at that time. Raises UnplannableError if there is none."""
        picked = pick_members(selector, self.census, self.alive(at_us), rng)
        if not picked:
            raise UnplannableError(f"at {at_us / 1e6:g}s none of the nodes that it selects is running")
        return picked

    def pick_sites(self, selector: Selector, rng: random.Random) -> list[str]:
        """Selected sites."""
        return pick_sites(selector, self.census, rng)

    def _absent(self, name: str, at_us: int) -> bool:
        return any(begin <= at_us and (until is None or at_us < until) for begin, until in self._absences.get(name, ()))
