"""One run, from an empty folder to a journal with an end: boot, ready, preload, clock, plan, final heal, settle, read-back,
teardown.

The runner emits events and knows no output. What it starts it puts on a stack that is unwound whatever happens: each
step of the teardown is tried, its failure journalled, and the next one taken. What the run was worth is not decided here:
`reports/` reads the folder. The runner only says what it knows: ``Reason``s, and how long each phase took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.boot import Booted, boot
from harness.cluster import Cluster
from harness.errors import HarnessError, KadstormError, LoadFailed, MemberFailed, TargetError, ToxiproxyFailed
from harness.events import Consumer, Events
from harness.faults import Fault
from harness.interrupt import Interrupt, Interrupted
from harness.journal import Journal
from harness.load import LoadDriver, LoadStats
from harness.player import Player
from harness.records import EVENTS_FILE, EXPERIMENT_FILE, LOAD_LOGS_DIR, NODES_STREAM, PLAN_FILE, Plan
from harness.sampler import Sampler
from harness.session import Session

READY_PER_NODE = 0.5  # s on top of READY_BASE that a cluster may take to become ready
READY_BASE = 20.0
HEAD_START = 0.3  # s between the order to start the clock and t = 0, so that all workers have it in time
DRAIN_GRACE = 5.0  # s on top of an operation's timeout

ReasonKind = Literal["interrupted", "error", "inconclusive", "fail"]


@dataclass
class Outcome:
    """What the runner knows at the end."""

    run_dir: Path
    reasons: list[dict[str, str]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def add(self, kind: ReasonKind, text: str) -> None:
        """Note a reason; every one is listed in the end."""
        self.reasons.append({"kind": kind, "text": text})


@dataclass
class Live:
    """What a live view may look at while the run goes on; parts appear as they come to exist."""

    plan: Plan
    run_dir: Path
    events: Events
    load: LoadDriver | None = None
    sampler: Sampler | None = None

    def stats(self) -> LoadStats | None:
        """The load's last figures."""
        return None if self.load is None else self.load.stats()


@dataclass
class Runner:
    """Runs one plan. ``watch`` is told what to look at before anything starts, and may return a consumer of events."""

    plan: Plan
    run_dir: Path
    experiment_text: str
    toxiproxy: Path
    environment: dict[str, Any]
    replay: str
    interrupt: Interrupt
    fault_of: Callable[[str], Fault]
    watch: Callable[[Live], Consumer] | None = None

    def run(self) -> Outcome:
        """Run it to its end, whatever that is.

        Raises:
            HarnessError: not even the journal could be written; everything that was started has been ended.
        """
        self.outcome = Outcome(self.run_dir)
        self._write_inputs()
        journal = Journal(self.run_dir / EVENTS_FILE)
        self.events = Events(journal.write)
        self.live = Live(self.plan, self.run_dir, self.events)
        try:
            if self.watch is not None:
                self.events.subscribe(self.watch(self.live))
            self._run_journalled()
            self.events.emit("end", detail={"reasons": self.outcome.reasons, "timings": self.outcome.timings})
        finally:
            journal.close()
        return self.outcome

    def _write_inputs(self) -> None:
        try:
            (self.run_dir / EXPERIMENT_FILE).write_text(self.experiment_text)
            (self.run_dir / PLAN_FILE).write_bytes(plan_bytes(self.plan))
        except OSError as error:
            raise HarnessError(f"{self.run_dir}: cannot write there: {error.strerror}") from error

    def _run_journalled(self) -> None:
        with ExitStack() as stack:
            try:
                with self.interrupt.interruptible():
                    self._phases(stack)
            except Interrupted as error:
                self.outcome.add("interrupted", str(error))
                self.events.emit("interrupted", detail={"signal": self.interrupt.received})
            except KadstormError as error:
                self._failed(str(error))
            except Exception as error:  # a defect of ours: told as one, and everything is still taken down
                self._failed(f"internal error, please report it: {error!r}")
                raise
            finally:
                self._tear_down(stack)

    def _failed(self, text: str) -> None:
        self.outcome.add("error", text)
        self.events.emit("error", detail={"message": text})

    # --- phases ----------------------------------------------------------------------------------

    def _phases(self, stack: ExitStack) -> None:
        session = Session(self.run_dir)
        self._on_teardown(stack, "the session", session.close)
        self.events.emit(
            "session",
            name=self.plan.experiment["name"],
            detail={
                "id": session.id,
                "environment": self.environment,
                "replay": self.replay,
                "seed": self.plan.seed,
            },
        )
        load = self._load_driver(session)
        with self._phase("boot", "boot_s"):
            self._on_teardown(stack, "the load's workers", load.close)
            load.launch()
            booted = self._boot(session, stack)
        with self._phase("preload", "preload_s"):
            load.wait_up()
            load.preload()
        with self._phase("load", "run_s"):
            player = self._play(booted, load, stack)
            self._settle(player)
        with self._phase("readback", "readback_s"):
            load.readback(self._living(booted.cluster))
        load.quit()
        self._check_load(load)

    def _boot(self, session: Session, stack: ExitStack) -> Booted:
        began = time.monotonic()
        booted = boot(self.plan, session, self.run_dir, self.toxiproxy, self.events, stack_close=self._closer(stack))
        ...
