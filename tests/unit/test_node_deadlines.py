"""Deadlines: everything comes out once, never early, at most one step late, and not when it is settled."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.deadlines import TICK, Deadlines


@dataclass(eq=False)
class Request:
    due: float
    settled: bool = False


class Noting(RuleBasedStateMachine):
    """Against a list of all that is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.deadlines = Deadlines[Request]()
        self.under_way: list[Request] = []

    @rule(after=st.floats(0, 3))
    def note(self, after: float) -> None:
        request = Request(self.now + after)
        self.deadlines.note(request.due, request)
        self.under_way.append(request)

    @rule(which=st.randoms(use_true_random=False))
    def settle(self, which: object) -> None:
        if self.under_way:
            self.under_way.pop(which.randrange(len(self.under_way))).settled = True  # type: ignore[attr-defined]

    @rule(passed=st.floats(0, 1))
    def take(self, passed: float) -> None:
        self.now += passed
        taken = list(self.deadlines.take(self.now))
        steps = [int(request.due / TICK) for request in taken]
        assert steps == sorted(steps)
        assert all(request.due <= self.now for request in taken)
        left = [request for request in self.under_way if request not in taken]
        assert len(left) + len(taken) == len(self.under_way)
        assert all(request.due > self.now - 1.01 * TICK for request in left)
        self.under_way = left

    @invariant()
    def the_first_is_known(self) -> None:
        first = self.deadlines.first()
        if not self.under_way:
            assert first is None
        else:
            earliest = min(request.due for request in self.under_way)
            assert first is not None
            assert earliest <= first <= earliest + 1.01 * TICK


TestNoting = Noting.TestCase
TestNoting.settings = settings(deadline=None, max_examples=60)


def test_what_is_noted_while_others_are_taken_is_not_lost() -> None:
    deadlines = Deadlines[Request]()
    for due in (1.0, 1.001, 2.0):
        deadlines.note(due, Request(due))
    seen = []
    for request in deadlines.take(5.0):
        seen.append(request.due)
        if len(seen) == 1:
            deadlines.note(0.5, Request(0.5))
    assert seen == [1.0, 0.5, 1.001, 2.0]


def test_who_stops_taking_costs_nobody_else_a_turn() -> None:
    deadlines = Deadlines[Request]()
    for due in (1.0, 1.001, 2.0):
        deadlines.note(due, Request(due))
    assert next(deadlines.take(5.0)).due == 1.0
    assert [request.due for request in deadlines.take(5.0)] == [1.001, 2.0]
