"""A load on a standing session whose own journal fails: it ends by itself, and its session hears nothing of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.events import Events
from harness.experiment import load_experiment
from harness.plan import make_plan, save_plan
from harness.records import PLAN_FILE, Event
from harness.visit import Visit

EXPERIMENT = "{name: by-hand, cluster: {nodes: 3}, load: {rate: 10/s}, duration: 10s}\n"


def full(event: Event) -> None:
    raise HarnessError(f"{event.event}: No space left on device")


def test_a_visit_whose_journal_cannot_be_written_ends_and_its_session_goes_on(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    save_plan(make_plan(load_experiment(tmp_path / "experiment.yaml", [])), tmp_path / PLAN_FILE)
    host: Any = SimpleNamespace(player=SimpleNamespace(runs=[]))
    visit = Visit(host, tmp_path, lambda line: None, lambda: None)
    visit._events = Events(full)
    visit._checked()
    visit._copy(Event(t=1.0, wall="", event="member-exit"))  # as the session's events tell it: nothing is raised there
    with pytest.raises(HarnessError, match="No space left"):
        visit._checked()
