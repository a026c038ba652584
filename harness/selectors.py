"""Selectors: which nodes, or which sites, a fault is about. Parsed from the experiment, resolved in the plan.

Pure. `all`, `node-7`, `site-2`, `3` (that many, picked by the seed), `25%` (rounded up), `bootstrap`, `{closest: KEY}`
(the k nodes nearest to the SHA-1 of that text), or a list of these. Rules:

- Whatever is selected comes in the order of the plan's nodes (or sites), each once.
- Member faults pick among the members that run at that time; a count above their number takes them all. A share is a
  share of those. A node that is named and does not run is left out.
- Link faults work on sites: counts and shares pick sites, nodes stand for their sites. Naming a node that shares its
  site is a mistake, since the fault would hit the others too.
- In a list, what is named comes first; counts and shares then pick among the rest.
- Picking sorts by one `random()` per candidate: `random.sample` may change between versions of Python, this does not.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import math
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from harness.quantities import QuantityError, share, shown
from harness.records import PlannedNode

Level = Literal["link", "member"]
KINDS = "all, bootstrap, node-N, site-N, a count (3), a share (25%), {closest: KEY}, or a list of these"
_NUMBERED = re.compile(r"(node|site)-(0|[1-9]\d{0,8})", re.ASCII)


class SelectorError(ValueError):
    """A selector that cannot be read, or that nothing in this cluster fits."""


@dataclass(frozen=True)
class Everything:
    """`all`."""


@dataclass(frozen=True)
class Bootstrap:
    """`bootstrap`: the nodes through which the others join."""


@dataclass(frozen=True)
class Node:
    """`node-7`."""

    index: int


@dataclass(frozen=True)
class Site:
    """`site-2`: the site, or all of its nodes."""

    index: int


@dataclass(frozen=True)
class Count:
    """`3`: that many, picked by the seed."""

    number: int


@dataclass(frozen=True)
class Share:
    """`25%` of those that there are, rounded up, picked by the seed."""

    part: Fraction


@dataclass(frozen=True)
class Closest:
    """`{closest: KEY}`: the k nodes nearest to the SHA-1 of KEY."""

    key: str


@dataclass(frozen=True)
class Several:
    """A list: whatever any of its parts selects."""

    parts: tuple[Selector, ...]


Selector = Everything | Bootstrap | Node | Site | Count | Share | Closest | Several


@dataclass(frozen=True)
class Shape:
    """As much of a cluster as is needed to say whether a selector can fit: node i is in site i mod ``sites``."""

    nodes: int
    sites: int
    bootstrap: int

    @property
    def shared(self) -> bool:
        """Whether some nodes share a site."""
        return self.sites < self.nodes


# --- reading ------------------------------------------------------------------------------------


def parse(value: object) -> Selector:
    """A selector from a plain YAML value. Raises SelectorError."""
    if isinstance(value, list | tuple):
        if not value:
            raise SelectorError(f"an empty list selects nothing: write {KINDS}")
        return Several(tuple(parse(part) for part in value))
    if isinstance(value, Mapping):
        return _parse_closest(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _parse_count(value)
    return _parse_text(shown(value) if not isinstance(value, str) else value.strip())


def _parse_closest(value: Mapping[object, object]) -> Selector:
    key = value.get("closest")
    if len(value) != 1 or not isinstance(key, str | int) or isinstance(key, bool) or key == "":
        raise SelectorError(f"a map selects only as {{closest: KEY}}; otherwise write {KINDS}")
    return Closest(str(key))


def _parse_count(value: int) -> Selector:
    if value < 1:
        raise SelectorError(f"`{value}` selects nothing: a count is at least 1")
    return Count(value)


def _parse_text(text: str) -> Selector:
    if text in ("all", "bootstrap"):
        return Everything() if text == "all" else Bootstrap()
    if text.endswith("%"):
        return _parse_share(text)
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return _parse_count(int(text))
    if match := _NUMBERED.fullmatch(text):
        return Node(int(match[2])) if match[1] == "node" else Site(int(match[2]))
    close = difflib.get_close_matches(text, ["all", "bootstrap", "closest", "node-0", "site-0"], 1)
    meant = {"closest": "{closest: KEY}", "node-0": "node-N", "site-0": "site-N"}
    hint = f", did you mean `{meant.get(close[0], close[0])}`?" if close else f": write {KINDS}"
    raise SelectorError(f"no selector `{shown(text)}`{hint}")


def _parse_share(text: str) -> Selector:
    try:
        part = share(text)
    except QuantityError as error:
        raise SelectorError(str(error)) from error
    if part == 0:
        raise SelectorError(f"`{text}` selects nothing: a share is more than 0%")
    return Share(part)


# --- checking -----------------------------------------------------------------------------------


def mistakes(selector: Selector, shape: Shape, level: Level) -> Iterator[tuple[tuple[int, ...], str]]:
    """What cannot be in such a cluster: (position in nested lists, what is wrong)."""
    if isinstance(selector, Several):
        for index, part in enumerate(selector.parts):
            yield from (((index, *where), text) for where, text in mistakes(part, shape, level))
        return
    if text := _mistake(selector, shape, level):
        yield (), text


def _mistake(selector: Selector, shape: Shape, level: Level) -> str:
    things, number = ("sites", shape.sites) if level == "link" else ("nodes", shape.nodes)
    match selector:
        case Node(index) if index >= shape.nodes:
            return f"no node `node-{index}`: the cluster has node-0 to node-{shape.nodes - 1}"
        case Site(index) if index >= shape.sites:
            return f"no site `site-{index}`: the cluster has site-0 to site-{shape.sites - 1}"
        case Count(count) if count > number:
            return f"{count} {things} cannot be picked from {number}"
        case Node(index) if level == "link" and shape.shared:
            return (
                f"node-{index} shares site-{index % shape.sites} with other nodes, and links are those of sites: "
                f"raise cluster.sites to {shape.nodes}, or name the site"
            )
        case Bootstrap() | Closest() if level == "link" and shape.shared:
            return (
                "nodes share sites in this cluster, and links are those of sites: "
                f"raise cluster.sites to {shape.nodes}, or name sites"
            )
        case _:
            return ""


# --- resolving ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """Whom a selector may pick, and by what: all planned nodes, how many are for bootstrap, and k."""

    nodes: Sequence[PlannedNode]
    bootstrap: int
    k: int


def pick_members(selector: Selector, census: Census, alive: Collection[str], rng: random.Random) -> list[str]:
    """Names of the selected nodes among ``alive``, in the order of the plan's nodes; empty if none is there."""
    here = [node for node in census.nodes if node.name in alive]
    named = {node.name for part in _parts(selector) for node in _named(part, here, census)}
    for part in _parts(selector):
        rest = [node.name for node in here if node.name not in named]
        named.update(_drawn(part, rest, len(here), rng))
    return [node.name for node in here if node.name in named]


def pick_sites(selector: Selector, census: Census, rng: random.Random) -> list[str]:
    """Names of the selected sites, in the order of the plan's nodes."""
    sites = list(dict.fromkeys(node.site for node in census.nodes))
    named = {node.site for part in _parts(selector) for node in _named(part, census.nodes, census)}
    for part in _parts(selector):
        named.update(_drawn(part, [site for site in sites if site not in named], len(sites), rng))
    return [site for site in sites if site in named]


def _parts(selector: Selector) -> Iterator[Selector]:
    if isinstance(selector, Several):
        for part in selector.parts:
            yield from _parts(part)
    else:
        yield selector


def _named(part: Selector, here: Sequence[PlannedNode], census: Census) -> Iterable[PlannedNode]:
    match part:
        case Everything():
            return here
        case Bootstrap():
            first = {node.name for node in census.nodes[: census.bootstrap]}
            return [node for node in here if node.name in first]
        case Node(index):
            return [node for node in here if node.name == f"node-{index}"]
        case Site(index):
            return [node for node in here if node.site == f"site-{index}"]
        case Closest(key):
            return closest_to(key, here, census.k)
        case _:
            return ()


def closest_to(key: str, nodes: Sequence[PlannedNode], k: int) -> list[PlannedNode]:
    """The ``k`` of ``nodes`` nearest by XOR to the SHA-1 of the text ``key``, nearest first."""
    target = int.from_bytes(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
    return heapq.nsmallest(k, nodes, key=lambda node: int(node.id, 16) ^ target)


def _drawn(part: Selector, rest: Sequence[str], total: int, rng: random.Random) -> list[str]:
    match part:
        case Count(number):
            return sample(rest, number, rng)
        case Share(share_):
            return sample(rest, math.ceil(share_ * total), rng)
        case _:
            return []


def sample(candidates: Sequence[str], number: int, rng: random.Random) -> list[str]:
    """``number`` of the candidates without replacement (all, if there are not more), by sorting random keys."""
    keys = sorted((rng.random(), index) for index in range(len(candidates)))
    return [candidates[index] for _, index in keys[:number]]
