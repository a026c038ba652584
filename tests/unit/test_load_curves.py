"""Curves: what each looks like, and that arrivals follow them."""

import math
from itertools import count, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import arrivals, traced
from loadtests.curves import OWN, along, value_at

RATES = st.floats(0.1, 1000)
TIMES = st.floats(0.1, 100)
EXAMPLES = {
    "ramp": {"to": 50.0, "over": 10.0},
    "step": {"by": 10.0, "every": 5.0},
    "spike": {"to": 90.0, "at": 8.0, "lasts": 4.0},
    "wave": {"lowest": 2.0, "day": 10.0},
}


def made(name, base=10.0, duration=20.0):
    return OWN[name].points(base, duration, EXAMPLES[name])


def due(points, model="constant", until=20.0, **share):
    return list(takewhile(lambda at: at < until, arrivals(model, 1.0, seed=3, curve=points, **share)))


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("ramp", {0: 10, 5: 30, 10: 50, 15: 50}),
        ("step", {0: 10, 4.9: 10, 5: 20, 12: 30, 19: 40}),
        ("spike", {0: 10, 7.9: 10, 8: 90, 11.9: 90, 12: 10, 19: 10}),
        ("wave", {0: 2, 5: 10, 10: 2, 15: 10}),
    ],
)
def test_each_curve_has_its_values(name, seen):
    points = made(name)
    assert {at: value_at(points, at) for at in seen} == pytest.approx(seen, abs=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_arrivals_come_as_often_as_the_curve_says(name):
    points = made(name)
    times = due(points)
    for start in range(20):
        pieces = [value_at(points, start + (step + 0.5) / 1000) for step in range(1000)]
        seen = sum(start <= at < start + 1 for at in times)
        assert abs(seen - sum(pieces) / 1000) <= 1.5  # a grid: never off by more than its ends


@pytest.mark.parametrize("model", ["poisson", "constant"])
@pytest.mark.parametrize("name", OWN)
def test_arrivals_on_a_curve_ascend_and_repeat(name, model):
    times = due(made(name), model)
    assert times == sorted(times)
    assert times == due(made(name), model)


def test_shares_of_a_curve_superpose_to_the_whole():
    points = made("ramp")
    shares = [due(points, index=index, workers=3) for index in range(3)]
    assert sorted(at for share in shares for at in share) == pytest.approx(due(points))


@given(RATES, RATES, TIMES, st.integers(1, 500))
def test_the_inverse_of_a_ramp_is_exact(low, high, over, number):
    at = next(along([(0.0, low), (over, high)], iter([float(number)])))
    inside = min(at, over)
    area = low * inside + (high - low) / over * inside**2 / 2 + high * max(0.0, at - over)
    assert area == pytest.approx(number, rel=1e-6)


def test_a_rate_that_ends_ends_the_arrivals():
    times = list(along([(0.0, 10.0), (1.0, 10.0), (1.0, 0.0)], map(float, count(1))))
    assert times == pytest.approx([n / 10 for n in range(1, 11)])
    assert math.isfinite(times[-1])


def test_a_trace_is_dealt_round():
    assert [list(traced([1.0, 2.0, 3.0, 4.0, 5.0], index=i, workers=2)) for i in range(2)] == [[1, 3, 5], [2, 4]]
