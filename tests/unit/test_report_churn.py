"""Realised sessions and downtimes: by hand, and for every distribution against draws of the fault itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from chaos.distributions import OneDistribution
from harness.records import Event
from reports.churn import product_limit, quantile, realised

ASKED = {"session": {"exponential": {"mean": "4s"}}, "downtime": {"exponential": {"mean": "1s"}}}


def event(t: float, kind: str, member: str) -> Event:
    return Event(t=t, wall="", event=kind, name="churn", targets=[member])


def test_sessions_and_downtimes_are_read_from_when_members_left_and_served_again() -> None:
    journal = [
        event(12.0, "injected", "node-1"),
        event(13.0, "healed", "node-1"),
        event(15.0, "injected", "node-2"),
        event(17.0, "injected", "node-1"),  # a whole session of 4 s
        event(20.0, "healed", "node-2"),  # the end of the fault took it back: cut
        event(20.0, "healed", "node-1"),
    ]
    sessions, downtimes = realised(ASKED, journal, 20.0)
    assert (sessions.whole, sessions.cut, sessions.quartiles_s) == (1, 0, [4.0, 4.0, 4.0])
    assert (downtimes.whole, downtimes.cut, downtimes.quartiles_s) == (1, 2, [1.0, None, None])
    assert sessions.asked == "exponential mean 4s"


def test_a_member_that_stays_to_the_end_counts_as_a_session_that_was_cut() -> None:
    journal = [event(12.0, "injected", "node-1"), event(13.0, "healed", "node-1")]
    sessions, _ = realised(ASKED, journal, 20.0)
    assert (sessions.whole, sessions.cut, sessions.quartiles_s) == (0, 1, [None, None, None])


def test_what_was_cut_counts_as_longer_than_it_was_seen() -> None:
    """By hand: S drops to 3/4 at 1, to 3/8 at 3 (two left), to 0 at 4."""
    assert product_limit([(1.0, True), (2.0, False), (3.0, True), (4.0, True)]) == [1.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "written",
    [
        {"exponential": {"mean": "20s"}},
        {"weibull": {"shape": 0.5, "mean": "20s"}},
        {"pareto": {"shape": 1.5, "mean": "20s"}},
        {"lognormal": {"mean": "20s", "sigma": 1.2}},
    ],
)
def test_quartiles_are_those_of_what_the_fault_draws(written: dict[str, Any]) -> None:
    rng, chosen = random.Random(1), OneDistribution.model_validate(written).chosen
    drawn = sorted(chosen.draw(rng) / 1e6 for _ in range(20_000))
    [(name, options)] = written.items()
    for share in (0.25, 0.5, 0.75):
        below = sum(value <= (quantile(name, options, share) or 0.0) for value in drawn) / len(drawn)
        assert below == pytest.approx(share, abs=0.015)  # five standard deviations


def test_a_trace_has_no_quartiles_of_its_own() -> None:
    [sessions] = realised({"session": {"trace": {"file": "x.csv"}}}, [], 20.0)
    assert sessions.asked_quartiles_s == [None, None, None]
