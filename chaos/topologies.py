"""Shapes of partition: pure functions from sites to groups, and from groups to the pairs that are blocked.

Groups may overlap: two sites hear each other if they share a group. So every shape, also a ring or a bridge, is a list
of groups. A site hears itself; a site in no group is left alone. After Jepsen's nemesis (bridge, majorities ring) and
its tests, which check topologies as data. Orders are those of the sites given: a plan is the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from harness.selectors import sample

Groups = list[list[str]]


def halves(sites: Sequence[str], rng: random.Random) -> Groups:
    """Two halves, picked by the seed; the first has the odd one."""
    return split(sites, (len(sites) + 1) // 2, rng)


def majority_minority(sites: Sequence[str], rng: random.Random) -> Groups:
    """The smallest majority and the rest, picked by the seed."""
    return split(sites, len(sites) // 2 + 1, rng)


def ring(sites: Sequence[str], rng: random.Random) -> Groups:
    """A site hears its two neighbours only, in an order picked by the seed: each group is an edge."""
    order = sample(sites, len(sites), rng)
    return [[here, there] for here, there in zip(order, order[1:] + order[:1], strict=True)]


def bridge(sites: Sequence[str], rng: random.Random) -> Groups:
    """Two halves that share one site, all picked by the seed."""
    first, second = split(sites, (len(sites) + 1) // 2, rng)
    return [first, in_order(sites, [*second, sample(first, 1, rng)[0]])]


def scattered(sites: Sequence[str], rng: random.Random) -> Groups:
    """Groups of random number (2 up to the root of the sites' number) and random sizes; none is empty."""
    number = 2 + int(rng.random() * max(1, int(len(sites) ** 0.5) - 1))
    order = sample(sites, len(sites), rng)
    groups: Groups = [[site] for site in order[:number]]
    for site in order[number:]:
        groups[int(rng.random() * number)].append(site)
    return [in_order(sites, group) for group in groups]


def isolate(sites: Sequence[str], alone: Sequence[str]) -> Groups:
    """Some sites, together, against all others."""
    return [in_order(sites, alone), [site for site in sites if site not in alone]]


SHAPES: Final[Mapping[str, Callable[[Sequence[str], random.Random], Groups]]] = {
    "halves": halves,
    "majority-minority": majority_minority,
    "ring": ring,
    "bridge": bridge,
    "random": scattered,
}
# The fewest sites among which a shape cuts anything.
FEWEST: Final = {"halves": 2, "majority-minority": 3, "isolate": 2, "ring": 4, "bridge": 3, "random": 2, "groups": 2}


def split(sites: Sequence[str], size: int, rng: random.Random) -> Groups:
    """``size`` sites, picked by the seed, and the rest."""
    first = in_order(sites, sample(sites, size, rng))
    return [first, [site for site in sites if site not in first]]


def in_order(sites: Sequence[str], some: Sequence[str]) -> list[str]:
    """``some`` in the order of ``sites``."""
    return [site for site in sites if site in some]


def blocked_pairs(groups: Sequence[Sequence[str]], *, one_way: bool = False) -> list[tuple[str, str]]:
    """(source, destination) of all that is lost; with ``one_way`` only what leaves the first group."""
    sites = list(dict.fromkeys(site for group in groups for site in group))
    heard: dict[str, set[str]] = {site: {site} for site in sites}
    for group in groups:
        for site in group:
            heard[site].update(group)
    first = set(groups[0]) if groups else set()
    return [
        (here, there)
        for here in sites
        for there in sites
        if there not in heard[here] and (not one_way or (here in first and there not in first))
    ]
