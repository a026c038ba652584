"""Shapes of partitions: from sites to groups, and from groups to who does not hear whom. Pure: data in, data out.

In most shapes a site hears its own group only. In a `ring` the groups are single sites in a circle, and each hears its two
neighbours; in a `bridge` the second of three groups is the one site that hears everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from harness.selectors import pick

Groups = list[list[str]]

MOST_GROUPS = 4  # that `random` makes


def halves(sites: Sequence[str], rng: Random) -> Groups:
    """Two halves, drawn by the seed; with an odd number of sites the first one is smaller by one."""
    return split_off(sites, pick(sites, len(sites) // 2, rng))


def majority_minority(sites: Sequence[str], rng: Random) -> Groups:
    """The smallest group that cannot win a vote, and the smallest that can: ⌈n/2⌉ - 1 and the others."""
    return split_off(sites, pick(sites, max(1, -(-len(sites) // 2) - 1), rng))


def ring(sites: Sequence[str], rng: Random) -> Groups:
    """A circle in an order drawn by the seed."""
    return [[site] for site in pick(sites, len(sites), rng)]


def bridge(sites: Sequence[str], rng: Random) -> Groups:
    """Two halves that share one site: [one half, [the site], the other half]."""
    drawn = pick(sites, len(sites), rng)
    half = (len(drawn) - 1) // 2
    return [sorted(part, key=sites.index) for part in (drawn[1 : 1 + half], drawn[:1], drawn[1 + half :])]


def random_groups(sites: Sequence[str], rng: Random) -> Groups:
    """Two to four groups of any sizes, none of them empty."""
    drawn = pick(sites, len(sites), rng)
    count = 2 + int(rng.random() * (min(MOST_GROUPS, len(drawn)) - 1))
    groups = [[site] for site in drawn[:count]]
    for site in drawn[count:]:
        groups[int(rng.random() * count)].append(site)
    return [sorted(group, key=sites.index) for group in groups]


def split_off(sites: Sequence[str], chosen: Sequence[str]) -> Groups:
    """The chosen sites, and all others; both in the order of ``sites``."""
    inside = frozenset(chosen)
    return [[site for site in sites if site in inside], [site for site in sites if site not in inside]]


def crossing(groups: Groups, *, one_way: bool, shape: str = "halves") -> Iterator[tuple[str, str]]:
    """The (source, destination) pairs that do not hear each other; one way, only those that leave the first group."""
    hears = HEARS.get(shape, _own_group_only)
    for index, group in enumerate(groups):
        if one_way and index:
            return
        for other_index, other in enumerate(groups):
            if not hears(index, other_index, len(groups)):
                for source in group:
                    for destination in other:
                        yield source, destination


def _own_group_only(here: int, there: int, _: int) -> bool:
    return here == there


def _neighbours(here: int, there: int, count: int) -> bool:
    return (here - there) % count in (0, 1, count - 1)


def _over_the_bridge(here: int, there: int, _: int) -> bool:
    return here == there or 1 in (here, there)


HEARS: dict[str, Callable[[int, int, int], bool]] = {"ring": _neighbours, "bridge": _over_the_bridge}
