"""Shapes of partition, as data."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.topologies import Groups, bridge, crossing, halves, majority_minority, random_groups, ring, split_off

SITES = st.integers(3, 40).map(lambda number: [f"site-{index}" for index in range(number)])
SEEDS = st.integers(0, 2**32)
SHAPES = [halves, majority_minority]
MANY = [*SHAPES, ring, bridge, random_groups]


@pytest.mark.parametrize("shape", MANY)
@given(sites=SITES, seed=SEEDS)
def test_every_site_is_in_exactly_one_group(shape: Callable[..., Groups], sites: list[str], seed: int) -> None:
    groups = shape(sites, random.Random(seed))
    assert all(groups)
    assert sorted(site for group in groups for site in group) == sorted(sites)


@pytest.mark.parametrize("shape", SHAPES)
@given(sites=SITES, seed=SEEDS)
def test_a_cut_is_symmetric_and_spares_each_group(shape: Callable[..., Groups], sites: list[str], seed: int) -> None:
    groups = shape(sites, random.Random(seed))
    pairs = list(crossing(groups, one_way=False))
    assert len(pairs) == len(set(pairs)) == 2 * len(groups[0]) * len(groups[1])
    assert {(there, here) for here, there in pairs} == set(pairs)
    assert not any({here, there} <= set(group) for here, there in pairs for group in groups)


@given(SITES, SEEDS)
def test_halves_differ_by_one_site_at_most(sites: list[str], seed: int) -> None:
    first, second = halves(sites, random.Random(seed))
    assert 0 <= len(second) - len(first) <= 1


@given(SITES, SEEDS)
def test_a_minority_cannot_win_a_vote_and_the_others_can(sites: list[str], seed: int) -> None:
    minority, majority = majority_minority(sites, random.Random(seed))
    assert len(majority) == len(sites) // 2 + 1
    assert 2 * len(minority) < len(sites)


@given(SITES, st.data())
def test_one_way_loses_only_what_leaves_the_first_group(sites: list[str], data: st.DataObject) -> None:
    alone = data.draw(st.lists(st.sampled_from(sites), min_size=1, max_size=len(sites) - 1, unique=True))
    pairs = list(crossing(split_off(sites, alone), one_way=True))
    assert {here for here, _ in pairs} == set(alone)
    assert not {there for _, there in pairs} & set(alone)


@given(sites=SITES, seed=SEEDS)
def test_in_a_ring_each_site_hears_its_two_neighbours_alone(sites: list[str], seed: int) -> None:
    groups = ring(sites, random.Random(seed))
    cut = set(crossing(groups, one_way=False, shape="ring"))
    for site in sites:
        assert sum((site, other) not in cut for other in sites if other != site) == min(2, len(sites) - 1)
    assert cut == {(there, here) for here, there in cut}


@given(sites=SITES, seed=SEEDS)
def test_over_a_bridge_everybody_hears_one_site_and_no_one_the_other_half(sites: list[str], seed: int) -> None:
    left, (middle,), right = bridge(sites, random.Random(seed))
    cut = set(crossing([left, [middle], right], one_way=False, shape="bridge"))
    assert not any(middle in pair for pair in cut)
    assert cut == {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}
    assert abs(len(left) - len(right)) <= 1


@given(sites=SITES, seed=SEEDS)
def test_random_groups_are_two_to_four(sites: list[str], seed: int) -> None:
    assert 2 <= len(random_groups(sites, random.Random(seed))) <= 4
