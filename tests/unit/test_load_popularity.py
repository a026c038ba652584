"""Which keys are asked for: Zipf's law to its own weights, and the latest first."""

import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.config import LoadOptions, Sizes
from loadtests.keys import Keys, ValueSizes
from loadtests.popularity import Latest, Uniform, Zipf

DRAWS = 40_000


@pytest.mark.parametrize("exponent", [0.5, 0.99, 1.0, 1.5, 3.0])
def test_ranks_have_zipfs_weights(exponent):
    zipf, seen = Zipf(Random(1), exponent), [0] * 20
    for _ in range(DRAWS):
        seen[zipf.index(20)] += 1
    total = sum(rank**-exponent for rank in range(1, 21))
    for rank, times in enumerate(seen, start=1):
        share = rank**-exponent / total
        # Six standard deviations of a binomial count: a false alarm in a billion.
        assert abs(times - DRAWS * share) < 6 * math.sqrt(DRAWS * share * (1 - share)) + 1


@given(st.integers(0, 2**32), st.floats(0.01, 5), st.integers(1, 10**7))
def test_an_index_is_always_one_of_those_there_are(seed, exponent, count):
    for made in (Zipf(Random(seed), exponent), Latest(Random(seed), exponent), Uniform(Random(seed))):
        assert 0 <= made.index(count) < count


def test_the_latest_is_the_most_popular():
    latest = Latest(Random(3), 1.0)
    drawn = [latest.index(1000) for _ in range(2000)]
    assert max(set(drawn), key=drawn.count) == 999


@given(st.binary(min_size=20, max_size=20), st.integers(0, 9))
def test_sizes_are_in_their_range_and_always_the_same(key, version):
    uniform = ValueSizes(Sizes(uniform=(64, 4096)))
    assert 64 <= uniform.of(key, version) <= 4096
    assert uniform.of(key, version) == ValueSizes(Sizes(uniform=(64, 4096))).of(key, version)
    assert ValueSizes(77).of(key, version) == 77


def test_a_histogram_is_met():
    sizes, rng = ValueSizes(Sizes(histogram=[(64, 0.9), (4096, 0.1)])), Random(5)
    drawn = [sizes.of(rng.randbytes(20), 1) for _ in range(5000)]
    assert set(drawn) == {64, 4096}
    assert abs(drawn.count(4096) - 500) < 6 * math.sqrt(5000 * 0.1 * 0.9)


def test_a_key_that_is_written_again_takes_the_next_version_each_time():
    keys = Keys(1, "w", LoadOptions(users=1))
    key = keys.fresh()
    keys.settle(key, acknowledged=True)
    assert [keys.rewritten() for _ in range(3)] == [(key, 2), (key, 3), (key, 4)]
    keys.settle(key, acknowledged=True)
    assert list(keys.acknowledged) == [key]
    assert len({keys.value(key, version) for version in (1, 2, 3)}) == 3


def test_missing_keys_are_never_those_that_are_stored():
    keys = Keys(1, "w", LoadOptions(users=1))
    assert not {keys.fresh() for _ in range(100)} & {keys.missing() for _ in range(100)}


def test_a_million_keys_hardly_make_a_worker_grow():
    keys, count = Keys(1, "w", LoadOptions(users=1)), 50_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(count):
        keys.settle(keys.fresh(), acknowledged=True)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(keys.acknowledged) == count
    assert (after - before) / count < 25  # bytes: two numbers, and the slack of growing arrays; a key alone has 53
