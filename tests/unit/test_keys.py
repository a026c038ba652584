"""Keys and values: reproducible, and a value of one key or version never passes for another's."""

from hypothesis import given
from hypothesis import strategies as st

from loadtests.config import LoadOptions
from loadtests.keys import Keys, key_of, value_of

KEYS = st.binary(min_size=20, max_size=20)


@given(st.integers(), st.integers(0, 10**9))
def test_keys_are_twenty_bytes_and_differ_between_workers(seed, number):
    assert len(key_of(seed, "load-0", number)) == 20
    assert key_of(seed, "load-0", number) != key_of(seed, "load-1", number)


@given(KEYS, KEYS, st.integers(0, 99), st.integers(0, 99), st.integers(8, 4096))
def test_a_value_belongs_to_one_key_and_version_only(key, other, version, later, size):
    value = value_of(key, version, size, seed=1)
    assert len(value) == size
    assert value == value_of(key, version, size, seed=1)
    if (key, version) != (other, later):
        assert value != value_of(other, later, size, seed=1)
    assert value != value_of(key, version, size, seed=2)


def test_only_acknowledged_keys_are_picked():
    keys = Keys(7, "load-0", LoadOptions(users=1, value_size=64))
    stored, failed = keys.fresh(), keys.fresh()
    keys.settle(stored, acknowledged=True)
    keys.settle(failed, acknowledged=False)
    assert {keys.pick() for _ in range(50)} == {stored}
    assert keys.unknown == 1


def test_all_acknowledged_keys_are_picked_evenly():
    keys = Keys(7, "load-0", LoadOptions(users=1, value_size=64))
    for _ in range(10):
        keys.settle(keys.fresh(), acknowledged=True)
    picked = [keys.pick() for _ in range(5000)]
    assert all(350 < picked.count(key) < 650 for key in keys.acknowledged)  # 500 expected, 7 standard deviations
