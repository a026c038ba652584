"""Plays a plan's actions on a cluster: injects on time, observes, heals, and journals each step before it is taken.

One action's life:

    planned ──inject──▶ active ──heal──▶ healed
       │                  │                │
       └─▶ skipped        └─▶ failed ◀─────┘     (failed: an error was journalled; the heal is tried all the same)

The thread that plays only keeps time. Injections and heals run in a pool, so that a restart that takes its time delays
nobody else's action; observations run in another, so that a slow ping never delays a heal.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import tenacity

from harness.cluster import Cluster, Enforced
from harness.effects import LinkEffect, MemberClaim
from harness.errors import KadstormError
from harness.events import Events
from harness.faults import Fault
from harness.observation import Observation
from harness.probe import ActionProbe, Beside
from harness.records import Action

ACTORS, OBSERVERS = 16, 8  # threads
BEFORE = 1.5  # s before an injection, when the value before it is measured
MARGIN = 0.15  # s before a heal, when its observation must have ended
HEAL_BUDGET = 5.0  # s in which the end of an effect must have shown
OPEN_BUDGET = 5.0  # s for the effect of an action without an end
HEAL_TRIES = 3
CHECK_EVERY = 0.25  # s

State = Literal["planned", "active", "healed", "skipped", "failed"]


@dataclass
class ActionRun:
    """One action while it is played."""

    index: int
    action: Action
    fault: Fault
    state: State = "planned"
    before: Any = None
    measured: Future[None] | None = None  # when it is done, ``before`` is known unless measuring failed
    comparable: bool = False  # whether it is
    injected: Future[None] | None = None
    healed: Future[None] | None = None

    @property
    def title(self) -> dict[str, Any]:
        """What each of its events carries."""
        return {
            "name": self.action.name,
            "fault": self.action.fault,
            "action": self.index,
            "targets": self.action.targets,
        }


Step = tuple[
    float, int, Callable[[ActionRun], None], ActionRun
]  # s since zero, a number that keeps the order, what, whom


@dataclass
class Player:
    """Plays ``actions`` from the monotonic time ``zero`` on. ``problems`` collects what went wrong, for the verdict."""

    cluster: Cluster
    events: Events
    actions: Sequence[Action]
    fault_of: Callable[[str], Fault]
    seed: int
    check: Callable[[], None] = lambda: None  # raises when the run cannot go on
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs: list[ActionRun] = []
        self._order = itertools.count()
        self._steps: list[Step] = []
        self._changed = threading.Condition()
        self.add(self.actions)
        self._actors = ThreadPoolExecutor(ACTORS, thread_name_prefix="kadstorm-action")
        self._observers = ThreadPoolExecutor(OBSERVERS, thread_name_prefix="kadstorm-observe")
        self._futures: list[Future[None]] = []

    def play(self, zero: float, until: float) -> None:
        """Take every step that is due before ``until`` (s since ``zero``), each at its time; return at ``until``."""
        self._zero = zero
        while (due := self._next_step(until)) is not None:
            _, _, step, run = due
            step(run)
        for _, _, step, run in sorted(self._steps):  # heals that fall on the very end
            if step == self._heal:
                step(run)

    def add(self, actions: Sequence[Action]) -> list[ActionRun]:
        """Take more actions, also while others are played; those that are late are taken at once. Thread-safe."""
        with self._changed:
            added = [
                ActionRun(len(self.runs) + number, action, self.fault_of(action.fault))
                for number, action in enumerate(actions)
            ]
            self.runs += added
            for run in added:
                self._schedule(run)
            self._changed.notify_all()
        return added

    def heal_now(self, runs: Sequence[ActionRun]) -> None:
        """Take these back without waiting for their time; those that have not begun never will. Thread-safe."""
        with self._changed:
            for run in runs:
                if run.state == "planned":
                    run.state = "skipped"
                else:
                    self._push(0.0, self._heal, run)
            self._changed.notify_all()

    def heal_all(self) -> None:
        """Take back whatever is still in force but what was never to be taken back; wait until that is done."""
        for run in self.runs:
            if run.state in ("active", "failed") and run.healed is None and run.action.until_us is not None:
                self._heal(run)
        self.settle_futures()

    def settle_futures(self) -> None:
        """Wait until all injections, heals and observations have ended, those that they started as well."""
        while any(not future.done() for future in list(self._futures)):
            wait(list(self._futures))

    def close(self) -> None:
        """End the threads."""
        self._actors.shutdown(wait=True)
        self._observers.shutdown(wait=True)

    # --- steps, on the thread that keeps time ----------------------------------------------------

    def _schedule(self, run: ActionRun) -> None:
        at = run.action.at_us / 1e6
        self._push(max(0.0, at - BEFORE), self._measure_before, run)
        self._push(at, self._inject, run)
        if run.action.until_us is not None:
            self._push(run.action.until_us / 1e6, self._heal, run)

    def _push(self, at: float, step: Callable[[ActionRun], None], run: ActionRun) -> None:
        heapq.heappush(self._steps, (at, next(self._order), step, run))

    def _next_step(self, until: float) -> Step | None:
        """The next step that is due before ``until``, when its time has come; None at ``until``.

        This is the experiment's clock: the time itself is what is awaited, and the run's health looked at meanwhile.
        """
        while True:
            with self._changed:
                due = min(self._steps[0][0], until) if self._steps else until
                left = self._zero + due - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._steps) if due < until else None
                self._changed.wait(min(left, CHECK_EVERY))
            self.check()

    def _measure_before(self, run: ActionRun) -> None:
        if run.state != "planned":
            return
        run.measured = self._submit(self._observers, run, self._do_measure_before)

    def _inject(self, run: ActionRun) -> None:
        if run.state == "skipped":
            return
        absent = [name for name in run.action.targets if name in self.cluster.members.lost()]
        if absent:
            self.events.emit("skipped", **{**run.title, "targets": absent}, detail={"why": "died unasked before"})
        if run.action.targets and len(absent) == len(run.action.targets):
            run.state = "skipped"
            return
        self.events.emit("inject", **run.title, asked=run.action.options)
        run.state = "active"
        run.injected = self._submit(self._actors, run, self._do_inject)

    def _heal(self, run: ActionRun) -> None:
        if run.state in ("planned", "skipped") or run.healed is not None:
            return
        self.events.emit("heal", **run.title)
        run.healed = self._submit(self._actors, run, self._do_heal)

    def _submit(self, pool: ThreadPoolExecutor, run: ActionRun, work: Callable[[ActionRun], None]) -> Future[None]:
        future = pool.submit(self._guarded, work, run)
        self._futures.append(future)
        return future

    def _guarded(self, work: Callable[[ActionRun], None], run: ActionRun) -> None:
        try:
            work(run)
        except Exception as error:  # faults are extensions: wrapped, not trusted, and named
            doing = work.__name__.removeprefix("_do_").replace("_", " ")
            said = str(error) if isinstance(error, KadstormError) else repr(error)
            message = f"{run.action.name}: could not {doing}: {said}"
            run.state = "failed"
            self.problems.append(message)
            self.events.emit("error", **run.title, detail={"message": message})

    # --- work, in the pools ----------------------------------------------------------------------

    def _do_measure_before(self, run: ActionRun) -> None:
        due = self._zero + run.action.at_us / 1e6
        run.before = run.fault.measure_before(run.action, self._probe(run, max(due, time.monotonic() + 1.0)))
        run.comparable = True

    def _do_inject(self, run: ActionRun) -> None:
        if run.measured is not None:
            wait([run.measured], timeout=MARGIN)
        effects = run.fault.effects(run.action, self.cluster.topology)
        done = self.cluster.enforce(run.index, effects)
        self.events.emit("injected", **run.title, detail=self._punctuality(run.action.at_us, done))
        self._submit(self._observers, run, self._do_observe)

    def _do_observe(self, run: ActionRun) -> None:
        if not self._comparable("observe", run):
            return
        until = run.action.until_us
        now = time.monotonic()
        deadline = now + OPEN_BUDGET if until is None else self._zero + until / 1e6 - MARGIN
        seen = run.fault.observe(run.action, self._probe(run, min(deadline, now + OPEN_BUDGET)), run.before)
        self._tell("observe", run, seen)

    def _do_heal(self, run: ActionRun) -> None:
        if run.injected is not None:
            wait([run.injected])
        now_us = round((time.monotonic() - self._zero) * 1e6)
        due_us = now_us if run.action.until_us is None else min(now_us, run.action.until_us)
        done = self._released(run)
        run.state = "healed" if run.state == "active" else run.state
        self.events.emit("healed", **run.title, detail=self._punctuality(due_us, done))
        self._submit(self._observers, run, self._do_observe_healed)

    def _released(self, run: ActionRun) -> Enforced:
        """Take an action back; if that goes on failing, by stronger means. Raises KadstormError if those fail, too."""
        since = time.monotonic()
        try:
            return self._release(run.index)
        except KadstormError as error:
            self.events.emit("escalated", **run.title, detail={"why": str(error)})
            means = self.cluster.escalate(run.index, error, since=since)
            self.events.emit("escalated", **run.title, detail={"why": str(error), "means": means})
            return Enforced(since, time.monotonic())

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(HEAL_TRIES),
        wait=tenacity.wait_exponential(0.1),
        retry=tenacity.retry_if_exception_type(KadstormError),
        reraise=True,
    )
    def _release(self, key: int) -> Enforced:
        return self.cluster.release(key)

    def _do_observe_healed(self, run: ActionRun) -> None:
        if not self._comparable("heal-observed", run):
            return
        probe = self._probe(run, time.monotonic() + HEAL_BUDGET)
        self._tell("heal-observed", run, run.fault.observe_healed(run.action, probe, run.before))

    def _comparable(self, event: str, run: ActionRun) -> bool:
        """Whether what is seen has something to be compared with, once measuring that has ended; it is told if not."""
        if run.measured is not None:
            wait([run.measured])
        if not run.comparable:
            why = "what was before the fault could not be measured"
            self._tell(event, run, Observation(dict.fromkeys(run.action.targets), {"unknown": why}))
        return run.comparable

    def _tell(self, event: str, run: ActionRun, seen: Observation) -> None:
        missed = [name for name, effective in seen.targets.items() if effective is False]
        self.events.emit(
            event,
            **run.title,
            asked=run.action.options,
            observed=seen.observed,
            effective=seen.effective,
            detail={"missed": missed} if missed else {},
        )

    def _punctuality(self, due_us: int, done: Enforced) -> dict[str, float]:
        """How late the first part took hold, and how long after it the last."""
        late = done.first - (self._zero + due_us / 1e6)
        return {"lateness_s": round(late, 6), "skew_s": round(done.last - done.first, 6)}

    # --- probes ----------------------------------------------------------------------------------

    def _probe(self, run: ActionRun, deadline: float) -> ActionProbe:
        rng = random.Random(f"{self.seed}/observe/{run.index}")
        return ActionProbe(self.cluster, partial(self._acting_beside, run), rng, deadline)

    def _acting_beside(self, run: ActionRun) -> Beside:
        """Site pairs and members on which other actions act now."""
        in_force = set(self.cluster.in_force()) - {run.index}
        effects = [
            effect
            for other in self.runs
            if other.index in in_force
            for effect in other.fault.effects(other.action, self.cluster.topology)
        ]
        sites = {(e.source, e.destination) for e in effects if isinstance(e, LinkEffect)}
        # Who is claimed to run, as those are who joined by an action, is a member like any other.
        return sites, {e.member for e in effects if isinstance(e, MemberClaim) and e.state != "running"}
