"""The bytes that connections make a node hold, against the plain sum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.budget import Budget


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40))), st.integers(0, 100))
def test_no_more_than_the_budget_is_ever_held_and_whoever_holds_most_goes(
    notes: list[tuple[int, int]], most: int
) -> None:
    budget, held = Budget[int](most), dict[int, int]()
    for holder, size in notes:
        held[holder] = size
        gone = budget.note(holder, size)
        if sum(held.values()) > most:
            assert gone is not None
            assert held[gone] == max(held.values())
            held[gone] = 0
        else:
            assert gone is None
        assert budget.total == sum(held.values()) <= max(most, 0)
