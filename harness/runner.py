"""One run, from an empty folder to a journal with an end: boot, ready, preload, clock, plan, final heal, settle, read-back,
teardown.

The runner emits events and knows no output. What it starts it puts on a stack that is unwound whatever happens: each
step of the teardown is tried, its failure journalled, and the next one taken. What the run was worth is not decided here:
`reports/` reads the folder. The runner only says what it knows: ``Reason``s, and how long each phase took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.backends import Layout
from harness.boot import Booted, boot
from harness.cleanup import end_processes
from harness.cluster import Cluster
from harness.errors import HarnessError, KadstormError
from harness.events import Consumer, Events
from harness.failfast import Ask, Enough, FailedFast, FailFast
from harness.faults import Fault
from harness.interrupt import Interrupt, Interrupted
from harness.journal import Journal
from harness.links import Topology
from harness.load import LoadDriver, LoadStats
from harness.load_options import patience
from harness.loading import GRACE, HEAD_START, check_cluster, check_workers, driver_of, preload, read_back
from harness.player import Player
from harness.records import (
    EVENTS_FILE,
    NODES_STREAM,
    Plan,
)
from harness.runfolder import write_inputs
from harness.sampler import Sampler
from harness.session import Session

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
    failing: Ask | None = None  # for --fail-fast: the expectations that fail so far
    enough: Ask | None = None  # for a search: why its load need not go on

    def run(self) -> Outcome:
        """Run it to its end, whatever that is.

        Raises:
            HarnessError: not even the journal could be written; everything that was started has been ended.
        """
        self.outcome = Outcome(self.run_dir)
        write_inputs(self.run_dir, self.experiment_text, self.plan)
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

    def _run_journalled(self) -> None:
        with ExitStack() as stack:
            try:
                self._phases(stack)
            except FailedFast as error:
                self.outcome.add("fail", str(error))
                self.events.emit("expectation", detail={"message": str(error)})
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

    # --- phases ---------------------------------------------------------------------------------------------------

    def _phases(self, stack: ExitStack) -> None:
        session = Session(self.run_dir)
        self._on_teardown(stack, "the session", lambda: self._end_session(session))
        self.events.emit(
            "session",
            name=self.plan.experiment["name"],
            detail={"id": session.id, "environment": self.environment, "replay": self.replay, "seed": self.plan.seed},
        )
        with self._phase("boot"):
            booted = boot(
                self.plan, session, self.run_dir, self.toxiproxy, self.events,
                lambda what, close: self._on_teardown(stack, what, close), self.interrupt.check,
                lambda topology, layout: self._launch_load(session, stack, topology, layout),
            )  # fmt: skip
        load = self.live.load
        assert load is not None
        self._tell_ready(booted)
        self._start_sampler(booted.cluster, stack)
        with self._phase("preload"):
            load.wait_up()
            self._preload(load)
        with self._phase("load", timing="run_s"):
            player = self._play(booted.cluster, load, stack)
        with self._phase("settle"):
            self._final_heal(booted.cluster, player)
            self.interrupt.sleep(self.plan.experiment["settle_us"] / 1e6)
        with self._phase("readback"):
            read_back(load, self.plan, booted.cluster.members, self.events)
        self._check_toxiproxy(booted)

    def _launch_load(self, session: Session, stack: ExitStack, topology: Topology, layout: Layout) -> None:
        """Start the workers, which takes them as long as members take to start. They end before the members do."""
        load = driver_of(self.plan, session, self.run_dir, topology, layout, self.events, self.interrupt.check)
        self._on_teardown(stack, "the load's workers", load.close)
        load.launch()
        self.live.load = load

    def _tell_ready(self, booted: Booted) -> None:
        seconds = self.outcome.timings["boot_s"]
        links = len(booted.cluster.topology.links)
        self.environment["toxiproxy"] = booted.toxiproxy_version
        self.events.emit(
            "ready",
            detail={
                "seconds": seconds,
                "nodes": len(booted.cluster.members.initial()),
                "links": links,
                "toxiproxy": booted.toxiproxy_version,
            },
        )

    def _start_sampler(self, cluster: Cluster, stack: ExitStack) -> None:
        sampler = Sampler(cluster, self.events, self.run_dir / NODES_STREAM)
        self._on_teardown(stack, "the sampler", sampler.close)
        self.live.sampler = sampler

    def _preload(self, load: LoadDriver) -> None:
        if why := preload(load, self.plan, self.events):
            self.outcome.add("inconclusive", why)

    def _play(self, cluster: Cluster, load: LoadDriver, stack: ExitStack) -> Player:
        duration = self.plan.experiment["duration_us"] / 1e6
        check = self._health(cluster, load, stack)
        player = Player(cluster, self.events, self.plan.actions, self.fault_of, self.plan.seed, check=check)
        self._on_teardown(stack, "the player's threads", player.close)
        self._on_teardown(stack, "faults in force", player.heal_all)
        zero = time.monotonic() + HEAD_START
        self.events.start_clock(zero)
        self.events.emit("clock")
        load.start_clock(zero)
        assert self.live.sampler is not None
        self.live.sampler.start()
        try:
            player.play(zero, duration)
        except Enough as error:
            load.stop()
            self.events.emit("load", name="stopped", detail={"why": str(error)})
        done = load.wait_drained(GRACE + patience(self.plan.experiment["load"]))
        self.events.emit("load", name="drained", detail=asdict(done))
        check_workers(load)
        return player

    def _health(self, cluster: Cluster, load: LoadDriver, stack: ExitStack) -> Callable[[], None]:
        """What ends a run before its time: a signal, a dead load worker, a vanished cluster, with --fail-fast a failed
        expectation."""
        watchers = [FailFast(self.failing)] if self.failing is not None else []
        if self.enough is not None:
            watchers.append(FailFast(self.enough, Enough, ""))
        for watcher in watchers:
            self._on_teardown(stack, "the watch over expectations", watcher.close)
            watcher.start()

        def check() -> None:
            self.interrupt.check()
            check_workers(load)
            check_cluster(cluster.members)
            for watcher in watchers:
                watcher.check()

        return check

    def _final_heal(self, cluster: Cluster, player: Player) -> None:
        player.heal_all()
        for problem in player.problems:
            self.outcome.add("error", problem)
        disordered = cluster.disordered_links()
        if disordered:
            shown = ", ".join(disordered[:5])
            self.outcome.add("fail", f"{len(disordered)} links are not as they should be after the last heal: {shown}")

    def _check_toxiproxy(self, booted: Booted) -> None:
        for gap in booted.keeper.gaps:
            if gap.seconds is not None:  # else it has ended for good, which is told below
                self.outcome.add("inconclusive", str(gap))
        if not booted.toxiproxy.alive():
            raise HarnessError(f"Toxiproxy ended during the run: {booted.toxiproxy.exit()}")

    # --- plumbing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _phase(self, name: str, *, timing: str = "") -> Iterator[None]:
        self.interrupt.check()
        self.events.emit("phase", name=name)
        began = time.monotonic()
        yield
        self.outcome.timings[timing or f"{name}_s"] = round(time.monotonic() - began, 3)

    def _on_teardown(self, stack: ExitStack, what: str, close: Callable[[], object]) -> None:
        """Have ``close`` called when the run is taken down; its failure is journalled and stops nobody else's turn."""

        def attempt() -> None:
            try:
                close()
            except Exception as error:  # the teardown goes on, whatever it is
                self._failed(f"taking down {what}: {error}")

        stack.callback(attempt)

    def _tear_down(self, stack: ExitStack) -> None:
        self.events.emit("phase", name="teardown")
        began = time.monotonic()
        stack.close()
        self.outcome.timings["teardown_s"] = round(time.monotonic() - began, 3)

    def _end_session(self, session: Session) -> None:
        left = end_processes(session.id)
        session.close()
        if left:
            self._failed(f"{left} processes of this run had not ended; they have been killed")
