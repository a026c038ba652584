"""Quantities are read exactly, and a wrong one says what was expected."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.quantities import parse_rate, parse_share, parse_size, parse_time, time_text

READERS = [parse_time, parse_size, parse_share, parse_rate]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (parse_time, "250ms", 250_000),
        (parse_time, "1.5s", 1_500_000),
        (parse_time, "2m", 120_000_000),
        (parse_time, "1h", 3_600_000_000),
        (parse_time, "0s", 0),
        (parse_share, "20%", 200_000),
        (parse_share, "33.3%", 333_000),
        (parse_rate, "0.1/s", 100),
        (parse_size, "256B", 256),
        (parse_size, "4KiB", 4096),
        (parse_size, "1.5KiB", 1536),
        (parse_size, "1MiB", 1 << 20),
    ],
)
def test_every_unit_is_exact(read: Callable[[object], int], text: str, value: int) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (parse_time, 5, "with its unit"),
        (parse_time, "5", "with its unit"),
        (parse_time, "-3ms", "negative"),
        (parse_time, "1h30m", "with its unit"),
        (parse_time, "1e3s", "with its unit"),
        (parse_time, "٥s", "with its unit"),
        (parse_time, "0.0001ms", "finer than"),
        (parse_time, "9" * 40 + "h", "too large"),
        (parse_time, True, "with its unit"),
        (parse_time, None, "with its unit"),
        (parse_time, ["5s"], "with its unit"),
        (parse_share, "120%", "above 100%"),
        (parse_share, "0.2", "20%"),
        (parse_rate, "fast", "100/s"),
        (parse_rate, "0/s", "above zero"),
        (parse_size, "4", "with its unit"),
        (parse_size, "0.5B", "finer than"),
    ],
)
def test_a_wrong_quantity_says_what_was_expected(read: Callable[[object], int], value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(value)


@given(st.integers(0, 10**12).map(lambda number: number * 1000))
def test_a_time_in_whole_milliseconds_survives_its_text(microseconds: int) -> None:
    assert parse_time(time_text(microseconds)) == microseconds


@given(st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none()))
def test_nothing_but_value_errors_ever_escapes(value: object) -> None:
    for read in READERS:
        try:
            assert read(value) >= 0
        except ValueError as error:
            assert str(error)  # noqa: PT017
