"""Shapes of partition, as data."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.topologies import Groups, crossing, halves, majority_minority, split_off

SITES = st.integers(3, 40).map(lambda number: [f"site-{index}" for index in range(number)])
SEEDS = st.integers(0, 2**32)
SHAPES = [halves, majority_minority]


@pytest.mark.parametrize("shape", SHAPES)
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
