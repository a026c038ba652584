"""Shapes of partitions: from sites to groups that do not hear each other. Pure: data in, data out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from harness.selectors import pick

Groups = list[list[str]]


def halves(sites: Sequence[str], rng: Random) -> Groups:
    """Two halves, drawn by the seed; with an odd number of sites the first one is smaller by one."""
    return split_off(sites, pick(sites, len(sites) // 2, rng))


def majority_minority(sites: Sequence[str], rng: Random) -> Groups:
    """The smallest group that cannot win a vote, and the smallest that can: ⌈n/2⌉ - 1 and the others."""
    return split_off(sites, pick(sites, max(1, -(-len(sites) // 2) - 1), rng))


def split_off(sites: Sequence[str], chosen: Sequence[str]) -> Groups:
    """The chosen sites, and all others; both in the order of ``sites``."""
    inside = frozenset(chosen)
    return [[site for site in sites if site in inside], [site for site in sites if site not in inside]]


def crossing(groups: Groups, *, one_way: bool) -> Iterator[tuple[str, str]]:
    """The (source, destination) pairs between different groups; one way, only those that leave the first group."""
    for index, group in enumerate(groups):
        if one_way and index:
            return
        for other_index, other in enumerate(groups):
            if index != other_index:
                for source in group:
                    for destination in other:
                        yield source, destination
