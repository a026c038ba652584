"""Recovery after a fault, against a slow and obvious way to compute it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reports.recovery import ALPHA, STEP, WIDTH, is_bad, recovery_after
from reports.windows import Window, Windows

Change = tuple[float, float, float, float]  # from, to, share that fails, latency


def load(changes: list[Change], *, rate: float = 40, end: float = 40, seed: int = 1) -> pd.DataFrame:
    """Operations at a constant rate, every fifth a store; ok after 10 ms but where a change says otherwise."""
    rng = np.random.default_rng(seed)
    intended = np.arange(0.5 / rate, end, 1 / rate)
    latency = np.full(len(intended), 0.010)
    failed = np.zeros(len(intended), dtype=bool)
    for begin, until, share, late in changes:
        inside = (intended >= begin) & (intended < until)
        latency[inside] = late
        failed |= inside & (rng.random(len(intended)) < share)
    return pd.DataFrame(
        {
            "kind": np.where(np.arange(len(intended)) % 5 == 0, "store", "lookup"),
            "intended": intended,
            "finished": intended + latency,
            "latency": latency,
            "outcome": np.where(failed, "timeout", "ok"),
        }
    )


CUT = Window("cut", "partition", 10.0, 15.0)
ONE = Windows([CUT], [10.0], 40.0)


def too_many(count: int, of: int, share: float) -> bool:
    tail = sum(math.comb(of, n) * share**n * (1 - share) ** (of - n) for n in range(count, of + 1))
    return tail < ALPHA


def oracle(rows: pd.DataFrame, window: Window, until: float) -> float | None:
    """Window by window, row by row."""
    steps = math.floor((until - window.healed - WIDTH) / STEP + 1e-9) + 1
    good = [True] * steps
    for kind in ("lookup", "store"):
        of_kind = [row for row in rows.to_dict("records") if row["kind"] == kind]
        before = [row for row in of_kind if row["finished"] < 10]
        failures = sum(row["outcome"] != "ok" for row in before) / len(before)
        p99 = float(np.quantile([row["latency"] for row in before], 0.99))
        limit = max(2 * p99, p99 + 0.05)
        for step in range(steps):
            begin = window.healed + step * STEP
            inside = [row for row in of_kind if begin <= row["intended"] < begin + WIDTH]
            failed = sum(row["outcome"] != "ok" for row in inside)
            slow = sum(row["latency"] > limit for row in inside)
            good[step] &= not too_many(failed, len(inside), failures + 0.01) and not too_many(slow, len(inside), 0.01)
    first = next((step for step in range(steps) if all(good[step:])), None)
    return None if first is None else round(first * STEP, 6)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(10, 22), st.floats(0, 6), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([0.01, 0.3])
        ),
        max_size=3,
    ),
    st.integers(0, 99),
)
@example([(15.75, 5.5, 0.0, 0.3)], 0)  # well in the very last window, which ends with the rows
def test_recovery_is_what_the_slow_way_says(changes: list[tuple[float, float, float, float]], seed: int) -> None:
    rows = load(
        [(begin, begin + long, share, late) for begin, long, share, late in changes], rate=25, end=24, seed=seed
    )
    windows = Windows([CUT], [10.0], 24.0)
    found = recovery_after(CUT, windows, rows)
    assert found.known
    assert found.seconds == oracle(rows, CUT, 24.0)


def test_a_network_that_is_well_at_the_heal_has_recovered_at_once() -> None:
    assert recovery_after(CUT, ONE, load([(10, 15, 0.8, 1.0)])).seconds == 0.0


def test_failures_after_the_heal_put_recovery_off() -> None:
    found = recovery_after(CUT, ONE, load([(10, 19, 0.8, 0.01)]))
    assert found.seconds == pytest.approx(4.0, abs=0.5)  # the last windows hold too few failures to show


def test_slowness_after_the_heal_puts_recovery_off_though_all_succeed() -> None:
    found = recovery_after(CUT, ONE, load([(10, 18, 0.0, 0.2)]))
    assert found.seconds == pytest.approx(3.0, abs=0.5)


def test_one_percent_of_failures_more_is_no_sign_of_damage() -> None:
    assert recovery_after(CUT, ONE, load([(15, 40, 0.01, 0.01)], rate=400)).seconds == 0.0


def test_a_second_fault_ends_the_looking() -> None:
    windows = Windows([CUT, Window("kill", "kill", 20.0, 20.0)], [10.0, 20.0], 40.0)
    found = recovery_after(CUT, windows, load([(10, 30, 0.8, 1.0)]))
    assert (found.seconds, found.seen, found.known) == (None, 5.0, True)


def test_who_waits_when_the_next_fault_begins_is_held_against_that_one_alone() -> None:
    windows = Windows([CUT, Window("kill", "kill", 20.0, 20.0)], [10.0, 20.0], 40.0)
    found = recovery_after(CUT, windows, load([(19.945, 20, 0.0, 1.0)], rate=1000))
    assert (found.seconds, found.seen) == (0.0, 5.0)
    assert recovery_after(CUT, windows, load([(19.8, 20, 0.0, 1.0)], rate=1000)).seconds is None, (
        "they waited before it"
    )


def test_less_than_one_window_shows_nothing() -> None:
    windows = Windows([CUT], [10.0], 17.5)
    found = recovery_after(CUT, windows, load([], end=17.5))
    assert (found.seconds, found.known) == (None, False)


def test_silence_after_the_heal_shows_nothing() -> None:
    rows = load([])
    found = recovery_after(CUT, ONE, rows[(rows["intended"] < 20) | (rows["intended"] > 25)])
    assert found.why == "there are moments after the heal without any operation"


def test_too_little_before_the_first_fault_shows_nothing() -> None:
    found = recovery_after(CUT, ONE, load([], rate=4))
    assert "fewer than 50" in found.why


def test_a_fault_that_was_never_healed_has_no_recovery() -> None:
    window = Window("cut", "partition", 10.0, math.inf)
    assert recovery_after(window, Windows([window], [10.0], 40.0), load([])).why == "it was never healed"


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.5]))
def test_the_binomial_bound_is_exact(count: int, of: int, share: float) -> None:
    count = min(count, of)
    assert is_bad(np.array([count]), np.array([of]), share).tolist() == [too_many(count, of, share)]


def test_where_everything_failed_before_nothing_is_worse() -> None:
    assert is_bad(np.array([5]), np.array([5]), 1.01).tolist() == [False]
