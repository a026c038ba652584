"""Scopes and figures, against slow and obvious ways to compute the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.expectations import Scope
from harness.records import Action, Event
from reports.metrics import measure, rows_for_quantile
from reports.windows import TAIL, Window, Windows, windows_of


def event(kind: str, t: float, name: str = "cut", action: int | None = 0, **fields: object) -> Event:
    return Event(t=t, wall="", event=kind, name=name, fault="partition", action=action, **fields)  # type: ignore[arg-type]


def action(until: float | None) -> Action:
    return Action(
        at_us=0, until_us=None if until is None else int(until * 1e6), fault="f", name="cut", entry=0, targets=[]
    )


def rows(latencies: Sequence[float], outcome: str = "ok") -> pd.DataFrame:
    columns = {"latency": latencies, "outcome": [outcome] * len(latencies)}
    return pd.DataFrame({**columns, "hops": [-1] * len(latencies), "rpcs": [2] * len(latencies)})


moments = st.floats(0, 60, allow_nan=False)
spans = st.lists(st.tuples(moments, st.floats(0, 20)), max_size=5)
operations = st.lists(st.tuples(moments, st.floats(0, 10)), max_size=30)


def made(intervals: Sequence[tuple[float, float]]) -> Windows:
    faults = [Window(f"f{n}", "f", start, start + length) for n, (start, length) in enumerate(sorted(intervals))]
    return Windows(faults, [window.start for window in faults], 60.0)


@given(spans, operations)
def test_outside_faults_means_that_no_moment_lies_in_any_window(
    intervals: list[tuple[float, float]], ops: list[tuple[float, float]]
) -> None:
    windows = made(intervals)
    intended = np.array([at for at, _ in ops], dtype=float)
    finished = intended + np.array([length for _, length in ops], dtype=float)
    expected = [
        all(end < window.start or begin > window.until for window in windows.faults)
        for begin, end in zip(intended, finished, strict=True)
    ]
    assert windows.covers(Scope("outside_faults"), intended, finished).tolist() == expected


@given(spans, operations)
def test_other_scopes_go_by_the_intended_start(
    intervals: list[tuple[float, float]], ops: list[tuple[float, float]]
) -> None:
    windows = made([*intervals, (20.0, 5.0)])
    intended = np.array([at for at, _ in ops], dtype=float)
    starts = [window.start for window in windows.faults]
    for window in windows.faults:
        later = [start for start in starts if start > window.healed]
        until = min([*later, 60.0])
        during = [window.start <= at <= window.healed + TAIL for at in intended]
        after = [window.healed <= at < until for at in intended]
        assert windows.covers(Scope("during", window.name), intended, intended).tolist() == during
        assert windows.covers(Scope("after", window.name), intended, intended).tolist() == after
    before = [at < min(starts) for at in intended]
    assert windows.covers(Scope("before_faults"), intended, intended).tolist() == before
    assert windows.covers(Scope(), intended, intended).all()


@given(spans)
def test_a_scope_lasts_as_long_as_the_moments_in_it(intervals: list[tuple[float, float]]) -> None:
    windows = made(intervals)
    grid = np.arange(0.005, 60, 0.01)
    outside = windows.covers(Scope("outside_faults"), grid, grid).sum() * 0.01
    assert windows.seconds(Scope("outside_faults")) == pytest.approx(outside, abs=0.02 * (2 * len(intervals) + 1))


def test_a_window_reaches_from_the_first_injection_to_the_last_heal() -> None:
    events = [
        event("inject", 10, action=0),
        event("inject", 12, action=1),
        event("heal", 14, action=0),
        event("healed", 14.5, action=0),
        event("heal", 15.9, action=1),
        event("healed", 16, action=1),
    ]
    (window,) = windows_of(events, [action(14), action(16)], 60).faults
    assert (window.start, window.healed, window.until) == (10, 16, 21)


def test_a_kill_that_stays_is_over_when_it_was_seen() -> None:
    seen = [event("inject", 10), event("injected", 10.1), event("observe", 10.4, effective=True)]
    (window,) = windows_of(seen, [action(None)], 60).faults
    assert window.healed == 10.4


def test_a_fault_that_was_never_healed_is_in_force_to_the_end() -> None:
    seen = [event("inject", 10), event("observe", 10.4, effective=True)]
    windows = windows_of(seen, [action(20)], 60)
    assert math.isinf(windows.faults[0].healed)
    assert not windows.covers(Scope("outside_faults"), np.array([50.0]), np.array([51.0])).any()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=400))
def test_a_quantile_comes_from_all_rows_or_from_none(latencies: list[float]) -> None:
    for name, q in (("p50", Fraction(1, 2)), ("p90", Fraction(9, 10)), ("p99", Fraction(99, 100))):
        found = measure(name, rows(latencies, "timeout"), 60)
        ordered = sorted(latencies)
        place = q * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        expected = ordered[low] + float(place - low) * (ordered[high] - ordered[low])
        if len(latencies) * (1 - q) >= 3:
            assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-12)
        else:
            assert found.value is None


def test_how_many_rows_a_quantile_needs() -> None:
    assert [rows_for_quantile(q) for q in (0.5, 0.9, 0.99, 0.999)] == [6, 30, 300, 3000]


def test_a_share_needs_fifty_rows() -> None:
    assert measure("success", rows([0.1] * 50), 1).value == 1.0
    few = measure("success", rows([0.1] * 49), 1)
    assert few.value is None
    assert few.why == "49 operations, and 50 are needed"


def test_unknown_hops_are_left_out_of_the_mean() -> None:
    assert measure("hops", rows([0.1] * 80), 1).value is None
    assert measure("rpcs", rows([0.1] * 80), 1).value == 2.0


def test_a_rate_counts_what_was_due_and_a_maximum_needs_a_row() -> None:
    assert measure("rate", rows([0.1] * 30, "error"), 10).value == 3.0
    assert measure("max", rows([0.1, 0.7]), 10).value == 0.7
    assert measure("max", rows([]), 10).value is None
