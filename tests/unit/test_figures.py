"""A worker's figures: windows of the load's rows, and the generator's lag."""

from hypothesis import given
from hypothesis import strategies as st

from loadtests.figures import LagMeter, Window, nearest_rank
from loadtests.recorder import Operation


def row(kind="lookup", *, lag=0.001, latency=0.01, outcome="ok", error="", phase="load"):
    return Operation(kind, "ab", 1.0, 1.0 + lag, 1.0 + latency, outcome, error, "n", 0, 0, -1, phase, "w", 1)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_lag_quantiles_are_never_told_too_low_and_at_most_five_percent_too_high(lags, share):
    meter = LagMeter()
    for start in range(0, len(lags), 3):
        meter.add(lags[start : start + 3])
    exact = sorted(lags)[max(0, -int(-share * len(lags) // 1) - 1)]
    assert meter.largest == max(lags)
    assert min(exact, max(lags)) <= meter.quantile(share) * (1 + 1e-9)
    assert meter.quantile(share) <= max(exact * 1.05, 1e-4) * (1 + 1e-9)


def test_a_window_holds_what_finished_since_it_was_last_taken():
    window = Window()
    for latency in (0.010, 0.020, 0.030):
        window.add(row(latency=latency))
    window.add(row("store", outcome="timeout", latency=5.0))
    taken = window.take()
    assert taken["lookup"] == {"count": 3, "ok": 3, "p50_ms": 20.0, "p99_ms": 30.0}
    assert taken["store"] == {"count": 1, "ok": 0, "p50_ms": 5000.0, "p99_ms": 5000.0}
    assert window.take()["lookup"] == {"count": 0, "ok": 0, "p50_ms": None, "p99_ms": None}
    assert window.count == 4


def test_only_the_load_is_counted_and_shed_operations_have_no_lag():
    window = Window()
    window.add(row(phase="preload", lag=9.0))
    window.add(row(error="shed", outcome="error", lag=9.0))
    window.add(row(lag=0.002))
    taken = window.take()
    assert taken["lookup"]["count"] == 2
    assert taken["lag_max_ms"] == 2.0
    assert window.lag.told()["lag_max_ms"] == 2.0


def test_quantiles_are_nearest_ranks():
    assert nearest_rank([0.001, 0.002, 0.003, 0.004], 0.5) == 2.0
    assert nearest_rank([0.001], 0.99) == 1.0
    assert nearest_rank([], 0.99) is None
