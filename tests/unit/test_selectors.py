"""Selectors: read, checked against a cluster, resolved by the seed among those who are there."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.effects import MemberClaim
from harness.plan import World, plan_nodes
from harness.records import Action
from harness.selectors import mistakes, parse, pick, select_members, select_sites

NODES = plan_nodes(7, 12, 4)
NAMES = [node.name for node in NODES]
SITES = [f"site-{index}" for index in range(4)]


class Alive:
    """A population of which only some are alive."""

    def __init__(self, alive: list[str]) -> None:
        self._world = World(NODES, k=3, bootstrap=2)
        self._alive = alive
        self.k = 3
        self.sites, self.site_of, self.bootstrap = self._world.sites, self._world.site_of, self._world.bootstrap
        self.number_of = self._world.number_of

    def members(self) -> list[str]:
        return [name for name in NAMES if name in self._alive]


def members(value: object, alive: list[str] = NAMES, seed: int = 1) -> list[str]:
    return select_members(parse(value), Alive(alive), random.Random(seed))


def sites(value: object, seed: int = 1) -> list[str]:
    return select_sites(parse(value), Alive(NAMES), random.Random(seed))


def test_each_kind_selects_what_it_says() -> None:
    assert members("all") == NAMES
    assert members("node-7") == ["node-7"]
    assert members("site-2") == ["node-2", "node-6", "node-10"]
    assert members("bootstrap") == ["node-0", "node-1"]
    assert len(members(3)) == 3
    assert len(members("30%")) == 4  # 3.6, rounded up
    assert sites("all") == SITES
    assert sites("site-2") == ["site-2"]
    assert len(sites("30%")) == 2
    assert len(sites(3)) == 3
    assert set(members(["node-3", "site-0"])) == {"node-3", "node-0", "node-4", "node-8"}


def test_closest_are_the_k_nearest_to_the_sha_1_of_the_text() -> None:
    target = int(hashlib.sha1(b"hello").hexdigest(), 16)
    nearest = sorted(NODES, key=lambda node: int(node.id, 16) ^ target)[:3]
    assert sorted(members({"closest": "hello"})) == sorted(node.name for node in nearest)


def test_only_the_living_are_picked() -> None:
    alive = NAMES[6:]
    assert members(99, alive) == alive
    assert members("bootstrap", alive) == members("node-1", alive) == []
    assert len(members("50%", alive)) == 3


def test_the_world_knows_who_is_away_and_when() -> None:
    world = World(NODES, k=3, bootstrap=2)
    kill = {"fault": "kill", "name": "x", "entry": 0}
    world.add(
        [
            Action(at_us=5, until_us=9, targets=["node-0"], **kill),
            Action(at_us=7, until_us=None, targets=["node-1"], **kill),
        ]
    )
    away = {
        at: [name for name in NAMES if name not in world.select_members(parse("all"), at, random.Random(1))]
        for at in (4, 5, 7, 9)
    }
    assert away == {4: [], 5: ["node-0"], 7: ["node-0", "node-1"], 9: ["node-1"]}
    assert MemberClaim("node-0", "dead").state == "dead"


@pytest.mark.parametrize(
    "value",
    [
        "nobody",
        "",
        "node--1",
        "node-x",
        0,
        -1,
        True,
        None,
        1.5,
        "0%",
        "120%",
        [],
        {},
        {"a": 1},
        {"closest": [1]},
        [["node-1"]],
    ],
)
def test_what_selects_nothing_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"selector|count|share"):
        parse(value)


@pytest.mark.parametrize(
    ("value", "links", "words"),
    [
        ("node-12", False, "node-0 to node-11"),
        ("site-4", True, "site-0 to site-3"),
        (5, True, "5 sites are selected, and the cluster has 4"),
        (13, False, "13 nodes are selected, and the cluster has 12"),
        ("node-1", True, "raise cluster.sites to 12"),
        ("bootstrap", True, "raise cluster.sites"),
        ({"closest": "x"}, True, "raise cluster.sites"),
        (["all", "node-12"], False, "node-0 to node-11"),
        (5, False, ""),
        ("node-1", False, ""),
    ],
)
def test_what_cannot_be_in_the_cluster_is_told(value: object, links: bool, words: str) -> None:
    found = list(mistakes(parse(value), nodes=12, sites=4, links=links))
    assert len(found) == bool(words)
    assert all(words in text for text in found)


ATOMS = st.one_of(
    st.sampled_from(["all", "bootstrap", "node-0", "node-11", "site-3"]),
    st.integers(1, 12),
    st.integers(1, 100).map(lambda share: f"{share}%"),
    st.builds(lambda key: {"closest": key}, st.text("abc", min_size=1)),
)


@given(st.lists(ATOMS, min_size=1), st.lists(st.sampled_from(NAMES), unique=True), st.integers(0, 2**32))
def test_a_selection_is_ordered_unique_alive_and_repeatable(value: list[object], alive: list[str], seed: int) -> None:
    picked = members(value, alive, seed)
    assert picked == [name for name in NAMES if name in picked]
    assert set(picked) <= set(alive)
    assert picked == members(value, alive[::-1], seed)


@given(st.lists(st.text(max_size=3), unique=True), st.integers(0, 20), st.integers(0, 2**32))
def test_a_sample_has_the_size_asked_for(items: list[str], number: int, seed: int) -> None:
    picked = pick(items, number, random.Random(seed))
    assert len(picked) == len(set(picked)) == min(number, len(items))


def test_every_candidate_is_as_likely() -> None:
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(3000):
        for name in pick(NAMES, 3, random.Random(seed)):
            counts[name] += 1
    assert all(abs(count - 750) < 120 for count in counts.values())  # 5 sigma of a binomial: 750 ± 5·√(3000·¼·¾)
