"""The percentile curve: numpy's quantiles, as far as there are rows to carry them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.curve import points, quantiles_of


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_quantiles_of_sorted_values_are_numpys(values: list[float], shares: list[float]) -> None:
    latency, q = np.array(values), np.array(shares)
    assert quantiles_of(np.sort(latency), q) == pytest.approx(np.quantile(latency, q), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("rows", "last"), [(60, 20), (3_000, 1_000), (300_000, 100_000)])
def test_a_curve_ends_where_fewer_than_three_rows_lie_beyond(rows: int, last: float) -> None:
    drawn = points(np.arange(rows, dtype=float))
    assert last * 0.9 < drawn[-1]["beyond"] <= last
    assert [one["ms"] for one in drawn] == sorted(one["ms"] for one in drawn)


def test_a_handful_of_operations_has_no_curve() -> None:
    assert points(np.ones(49)) == []
