"""A running cluster as a fault sees it while it plans by hand: who is there is what is so now, not what was planned.

See `faults.PlanWorld`. New members come from the spare ones that the cluster was made with: their links exist already.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.cluster import Cluster
from harness.faults import CannotPlan
from harness.selectors import Selector, mistakes, select_members, select_sites


class LiveWorld:
    """See the module. Also a `selectors.Population`."""

    duration_us: int | None = None

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.k = cluster.k

    def select_members(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """See `PlanWorld.select_members`."""
        self._require(selector, links=False)
        return select_members(selector, self, rng)

    def select_sites(self, selector: Selector, at_us: int, rng: random.Random) -> list[str]:
        """See `PlanWorld.select_sites`."""
        self._require(selector, links=True)
        return select_sites(selector, self, rng)

    def _require(self, selector: Selector, *, links: bool) -> None:
        nodes = len(self._cluster.topology.names)
        wrong = list(mistakes(selector, nodes=nodes, sites=max(nodes, len(self.sites())), links=False))
        if wrong:
            raise CannotPlan("; ".join(wrong))
        single = Selector(tuple(atom for atom in selector.atoms if atom.kind in ("node", "closest", "bootstrap")))
        for name in select_members(single, self, random.Random(0)) if links and single.atoms else ():
            others = [other for other in self.members() if other != name and self.site_of(other) == self.site_of(name)]
            if others:
                raise CannotPlan(
                    f"links cannot tell {name} from {others[0]}: both are in {self.site_of(name)}; select that"
                )

    def members_at(self, at_us: int) -> list[str]:
        """See `PlanWorld.members_at`."""
        return list(self.members())

    def recruit(self, count: int) -> list[str]:
        """See `PlanWorld.recruit`."""
        spare = [name for name in self._cluster.topology.names if not self._cluster.members.joined(name)]
        if count > len(spare):
            raise CannotPlan(f"{count} new nodes are asked for, and the cluster was made with {len(spare)} spare ones")
        return spare[:count]

    def members(self) -> Sequence[str]:
        """Those that can answer now, or could if no link fault kept them from it."""
        down = self._cluster.members.unresponsive()
        return [name for name in self._cluster.topology.names if name not in down]

    def sites(self) -> list[str]:
        """All sites."""
        return list(self._cluster.topology.sites)

    def site_of(self, member: str) -> str:
        """The site of a node."""
        return self._cluster.topology.site_of(member)

    def bootstrap(self) -> Sequence[str]:
        """The nodes that the others join through."""
        return self._cluster.bootstrap

    def number_of(self, member: str) -> int:
        """Its identifier as a number."""
        return int(self._cluster.addresses[member].id, 16)
