"""Selectors: ``all``, ``node-7``, ``site-2``, ``3``, ``25%``, ``bootstrap``, ``{closest: KEY}``, or a list. Pure.

A selector is parsed once, checked against the cluster's size, and resolved while planning, against those who are
alive then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from harness.quantities import parse_share

AtomKind = Literal["all", "node", "site", "count", "share", "bootstrap", "closest"]
EXPECTED = "all, bootstrap, node-7, site-2, a number, a share such as 25%, {closest: KEY}, or a list of these"


@dataclass(frozen=True)
class Atom:
    """One part of a selector. ``number`` is a count, or millionths for a share; ``text`` a name or a key."""

    kind: AtomKind
    text: str = ""
    number: int = 0


@dataclass(frozen=True)
class Selector:
    """One or more atoms; what any of them selects is selected."""

    atoms: tuple[Atom, ...]


ALL = Selector((Atom("all"),))


class Population(Protocol):
    """Whom one can select from, in the plan's order."""

    def members(self) -> Sequence[str]: ...
    def sites(self) -> Sequence[str]: ...
    def site_of(self, member: str) -> str: ...
    def bootstrap(self) -> Sequence[str]: ...
    def number_of(self, member: str) -> int:
        """The member's identifier, as a number."""
        ...

    @property
    def k(self) -> int: ...


def parse(value: object) -> Selector:
    """A selector as YAML has it. Raises ValueError."""
    parts = value if isinstance(value, list) else [value]
    if not parts:
        raise ValueError(f"a selector must select something: {EXPECTED}")
    return Selector(tuple(_atom(part) for part in parts))


def _atom(part: object) -> Atom:
    if isinstance(part, bool):
        raise ValueError(f"no selector `{part}`: {EXPECTED}")
    if isinstance(part, int):
        if part < 1:
            raise ValueError(f"a count from 1 on is expected, not {part}")
        return Atom("count", number=part)
    if isinstance(part, dict) and list(part) == ["closest"] and isinstance(part["closest"], str | int):
        return Atom("closest", text=str(part["closest"]))
    if isinstance(part, str):
        if part in ("all", "bootstrap"):
            return Atom("all" if part == "all" else "bootstrap")
        if re.fullmatch(r"(node|site)-\d+", part):
            return Atom("node" if part.startswith("node") else "site", text=part)
        if part.endswith("%"):
            return _share(part)
    raise ValueError(f"no selector `{part}`: {EXPECTED}")


def _share(part: str) -> Atom:
    number = parse_share(part)
    if not number:
        raise ValueError(f"a share above 0% is expected, not {part}")
    return Atom("share", number=number)


def mistakes(selector: Selector, *, nodes: int, sites: int, links: bool) -> Iterator[str]:
    """What is wrong with a selector in a cluster of that size; ``links``: it selects ends of links, so sites."""
    shared = sites < nodes
    for atom in selector.atoms:
        most = sites if links else nodes
        what = "sites" if links and shared else "nodes"
        if atom.kind == "count" and atom.number > most:
            yield f"{atom.number} {what} are selected, and the cluster has {most}"
        if atom.kind == "node" and int(atom.text.removeprefix("node-")) >= nodes:
            yield f"no node `{atom.text}`: the cluster has node-0 to node-{nodes - 1}"
        if atom.kind == "site" and int(atom.text.removeprefix("site-")) >= sites:
            yield f"no site `{atom.text}`: the cluster has site-0 to site-{sites - 1}"
        if links and shared and atom.kind in ("node", "closest", "bootstrap"):
            yield (
                f"`{atom.text or atom.kind}` selects single nodes, and {nodes} nodes share {sites} sites, so that "
                f"links cannot tell them apart: raise cluster.sites to {nodes}, or select a site"
            )


def select_members(selector: Selector, population: Population, rng: Random) -> list[str]:
    """The selected members, in the population's order. Counts above what is there select all that are there."""
    members = population.members()
    chosen = {name for atom in selector.atoms for name in _members(atom, members, population, rng)}
    return [name for name in members if name in chosen]


def select_sites(selector: Selector, population: Population, rng: Random) -> list[str]:
    """The selected sites, in the population's order."""
    sites = population.sites()
    chosen = {name for atom in selector.atoms for name in _sites(atom, sites, population, rng)}
    return [name for name in sites if name in chosen]


def _members(atom: Atom, members: Sequence[str], population: Population, rng: Random) -> list[str]:
    if atom.kind in ("count", "share"):
        return pick(members, _how_many(atom, len(members)), rng)
    if atom.kind == "site":
        return [name for name in members if population.site_of(name) == atom.text]
    if atom.kind == "node":
        return [name for name in members if name == atom.text]
    if atom.kind == "bootstrap":
        return [name for name in members if name in population.bootstrap()]
    if atom.kind == "closest":
        key = int.from_bytes(hashlib.sha1(atom.text.encode(), usedforsecurity=False).digest(), "big")
        return sorted(members, key=lambda name: population.number_of(name) ^ key)[: population.k]
    return list(members)


def _sites(atom: Atom, sites: Sequence[str], population: Population, rng: Random) -> list[str]:
    if atom.kind == "site":
        return [atom.text]
    if atom.kind in ("count", "share"):
        return pick(sites, _how_many(atom, len(sites)), rng)
    return [population.site_of(name) for name in _members(atom, population.members(), population, rng)]


def _how_many(atom: Atom, there: int) -> int:
    if atom.kind == "share":
        return -(-there * atom.number // 1_000_000)  # rounded up
    return min(atom.number, there)


def pick(items: Sequence[str], count: int, rng: Random) -> list[str]:
    """``count`` of the items, drawn without replacement with nothing but `random()`, whose stream never changes."""
    keyed = sorted((rng.random(), index) for index in range(len(items)))
    return [items[index] for _, index in keyed[:count]]
