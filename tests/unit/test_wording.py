"""How figures are worded: never a number that says more or less than what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import wording
from reports.headline import WORDS
from reports.markdown import sparkline
from reports.verdict import EXIT_CODES


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0 s"),
        (0.00084, "0.840 ms"),
        (0.0123, "12.3 ms"),
        (0.412, "412 ms"),
        (0.99961, "1.00 s"),
        (1.842, "1.84 s"),
        (62.53, "62.5 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_only_a_whole_is_called_a_hundred_percent_and_only_nothing_zero(value: float) -> None:
    assert wording.share(value) not in ("100%", "0%")


def test_wholes_are_called_what_they_are() -> None:
    assert (wording.share(1.0), wording.share(0.0), wording.share(0.9962)) == ("100%", "0%", "99.62%")


def test_units_in_names_move_behind_the_values() -> None:
    observed = {"delay_ms": 150.5, "pairs": 64, "least_s": {"median": 2, "min": 1, "max": 3}}
    assert wording.labelled(observed) == [("delay", "150.5 ms"), ("pairs", "64"), ("least", "2 (1 to 3) s")]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=50))
def test_a_sparkline_has_one_sign_per_value(values: list[float | None]) -> None:
    line = sparkline(values, 0.0, 1.0)
    assert len(line) == len(values)
    assert all((sign == " ") == (value is None) for sign, value in zip(line, values, strict=True))


def test_every_verdict_has_a_word() -> None:
    assert set(WORDS) == set(EXIT_CODES)
