"""The expectation language: what is read, and what a mistake is told."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.expectations import (
    METRICS,
    OPERATORS,
    UNITS,
    ExpectationSyntaxError,
    Scope,
    check_names,
    parse,
    quantity,
)


@pytest.mark.parametrize(
    ("text", "metric", "op", "value", "scope"),
    [
        ("lookup.success >= 99% outside faults", "lookup.success", ">=", 0.99, Scope("outside_faults")),
        ("store.success>=0.995", "store.success", ">=", 0.995, Scope()),
        ("lookup.p99 <= 250ms during slow ocean", "lookup.p99", "<=", 0.25, Scope("during", "slow ocean")),
        ("lookup.p99.9 < 1.5s before faults", "lookup.p99.9", "<", 1.5, Scope("before_faults")),
        ("lookup.rate > 80/s", "lookup.rate", ">", 80.0, Scope()),
        ("store.hops <= 2.5", "store.hops", "<=", 2.5, Scope()),
        ("recovery <= 2m after last blow", "recovery", "<=", 120.0, Scope("after", "last blow")),
        ("lost == 0", "lost", "==", 0.0, Scope()),
        ("unreachable != 3", "unreachable", "!=", 3.0, Scope()),
    ],
)
def test_what_contracts_promise_is_read(text: str, metric: str, op: str, value: float, scope: Scope) -> None:
    found = parse(text)
    assert (found.metric, found.op, found.value, found.scope) == (metric, op, value, scope)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lookup.sucess >= 99%", "no metric `lookup.sucess`, did you mean `lookup.success`?"),
        ("p99 <= 1s", "did you mean `lookup.p99` or `store.p99`?"),
        ("lookup.foo <= 1s", "of a lookup: success, p50"),
        ("latency <= 1s", "metrics: lookup.success"),
        ("lost = 0", "no operator `=`, did you mean `==`?"),
        ("lookup.p99 <= 250", "did you mean `250ms` or `250s`?"),
        ("lookup.p99 <= 3sec", "did you mean `3s`?"),
        ("lookup.p99 <= -1s", "a time with its unit"),
        ("lookup.success >= 99", "did you mean `99%`?"),
        ("lookup.success >= 120%", "a share is at most 100%"),
        ("lookup.rate >= 100", "did you mean `100/s`?"),
        ("lost <= many", "a plain number"),
        ("lost == 0 during churn", "leave `during churn` out"),
        ("recovery <= 3s during churn", "recovery <= 10s after partition"),
        ("recovery <= 3s after", "`after` what?"),
        ("lookup.p99 <= 1s outside fault", "did you mean `outside faults`?"),
        ("lookup.p99 <= 1s yesterday", "scopes: during NAME"),
        ("lookup.success", "METRIC OP VALUE [SCOPE]"),
        ("", "METRIC OP VALUE [SCOPE]"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(text: str, told: str) -> None:
    with pytest.raises(ExpectationSyntaxError) as caught:
        parse(text)
    assert told in str(caught.value)


def test_a_name_that_is_no_entry_is_told_with_the_nearest_one() -> None:
    expectation = parse("recovery <= 10s after partitin")
    assert check_names(expectation, ["partition", "churn"]) == "no timeline entry `partitin`, did you mean `partition`?"
    assert check_names(parse("recovery <= 10s after storm"), []) == "no timeline entry `storm` (the timeline is empty)"
    assert check_names(parse("recovery <= 10s after churn"), ["partition", "churn"]) is None
    assert check_names(parse("lost == 0"), []) is None


@given(
    metric=st.sampled_from(sorted(METRICS)),
    op=st.sampled_from(sorted(OPERATORS)),
    value=st.integers(0, 10**6),
    spaces=st.sampled_from(["", " ", "  "]),
)
def test_every_metric_reads_with_every_operator(metric: str, op: str, value: int, spaces: str) -> None:
    unit = {"share": "", "time": "ms", "rate": "/s", "count": ""}[METRICS[metric]]
    written = f"{value / 10**6:.6f}" if METRICS[metric] == "share" else f"{value}{unit}"
    found = parse(f"{metric}{spaces}{op}{spaces}{written}")
    assert (found.metric, found.op) == (metric, op)
    assert found.value == pytest.approx(value * {"share": 1e-6, "time": 1e-3}.get(METRICS[metric], 1))


@given(st.text(max_size=60))
def test_no_text_does_anything_but_read_or_be_refused(text: str) -> None:
    with contextlib.suppress(ExpectationSyntaxError):
        parse(text)


@given(st.sampled_from(["time", "share"]), st.decimals(0, 1, places=3))
def test_units_scale_exactly(dimension: str, number: object) -> None:
    for unit, scale in UNITS[dimension].items():  # type: ignore[index]
        expected = float(number * scale)  # type: ignore[operator]
        if dimension == "time" or expected <= 1:
            assert quantity(dimension, f"{number}{unit}") == expected  # type: ignore[arg-type]
