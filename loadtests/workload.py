"""One worker's operations: what is asked, of whom, when, and what became of it. Knows gevent, but not Locust.

Every operation that was due leaves exactly one row, whatever happens: answered, timed out, failed, shed because too
much was in flight, or cut off because the worker was told to end. There are no hidden retries: without `retry` a row that
failed stays failed, with it the row says how many attempts it took, and counts from the first one's due time.

A lookup of a key that nobody stored is ok if nothing is found, and its row's version is -1.

A client has a deadline of its own, and is trusted to keep it but for DEADLINE_SLACK: one that is stuck (a gateway that
no longer reads, so that sending blocks) is cut off, its connection replaced, and the row says timeout.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Protocol

import gevent
from gevent.event import Event
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential, wait_fixed

from harness.records import Kind, Outcome, Phase
from loadtests.alarm import Alarm
from loadtests.arrivals import arrivals, traced
from loadtests.client import LoadClient, LookedUp, Stored
from loadtests.config import Site, WorkerConfig
from loadtests.errors import ClientFailure, NoAnswer
from loadtests.figures import Window
from loadtests.gateways import Gateways, Homes
from loadtests.keys import FIRST_VERSION, Keys
from loadtests.recorder import Operation

DEADLINE_SLACK = 0.5  # s over an operation's timeout after which its client is cut off
BURST = 64  # late arrivals that are sent before other greenlets get their turn
# s; arrivals that are due closer together than this wake the sender once: waking costs as much as asking
TOGETHER = 2e-4
WATCH_EVERY = 0.1  # s between two looks at clients that should have kept their deadlines
GLANCE = 0.05  # s between two looks at whether the load was told to end
UNKNOWN = -1
DEFINITE: frozenset[Outcome] = frozenset({"ok", "not_found", "wrong_value"})  # answers, which no client asks for again
BESIDE = Site("", 0)

log = logging.getLogger("loadtests")


class Sink(Protocol):
    """Where a finished operation goes."""

    def __call__(self, operation: Operation, /) -> object: ...


class Request(NamedTuple):
    """What is asked. ``version`` is that of a store's value; of a lookup -1 if its key was never stored, else 0."""

    kind: Kind
    key: bytes
    version: int


@dataclass(slots=True)
class _Result:
    """How an attempt ended; the columns that an answer fills."""

    outcome: Outcome
    error: str = ""
    hops: int = UNKNOWN
    rpcs: int = UNKNOWN
    acks: int = UNKNOWN
    version: int = UNKNOWN


CUT_OFF = _Result("error", "cut_off")  # until an answer comes
Choose = Callable[[float], str]  # which gateway, at a moment of CLOCK_MONOTONIC


@dataclass(slots=True)
class _Trail:
    """Where an operation has been: its site, how often it was sent, and the last gateway."""

    site: str
    attempts: int = 0
    gateway: str = ""


class _Stuck(BaseException):
    """A client did not keep its deadline. No Exception, so that no client can swallow it."""


class Watchdog:
    """Cuts off greenlets whose clients do not keep their deadlines. One greenlet looks at all of them several times a second:
    a timer for each operation costs more than drawing its key."""

    def __init__(self) -> None:
        self._deadlines: dict[Any, float] = {}  # of greenlets that are with a client; CLOCK_MONOTONIC
        self._greenlet: gevent.Greenlet | None = None

    def watch(self, deadline: float) -> Any:
        """Watch the current greenlet, which is returned; `_Stuck` is raised in it once ``deadline`` is over."""
        current = gevent.getcurrent()
        self._deadlines[current] = deadline
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._look)
        return current

    def let_go(self, greenlet: Any) -> None:
        """Watch it no longer."""
        self._deadlines.pop(greenlet, None)

    def close(self) -> None:
        """Watch nobody any more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _look(self) -> None:
        hub: Any = gevent.get_hub()
        while True:
            gevent.sleep(WATCH_EVERY)
            now = time.monotonic()
            for greenlet in [greenlet for greenlet, deadline in self._deadlines.items() if deadline <= now]:
                hub.loop.run_callback(self._cut_off, greenlet)

    def _cut_off(self, greenlet: Any) -> None:
        """In the hub, where nothing can come between the question and the exception."""
        if self._deadlines.get(greenlet, math.inf) <= time.monotonic():  # else it was let go, or is with another client
            greenlet.throw(_Stuck)


class Clients:
    """One client per gateway and site, made when first used."""

    def __init__(self, config: WorkerConfig, make: Callable[[str, int, str], LoadClient]) -> None:
        self._addresses = {gateway.name: (gateway.host, gateway.port) for gateway in config.gateways}
        self._sites = {site.name: site for site in (BESIDE, *config.sites)}
        self._cluster = config.cluster
        self._make = make
        self._open: dict[tuple[str, str], LoadClient] = {}

    def of(self, gateway: str, site: str = "") -> LoadClient:
        """The client of this gateway."""
        client = self._open.get((gateway, site))
        if client is None:
            host, port = self._addresses[gateway]
            there = self._sites[site]
            if gateway not in there.direct:
                host, port = there.host or host, port + there.offset
            client = self._open[gateway, site] = self._make(host, port, self._cluster)
        return client

    def replace(self, gateway: str, site: str, stuck: LoadClient) -> None:
        """Drop a client that is stuck; whoever else waits on it fails. Closing may block, so nobody waits for it."""
        if self._open.get((gateway, site)) is stuck:
            del self._open[gateway, site]
            gevent.spawn(stuck.close)

    def close(self) -> None:
        """Close all, side by side; one that is stuck is left behind after a second."""
        gevent.joinall([gevent.spawn(client.close) for client in self._open.values()], timeout=1.0)
        self._open.clear()


class Workload:
    """One worker's load. ``sinks`` get every operation as it finishes."""

    def __init__(self, config: WorkerConfig, make_client: Callable[[str, int, str], LoadClient]) -> None:
        self.config = config
        self.options = config.load
        self.clock = 0.0  # CLOCK_MONOTONIC of t = 0
        self.end = math.inf  # CLOCK_MONOTONIC from which on nothing is due
        self.in_flight = 0
        self.window = Window()
        self.keys = Keys(config.seed, config.worker, config.load)
        names = [gateway.name for gateway in config.gateways]
        self.gateways = Gateways(names, Random(f"gateways/{config.seed}/{config.worker}"))
        # Whether a gateway can be reached depends on where from, so each site learns for itself which ones rest.
        self._sites = [site.name for site in config.sites] or [""]
        self._views = {"": self.gateways} | {
            site.name: Gateways(names, Random(f"gateways/{config.seed}/{config.worker}/{site.name}"))
            for site in config.sites
        }
        self._homes = Homes(len(names), config.seed, index=config.index, workers=config.workers)
        self.clients = Clients(config, make_client)
        self._watchdog = Watchdog()
        self.sinks: list[Sink] = [self.window.add]
        self._retrying = retrying(config)
        self._mix = Random(f"mix/{config.seed}/{config.worker}")
        self._cap = max(1, config.share(config.load.max_in_flight))
        self._arriving: set[gevent.Greenlet] = set()
        self._idle = Event()
        self._all_sent = Event()
        self._all_sent.set()
        self._users = 0
        self._told: set[str] = set()

    # --- the load ----------------------------------------------------------------------------------

    def begin(self, clock: float) -> None:
        """Set t = 0 (CLOCK_MONOTONIC, s); the load ends when its duration is over, or when `finish` is called."""
        self.clock = clock
        duration = self.config.duration_s
        self.end = math.inf if duration is None else clock + duration

    def finish(self) -> None:
        """Nothing that is due from now on is sent."""
        self.end = min(self.end, time.monotonic())

    def send_arrivals(self) -> None:
        """The open model: a greenlet for each arrival, at its due time, until the load's end.

        Due times are absolute. When this loop falls behind, what is due is sent at once and stays due when it was, so
        that lateness is in the rows (and in the latencies), not in a schedule that slips.
        """
        self._all_sent.clear()
        try:
            with closing(Alarm()) as alarm:
                self._send(self._due_times(), alarm)
        finally:
            self._all_sent.set()

    def _due_times(self) -> Iterator[float]:
        options, index, workers = self.options, self.config.index, self.config.workers
        if options.trace_s is not None:
            return traced(options.trace_s, index=index, workers=workers)
        assert options.rate_per_s is not None
        return arrivals(
            options.arrivals,
            options.rate_per_s,
            seed=self.config.seed,
            index=index,
            workers=workers,
            curve=options.curve,
        )

    def _send(self, due_times: Iterable[float], alarm: Alarm) -> None:
        late = 0
        for due in due_times:
            intended = self.clock + due
            late = 0 if self._await(intended, alarm) else late + 1
            if intended >= self.end:
                return
            if late % BURST == BURST - 1:
                gevent.sleep(0)
            self._arrive(intended)

    def _await(self, moment: float, alarm: Alarm) -> bool:
        """Sleep until ``moment`` or the load's end, which may be moved meanwhile; False if that was past already."""
        slept = False
        if moment < (now := time.monotonic()) + TOGETHER and now < moment < self.end - TOGETHER:
            moment = now + TOGETHER
        while (now := time.monotonic()) < (until := min(moment, self.end)):
            alarm.sleep_until(min(until, now + GLANCE))
            slept = True
        return slept

    def _arrive(self, intended: float) -> None:
        request = self._draw()
        if len(self._arriving) >= self._cap:
            self._shed(request, intended)
        else:
            site = self._sites[int(self._mix.random() * len(self._sites))] if len(self._sites) > 1 else self._sites[0]
            self._arriving.add(gevent.spawn(self._operate_arrival, request, intended, site))

    def _operate_arrival(self, request: Request, intended: float, site: str) -> None:
        try:
            self._operate(request, intended, self._visitor(), site)
        finally:
            self._arriving.discard(gevent.getcurrent())

    def _visitor(self) -> int:
        """Whose operation an arrival is. Only who keeps to a gateway is worth a draw."""
        return self._homes.visitor() if self.options.gateways == "sticky" else self.config.index

    def operate_next(self, intended: float, home: int) -> Operation:
        """The closed model: the next operation of user number ``home``, due at ``intended``, carried out here."""
        return self._operate(self._draw(), intended, home, self._sites[home % len(self._sites)])

    def enrol(self) -> int:
        """The number of a new user, among those of all workers."""
        self._users += 1
        return self.config.index + (self._users - 1) * self.config.workers

    def drain(self) -> None:
        """Wait until nothing is in flight; what outlives its deadline all the same is cut off."""
        self._all_sent.wait(10 * GLANCE)
        gevent.sleep(0)  # what was just spawned starts
        if self.in_flight:
            self._idle.clear()
            self._idle.wait(self.options.patience_s + 2 * DEADLINE_SLACK)
        self.cut_off()

    def cut_off(self) -> None:
        """End at once what is in flight in the open model; each leaves its row, so each has to start first."""
        gevent.sleep(0)
        gevent.killall(list(self._arriving), timeout=1.0)

    def close(self) -> None:
        """Cut off what is in flight and close all clients."""
        self.cut_off()
        self._watchdog.close()
        self.clients.close()

    def _draw(self) -> Request:
        """What is asked next. While nothing is acknowledged there is nothing to look up, so it is a store."""
        options, draw, keys = self.options, self._mix.random, self.keys
        stores = draw() < options.stores
        if not keys.some or (stores and not (options.rewrites and draw() < options.rewrites)):
            return Request("store", keys.fresh(), FIRST_VERSION)
        if stores:
            return Request("store", *keys.rewritten())
        if options.missing and draw() < options.missing:
            return Request("lookup", keys.missing(), UNKNOWN)
        return Request("lookup", keys.pick(), 0)

    def _operate(self, request: Request, intended: float, home: int, site: str) -> Operation:
        operation = self.ask(request, intended, lambda now: self._gateway(home, site, now), "load", site)
        if request.kind == "store":
            self.keys.settle(request.key, acknowledged=operation.outcome == "ok")
        return operation

    def _gateway(self, home: int, site: str, now: float) -> str:
        view = self._views[site]
        return view.pick_sticky(self._homes.of(home), now) if self.options.gateways == "sticky" else view.pick(now)

    def _shed(self, request: Request, intended: float) -> None:
        if request.kind == "store":
            self.keys.settle(request.key, acknowledged=False)
        now = time.monotonic()
        self.tell(self._row(request, intended, intended, now, _Result("error", "shed"), "load", _Trail("")))

    # --- one operation, in any phase ---------------------------------------------------------------

    def ask(self, request: Request, intended: float, choose: Choose, phase: Phase, site: str = "") -> Operation:
        """Carry one operation out through the gateways that ``choose`` names, one an attempt, and pass its row on, also
        when this greenlet is killed."""
        started = time.monotonic()
        self.in_flight += 1
        trail, result = _Trail(site), CUT_OFF
        try:
            if self._retrying is None or phase != "load":
                result = self._attempt(request, choose, trail)
            else:
                result = self._retrying.copy()(self._attempt, request, choose, trail)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()
            operation = self._row(request, intended, started, time.monotonic(), result, phase, trail)
            for sink in self.sinks:
                sink(operation)
        return operation

    def _attempt(self, request: Request, choose: Choose, trail: _Trail) -> _Result:
        now = time.monotonic()
        trail.attempts += 1
        trail.gateway = choose(now)
        return self._result(request, trail.gateway, trail.site, now)

    def attempt_lookup(self, key: bytes, gateway: str, phase: Phase) -> Operation:
        """Look ``key`` up through ``gateway``; the caller decides which row comes of it."""
        started = time.monotonic()
        request = Request("lookup", key, 0)
        result = self._result(request, gateway, "", started)
        return self._row(request, started, started, time.monotonic(), result, phase, _Trail("", 1, gateway))

    def unasked(self, key: bytes, why: str, phase: Phase) -> Operation:
        """The row of a lookup for which there was nobody to ask."""
        now = time.monotonic()
        return self._row(Request("lookup", key, 0), now, now, now, _Result("error", why), phase, _Trail(""))

    def tell(self, operation: Operation) -> None:
        """Pass a row on to all sinks."""
        for sink in self.sinks:
            sink(operation)

    def _result(self, request: Request, gateway: str, site: str, sent: float) -> _Result:
        view = self._views[site]
        try:
            answer = self._answer(request, gateway, site, sent)
        except ClientFailure as failure:
            if failure.gateway_failed:
                view.failed(gateway, sent=sent, now=time.monotonic())
            return _Result(failure.outcome, str(failure))
        except Exception as error:  # clients are extensions: theirs must not end the load
            self._report_defect(error)
            return _Result("error", f"client: {type(error).__name__}: {error}")
        view.answered(gateway, sent=sent)
        if isinstance(answer, Stored):
            return self._judge_store(answer, request.version)
        return self._judge_lookup(request, answer)

    def _answer(self, request: Request, gateway: str, site: str, sent: float) -> Stored | LookedUp:
        timeout = self.options.timeout_s
        client = self.clients.of(gateway, site)
        watched = self._watchdog.watch(sent + timeout + DEADLINE_SLACK)
        try:
            if request.kind == "store":
                value = self.keys.value(request.key, request.version)
                return client.store(request.key, value, version=request.version, timeout=timeout)
            return client.lookup(request.key, timeout=timeout)
        except _Stuck:
            self.clients.replace(gateway, site, client)
            raise NoAnswer("no_answer") from None
        finally:
            self._watchdog.let_go(watched)

    def _judge_store(self, answer: Stored, version: int) -> _Result:
        enough = answer.acks >= self.options.write_acks
        outcome: Outcome = "ok" if enough else "error"
        error = "" if enough else "too_few_acks"
        return _Result(outcome, error, answer.hops, answer.rpcs, answer.acks, version)

    def _judge_lookup(self, request: Request, answer: LookedUp) -> _Result:
        outcome: Outcome = "ok"
        error = ""
        if not answer.found:
            if answer.error:
                outcome, error = "error", answer.error
            elif request.version != UNKNOWN:
                outcome, error = "not_found", "not_found"
        elif request.version == UNKNOWN or answer.value != self.keys.value(request.key, answer.version):
            outcome, error = "wrong_value", "wrong_value"
        version = answer.version if answer.found else UNKNOWN
        return _Result(outcome, error, answer.hops, answer.rpcs, UNKNOWN, version)

    def _row(
        self,
        request: Request,
        intended: float,
        started: float,
        finished: float,
        result: _Result,
        phase: Phase,
        trail: _Trail,
    ) -> Operation:
        return Operation(
            request.kind, request.key.hex(), intended, started, finished, result.outcome, result.error, trail.gateway,
            result.hops, result.rpcs, result.acks, phase, self.config.worker, result.version, trail.attempts, trail.site,
        )  # fmt: skip

    def _report_defect(self, error: Exception) -> None:
        """Log a client's own error, with its trace, once per kind."""
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            log.exception("the client raised %s, which is no ClientFailure", kind)


def retrying(config: WorkerConfig) -> Any:
    """What tries an operation again, by tenacity; None if nothing does. The last result stands."""
    retry = config.load.retry
    if retry is None or retry.attempts == 1:
        return None
    fixed = retry.wait == "fixed"
    return Retrying(
        stop=stop_after_attempt(retry.attempts),
        wait=wait_fixed(retry.first_s) if fixed else wait_exponential(multiplier=retry.first_s, max=retry.longest_s),
        retry=retry_if_result(lambda result: result.outcome not in DEFINITE),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        sleep=gevent.sleep,
    )
