"""Locust load on a cluster by hand, as a scope: it runs beside whatever happens inside a `with` block.

The same workers as in a run, with the same rows; what is counted afterwards is read from those rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.load import LoadDriver
from harness.records import LOAD_LOGS_DIR, OPERATIONS_DIR, Plan
from harness.runner import GRACE, HEAD_START, PRELOAD_PER_KEY, check_workers, load_configs
from harness.session import Session


@dataclass
class LoadSeen:
    """What became of the operations of the load; complete when the block has been left."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)  # kind -> outcome -> how many
    started: float = 0.0  # monotonic, s

    def count(self, kind: str) -> int:
        """Operations of a kind (`store`, `lookup`)."""
        return sum(self.outcomes.get(kind, Counter()).values())

    def success(self, kind: str) -> float:
        """The share of ok among all that were due, from 0 to 1. Raises ZeroDivisionError if there were none."""
        return self.outcomes[kind]["ok"] / self.count(kind)


@contextmanager
def load(plan: Plan, session: Session, run_dir: Path) -> Iterator[LoadSeen]:
    """Have the plan's load run while the block does, for the plan's duration; wait for its end.

    Raises LoadFailed if a worker dies or first keys are not stored.
    """
    driver = LoadDriver(load_configs(plan, session, run_dir), spawn=session.spawn, folder=run_dir / LOAD_LOGS_DIR)
    settings, seen = plan.experiment["load"], LoadSeen()
    try:
        driver.launch()
        driver.wait_up()
        driver.preload(GRACE + settings["timeout_us"] / 1e6 + PRELOAD_PER_KEY * settings["keys"])
        seen.started = time.monotonic() + HEAD_START
        driver.start_clock(seen.started)
        yield seen
        left = seen.started + plan.experiment["duration_us"] / 1e6 - time.monotonic()
        driver.wait_drained(max(0.0, left) + GRACE + settings["timeout_us"] / 1e6)
        check_workers(driver)
        driver.quit()
    finally:
        driver.close()
    seen.outcomes = outcomes(run_dir)


def outcomes(run_dir: Path) -> dict[str, Counter[str]]:
    """Outcomes by kind, of the rows of the phase `load`."""
    import pyarrow as pa

    found: dict[str, Counter[str]] = {}
    for path in sorted((run_dir / OPERATIONS_DIR).glob("*.arrow")):
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as rows:
            for row in rows.read_all().select(["kind", "outcome", "phase"]).to_pylist():
                if row["phase"] == "load":
                    found.setdefault(row["kind"], Counter())[row["outcome"]] += 1
    return found
