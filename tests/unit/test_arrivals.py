"""Arrivals: the right mean rate, the same for the same seed, no drift, and workers' shares add up to the whole."""

import math
from itertools import islice, pairwise
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import arrivals, constant

RATES = st.floats(min_value=0.1, max_value=20_000)
SEEDS = st.integers(min_value=0, max_value=2**32)
MODELS = st.sampled_from(["poisson", "constant"])
N = 2000


def take(model, rate, *, count=N, **share):
    return list(islice(arrivals(model, rate, **share), count))


@given(MODELS, RATES, SEEDS, st.integers(0, 3))
def test_due_times_ascend_and_never_lie_before_the_clock(model, rate, seed, index):
    due = take(model, rate, seed=seed, index=index, workers=4, count=200)
    assert due[0] >= 0
    assert all(one < other for one, other in pairwise(due))


@given(MODELS, RATES, SEEDS, st.integers(0, 3))
def test_same_arguments_give_the_same_arrivals(model, rate, seed, index):
    share = {"seed": seed, "index": index, "workers": 4, "count": 100}
    assert take(model, rate, **share) == take(model, rate, **share)


@given(RATES, SEEDS)
def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential(rate, seed):
    due = take("poisson", rate, seed=seed)
    gaps = [other - one for one, other in pairwise([0.0, *due])]
    # Mean and standard deviation both estimate 1 / rate; six standard errors of each (1 and sqrt(2) over sqrt(N)) make
    # a false alarm a matter of one in a billion.
    mean = fmean(gaps)
    deviation = math.sqrt(fmean((gap - mean) ** 2 for gap in gaps))
    assert abs(mean * rate - 1) < 6 / math.sqrt(N)
    assert abs(deviation * rate - 1) < 6 * math.sqrt(2 / N) * 1.5


@given(SEEDS, RATES)
def test_another_worker_or_seed_draws_other_gaps(seed, rate):
    mine = take("poisson", rate, seed=seed, index=0, workers=2, count=20)
    assert mine != take("poisson", rate, seed=seed, index=1, workers=2, count=20)
    assert mine != take("poisson", rate, seed=seed + 1, index=0, workers=2, count=20)


def test_constant_arrivals_do_not_drift():
    rate = 3.0  # whose gap has no exact binary form: summed up, it is off by 1e-8 after so many
    number = 300_000
    assert next(islice(constant(rate), number, None)) == number / rate


@given(st.integers(1, 5), RATES)
def test_shares_of_constant_arrivals_superpose_to_one_even_grid(workers, rate):
    shares = [take("constant", rate, seed=1, index=i, workers=workers, count=60) for i in range(workers)]
    together = sorted(due for share in shares for due in share)
    assert together == take("constant", rate, seed=1, count=60 * workers)


@given(st.integers(1, 5), SEEDS)
def test_shares_of_poisson_arrivals_superpose_to_the_whole_rate(workers, seed):
    until = 20.0
    rate = 500.0
    total = 0
    for index in range(workers):
        for due in arrivals("poisson", rate, seed=seed, index=index, workers=workers):
            if due > until:
                break
            total += 1
    expected = rate * until  # a Poisson count: its standard deviation is its square root
    assert abs(total - expected) < 6 * math.sqrt(expected)
