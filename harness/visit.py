"""Load on a session that stays: `kadstorm load --session`, as the session's supervisor runs it.

A visit has a run folder of its own, with rows, journal, samples and plan as a run has them, so that it has a report. The
faults in its journal are those that people inject by hand while it goes on, and those that are in force when it begins:
they are copied from the session's own events, numbered anew, into the visit's plan. Cluster and faults are the session's:
a visit starts its workers, and ends them, and leaves the rest as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from harness.boot import Booted
from harness.environment import environment
from harness.errors import HarnessError, KadstormError
from harness.events import Consumer, Events
from harness.interrupt import Interrupted
from harness.journal import Journal
from harness.load import LoadDriver
from harness.load_options import patience
from harness.loading import GRACE, HEAD_START, check_cluster, check_workers, driver_of, preload, read_back
from harness.plan import load_plan, save_plan
from harness.player import ActionRun, Player
from harness.records import EVENTS_FILE, NODES_STREAM, PLAN_FILE, Action, Event, Plan
from harness.sampler import Sampler
from harness.session import Session

TELL_EVERY = 1.0  # s between two lines of progress
COPIED: Final = (  # the session's events that are the visit's, too
    "before", "inject", "injected", "observe", "heal", "healed", "heal-observed", "skipped", "escalated",
    "member-exit", "member-up", "toxiproxy-lost", "toxiproxy-restarted",
)  # fmt: skip

Tell = Callable[[dict[str, Any]], None]


class Host(Protocol):
    """What a visit needs of the session that it visits."""

    session: Session
    player: Player
    booted: Booted
    zero: float  # the session's t = 0, as CLOCK_MONOTONIC

    def subscribe(self, consumer: Consumer) -> None: ...
    def unsubscribe(self, consumer: Consumer) -> None: ...
    def last_seen(self, action: int) -> Event | None:
        """The last time that the effect of an action was measured."""
        ...


class Visit:
    """One load on one session. ``check`` is called several times a second; what it raises ends the load."""

    def __init__(self, host: Host, run_dir: Path, tell: Tell, check: Callable[[], None]) -> None:
        """Raises HarnessError if the run folder, which the asking command made, cannot be used."""
        self._host, self._run_dir, self._tell, self._check = host, run_dir, tell, check
        self._plan: Plan = load_plan(run_dir / PLAN_FILE)
        self._reasons: list[dict[str, str]] = []
        self._copying = threading.Lock()
        self._numbers: dict[int, int] = {}  # the session's number of an action -> ours
        self._zero: float | None = None
        self._broken: HarnessError | None = None
        self._told_at = 0.0

    def run(self) -> None:
        """The load from its first key to its last read-back, whatever comes; all that went wrong is in the journal."""
        journal = Journal(self._run_dir / EVENTS_FILE)
        self._events = Events(journal.write)
        gaps = len(self._host.booted.keeper.gaps)
        try:
            self._journalled()
            for gap in self._host.booted.keeper.gaps[gaps:]:
                self._reason("inconclusive", str(gap))
            self._events.emit("end", detail={"reasons": self._reasons, "timings": {}})
        finally:
            journal.close()

    def _journalled(self) -> None:
        try:
            self._phases()
        except Interrupted as error:
            self._reason("interrupted", str(error))
            self._events.emit("interrupted", detail={"signal": "SIGINT"})
        except KadstormError as error:
            self._reason("error", str(error))
            self._events.emit("error", detail={"message": str(error)})

    def _reason(self, kind: str, text: str) -> None:
        self._reasons.append({"kind": kind, "text": text})

    # --- phases -----------------------------------------------------------------------------------

    def _phases(self) -> None:
        host, experiment = self._host, self._plan.experiment
        detail = {"id": host.session.id, "environment": environment(), "seed": self._plan.seed, "replay": ""}
        self._events.emit("session", name=experiment["name"], detail=detail)
        sampler = Sampler(host.booted.cluster, self._events, self._run_dir / NODES_STREAM)
        load = driver_of(
            self._plan,
            host.session,
            self._run_dir,
            host.booted.cluster.topology,
            host.booted.cluster.layout,
            self._events,
            self._checked,
        )
        try:
            load.launch()
            load.wait_up()
            self._preload(load)
            self._play(load, sampler)
            self._read_back(load)
        finally:
            load.close()
            sampler.close()

    def _preload(self, load: LoadDriver) -> None:
        self._events.emit("phase", name="preload")
        if why := preload(load, self._plan, self._events):
            self._reason("inconclusive", why)

    def _play(self, load: LoadDriver, sampler: Sampler) -> None:
        experiment = self._plan.experiment
        self._zero = time.monotonic() + HEAD_START
        self._events.emit("phase", name="load")
        self._events.start_clock(self._zero)
        self._events.emit("clock")
        load.start_clock(self._zero)
        self._copy_those_in_force()
        self._host.subscribe(self._copy)
        sampler.start()
        try:
            seconds = experiment["duration_us"] / 1e6
            while time.monotonic() < self._zero + seconds:
                self._checked()
                check_workers(load)
                check_cluster(self._host.booted.cluster.members)
                self._tell_progress(load, seconds)
                time.sleep(0.1)  # the clock itself is what is waited for
            done = load.wait_drained(GRACE + patience(experiment["load"]))
        finally:
            self._host.unsubscribe(self._copy)
        self._events.emit("load", name="drained", detail=asdict(done))
        check_workers(load)

    def _read_back(self, load: LoadDriver) -> None:
        self._events.emit("phase", name="readback")
        self._say({"said": "reading the keys back"})
        read_back(load, self._plan, self._host.booted.cluster.members, self._events)

    def _checked(self) -> None:
        """Raise if the load is to end; that whoever asked for it is gone shows when it is told something."""
        self._check()
        if self._broken is not None:
            raise self._broken
        if time.monotonic() - self._told_at >= 2 * TELL_EVERY:
            self._say({"alive": True})

    def _tell_progress(self, load: LoadDriver, seconds: float) -> None:
        stats = load.stats()
        if stats is not None and time.monotonic() - self._told_at >= TELL_EVERY:
            kinds = {name: asdict(kind) for name, kind in stats.kinds().items()}
            self._say({"progress": stats.t, "of": seconds, "lag_ms": stats.lag_ms, **kinds})

    def _say(self, line: dict[str, Any]) -> None:
        self._told_at = time.monotonic()
        try:
            self._tell(line)
        except OSError as error:
            raise Interrupted("whoever asked for this load has gone") from error

    # --- the session's faults -----------------------------------------------------------------------

    def _save_faults(self) -> None:
        """Write the plan anew, with the faults so far: also for a reader after the session was killed."""
        runs = self._host.player.runs
        self._plan.actions = [self._shifted(runs[number]) for number in self._numbers]
        save_plan(self._plan, self._run_dir / PLAN_FILE)

    def _copy_those_in_force(self) -> None:
        for run in list(self._host.player.runs):
            if run.state == "active":
                self._emit_of(run.index, Event(t=None, wall="", event="inject", **self._title(run)))
                self._emit_of(run.index, Event(t=None, wall="", event="injected", **self._title(run)))
                if (seen := self._host.last_seen(run.index)) is not None:
                    self._emit_of(run.index, seen)

    @staticmethod
    def _title(run: ActionRun) -> dict[str, Any]:
        return {**run.title, "detail": {"note": "in force since before the load began"}}

    def _copy(self, event: Event) -> None:
        if event.event in COPIED:
            try:
                self._emit_of(event.action, event)
            except HarnessError as error:  # the visit's own, and no matter of whoever tells the session's events
                self._broken = error

    def _emit_of(self, action: int | None, event: Event) -> None:
        with self._copying:
            number = None if action is None else self._numbers.setdefault(action, len(self._numbers))
            if event.event in ("inject", "healed"):
                self._save_faults()  # what is planned is written before it is said to have happened
            fields = {
                name: getattr(event, name)
                for name in ("name", "fault", "targets", "asked", "observed", "effective", "detail")
            }
            self._events.emit(event.event, action=number, **fields)

    def _shifted(self, run: ActionRun) -> Action:
        """An action of the session on the visit's clock. What is to be healed by hand is in force to the end until it is."""
        action, by = run.action, round(((self._zero or 0.0) - self._host.zero) * 1e6)
        until = None if action.until_us is None else action.until_us - by
        if until is None and run.fault.lasts != "refused":
            until = int(self._plan.experiment["duration_us"])
        return msgspec.structs.replace(action, at_us=action.at_us - by, until_us=until)
