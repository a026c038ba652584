"""Seeds of the loads on a session that stays: each load has one of its own, whoever chose it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import standing
from harness.errors import UsageError
from harness.events import Events

SEED = 40  # the session's


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> standing.Standing:
    """One without a cluster, on which every load has ended at once."""
    monkeypatch.setattr(standing, "Visit", lambda *_: SimpleNamespace(run=lambda: None))
    plan, booted, nothing = SimpleNamespace(seed=SEED), SimpleNamespace(cluster=None), SimpleNamespace()
    parts: list[Any] = [plan, booted, nothing]
    return standing.Standing(*parts, Path(), Events(lambda event: None), ttl=60.0)


def offered(session: standing.Standing) -> int:
    told: list[dict[str, Any]] = []
    session.answer({"do": "seed"}, told.append)
    return int(told[0]["seed"])


def load(session: standing.Standing, seed: int, **more: Any) -> None:
    session.answer({"do": "load", "run_dir": ".", "seed": seed, **more}, lambda line: None)


def test_a_seed_that_somebody_gave_is_not_offered_to_the_next_load(session: standing.Standing) -> None:
    load(session, SEED + 2)
    for expected in (SEED + 1, SEED + 3):
        seed = offered(session)
        assert seed == expected
        load(session, seed, offered=True)


def test_two_loads_that_are_asked_for_at_once_have_two_seeds(session: standing.Standing) -> None:
    seeds = [offered(session), offered(session)]
    assert len(set(seeds)) == 2
    for seed in seeds:
        load(session, seed, offered=True)


def test_a_seed_that_was_offered_to_one_load_is_refused_to_another_that_names_it(session: standing.Standing) -> None:
    seed = offered(session)
    with pytest.raises(UsageError, match=f"--seed {seed}: "):
        load(session, seed)
    load(session, seed, offered=True)


def test_a_seed_is_had_once(session: standing.Standing) -> None:
    load(session, 7)
    for more in ({}, {"offered": True}):
        with pytest.raises(UsageError, match="--seed 7: a load with this seed"):
            load(session, 7, **more)
