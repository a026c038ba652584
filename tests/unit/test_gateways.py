"""Gateways: who is asked next, and how long one that failed is left alone."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from loadtests.gateways import VISITORS, Gateways, Homes

NAMES = ("node-0", "node-1", "node-2")


def gateways(names=NAMES):
    return Gateways(names, Random(1))


def picked(pool, now, times=200):
    return {pool.pick(now) for _ in range(times)}


def fail(pool, name, now):
    pool.failed(name, sent=now, now=now)


def test_all_gateways_are_used_evenly():
    pool = gateways()
    seen = [pool.pick(0.0) for _ in range(3000)]
    assert all(850 < seen.count(name) < 1150 for name in NAMES)


def test_a_gateway_that_failed_rests_for_a_second():
    pool = gateways()
    fail(pool, "node-1", 10.0)
    assert picked(pool, 10.99) == {"node-0", "node-2"}
    assert picked(pool, 11.0) == set(NAMES)


def test_rests_double_up_to_thirty_seconds():
    pool, now, rests = gateways(), 100.0, []
    for _ in range(8):
        fail(pool, "node-1", now)
        rest = next(r for r in range(1, 100) if "node-1" in picked(pool, now + r))
        rests.append(rest)
        now += rest
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]


def test_all_operations_that_were_in_flight_when_it_died_count_as_one_failure():
    pool = gateways()
    for number in range(100):
        pool.failed("node-1", sent=9.0 + number / 1000, now=10.0)
    assert picked(pool, 11.0) == set(NAMES)


def test_an_answer_ends_the_rest_and_forgets_the_failures():
    pool = gateways()
    fail(pool, "node-1", 10.0)
    fail(pool, "node-1", 11.0)
    pool.answered("node-1", sent=11.5)
    assert picked(pool, 11.6) == set(NAMES)
    fail(pool, "node-1", 20.0)
    assert picked(pool, 21.0) == set(NAMES)


def test_an_answer_to_what_was_sent_before_the_failure_says_nothing():
    pool = gateways()
    fail(pool, "node-1", 10.0)
    pool.answered("node-1", sent=9.9)
    assert picked(pool, 10.5) == {"node-0", "node-2"}


def test_if_all_rest_the_one_whose_rest_ends_first_is_asked():
    pool = gateways()
    for now, name in ((10.0, "node-2"), (10.1, "node-0"), (10.2, "node-1")):
        fail(pool, name, now)
    assert picked(pool, 10.3) == {"node-2"}


def test_failing_again_while_all_rest_does_not_lengthen_the_rest():
    pool = gateways(("node-0",))
    fail(pool, "node-0", 10.0)
    for now in (10.1, 10.2, 10.3):
        fail(pool, pool.pick(now), now)
    fail(pool, "node-0", 11.0)  # the first try after the rest
    pool.failed("node-0", sent=12.0, now=12.0)
    pool.failed("node-0", sent=13.0, now=13.0)  # the second
    assert pool.pick(14.0) == "node-0"


def test_a_sticky_user_comes_home_after_the_rest():
    pool = gateways()
    assert [pool.pick_sticky(user, 0.0) for user in range(4)] == ["node-0", "node-1", "node-2", "node-0"]
    fail(pool, "node-1", 10.0)
    assert pool.pick_sticky(1, 10.5) == "node-2"
    assert pool.pick_sticky(1, 11.0) == "node-1"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0, 100), st.booleans()), max_size=40))
def test_there_is_always_somebody_to_ask(history):
    pool = gateways()
    for name, now, ok in sorted(history, key=lambda entry: entry[1]):
        if ok:
            pool.answered(name, sent=now)
        else:
            fail(pool, name, now)
        assert pool.pick(now) in NAMES
        assert pool.pick_sticky(2, now) in NAMES


@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 50))
def test_each_gateway_is_the_home_of_as_many_users_as_any_other(gateways, seed, shuffle):
    users = range(shuffle * gateways, (shuffle + 1) * gateways)
    assert sorted(map(Homes(gateways, seed).of, users)) == list(range(gateways))


def test_a_users_home_is_the_same_in_every_worker_and_follows_from_the_seed():
    homes = [Homes(10, 7, index=index, workers=3) for index in range(3)]
    assert len({tuple(map(each.of, range(100))) for each in homes}) == 1
    assert [homes[0].of(user) for user in range(100)] != [Homes(10, 8).of(user) for user in range(100)]


def test_a_users_home_says_nothing_of_the_site_that_goes_by_its_number():
    homes = Homes(10, 7)
    pairs = [(user % 10, homes.of(user)) for user in range(5000)]
    assert all(20 < pairs.count((site, home)) < 80 for site in range(10) for home in range(10))


def test_arrivals_are_put_down_to_all_visitors_of_whom_each_worker_has_its_own():
    seen = [{homes.visitor() for _ in range(10_000)} for homes in (Homes(10, 7, index=i, workers=3) for i in range(3))]
    assert seen == [set(range(index, VISITORS, 3)) for index in range(3)]
    ours, again = Homes(10, 7), Homes(10, 7)
    assert [ours.visitor() for _ in range(100)] == [again.visitor() for _ in range(100)]
