"""One worker's operations: what is asked, of whom, when, and what became of it. Knows gevent, but not Locust.

Every operation that was due leaves exactly one row, whatever happens: answered, timed out, failed, shed because too
much was in flight, or cut off because the worker was told to end. There are no retries here: a row that failed stays
failed.

A client has a deadline of its own, and is trusted to keep it but for DEADLINE_SLACK: one that is stuck (a gateway that
no longer reads, so that sending blocks) is cut off, its connection replaced, and the row says timeout.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.pool import Pool

from harness.records import Kind, Outcome, Phase
from loadtests.alarm import Alarm
from loadtests.arrivals import arrivals
from loadtests.client import LoadClient, LookedUp, Stored
from loadtests.config import WorkerConfig
from loadtests.errors import ClientFailure, NoAnswer
from loadtests.figures import Window
from loadtests.gateways import Gateways
from loadtests.keys import FIRST_VERSION, Keys
from loadtests.recorder import Operation

DEADLINE_SLACK = 0.5  # s over an operation's timeout after which its client is cut off
BURST = 64  # late arrivals that are sent before other greenlets get their turn
GLANCE = 0.05  # s between two looks at whether the load was told to end
UNKNOWN = -1

log = logging.getLogger("loadtests")


class Sink(Protocol):
    """Where a finished operation goes."""

    def __call__(self, operation: Operation, /) -> object: ...


@dataclass(slots=True)
class _Result:
    """How an operation ended; the columns that an answer fills."""

    outcome: Outcome
    error: str = ""
    hops: int = UNKNOWN
    rpcs: int = UNKNOWN
    acks: int = UNKNOWN
    version: int = UNKNOWN


class _Stuck(BaseException):
    """A client did not keep its deadline. No Exception, so that no client can swallow it."""


class Clients:
    """One client per gateway, made when first used."""

    def __init__(self, config: WorkerConfig, make: Callable[[str, int, str], LoadClient]) -> None:
        self._addresses = {gateway.name: (gateway.host, gateway.port) for gateway in config.gateways}
        self._cluster = config.cluster
        self._make = make
        self._open: dict[str, LoadClient] = {}

    def of(self, gateway: str) -> LoadClient:
        """The client of this gateway."""
        client = self._open.get(gateway)
        if client is None:
            host, port = self._addresses[gateway]
            client = self._open[gateway] = self._make(host, port, self._cluster)
        return client

    def replace(self, gateway: str, stuck: LoadClient) -> None:
        """Drop a client that is stuck; whoever else waits on it fails. Closing may block, so nobody waits for it."""
        if self._open.get(gateway) is stuck:
            del self._open[gateway]
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
        self.keys = Keys(config.seed, config.worker, config.load.value_size)
        names = [gateway.name for gateway in config.gateways]
        self.gateways = Gateways(names, Random(f"gateways/{config.seed}/{config.worker}"))
        self.clients = Clients(config, make_client)
        self.sinks: list[Sink] = [self.window.add]
        self._mix = Random(f"mix/{config.seed}/{config.worker}")
        self._cap = max(1, config.share(config.load.max_in_flight))
        self._arriving = Pool()
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
        rate = self.options.rate_per_s
        assert rate is not None
        config = self.config
        due_times = arrivals(self.options.arrivals, rate, seed=config.seed, index=config.index, workers=config.workers)
        self._all_sent.clear()
        try:
            with closing(Alarm()) as alarm:
                self._send(due_times, alarm)
        finally:
            self._all_sent.set()

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
        while (now := time.monotonic()) < (until := min(moment, self.end)):
            alarm.sleep_until(min(until, now + GLANCE))
            slept = True
        return slept

    def _arrive(self, intended: float) -> None:
        kind, key = self._draw()
        if len(self._arriving) >= self._cap:
            self._shed(kind, key, intended)
        else:
            self._arriving.spawn(self._operate, kind, key, intended, self.config.index)

    def operate_next(self, intended: float, home: int) -> Operation:
        """The closed model: the next operation of user number ``home``, due at ``intended``, carried out here."""
        kind, key = self._draw()
        return self._operate(kind, key, intended, home)

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
            self._idle.wait(self.options.timeout_s + 2 * DEADLINE_SLACK)
        self.cut_off()

    def cut_off(self) -> None:
        """End at once what is in flight in the open model; each leaves its row, so each has to start first."""
        gevent.sleep(0)
        self._arriving.kill(timeout=1.0)

    def close(self) -> None:
        """Cut off what is in flight and close all clients."""
        self.cut_off()
        self.clients.close()

    def _draw(self) -> tuple[Kind, bytes]:
        """What is asked next. While nothing is acknowledged there is nothing to look up, so it is a store."""
        stores = self._mix.random() < self.options.stores
        if stores or not self.keys.acknowledged:
            return "store", self.keys.fresh()
        return "lookup", self.keys.pick()

    def _operate(self, kind: Kind, key: bytes, intended: float, home: int) -> Operation:
        now = time.monotonic()
        sticky = self.options.gateways == "sticky"
        gateway = self.gateways.pick_sticky(home, now) if sticky else self.gateways.pick(now)
        operation = self.ask(kind, key, intended, gateway, "load")
        if kind == "store":
            self.keys.settle(key, acknowledged=operation.outcome == "ok")
        return operation

    def _shed(self, kind: Kind, key: bytes, intended: float) -> None:
        now = time.monotonic()
        self.tell(self._row(kind, key, intended, intended, now, _Result("error", "shed"), "", "load"))

    # --- one operation, in any phase ---------------------------------------------------------------

    def ask(self, kind: Kind, key: bytes, intended: float, gateway: str, phase: Phase) -> Operation:
        """Carry one operation out through ``gateway`` and pass its row on, also when this greenlet is killed."""
        started = time.monotonic()
        self.in_flight += 1
        result = _Result("error", "cut_off")
        try:
            result = self._result(kind, key, gateway, started)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()
            operation = self._row(kind, key, intended, started, time.monotonic(), result, gateway, phase)
            self.tell(operation)
        return operation

    def attempt_lookup(self, key: bytes, gateway: str, phase: Phase) -> Operation:
        """Look ``key`` up through ``gateway``; the caller decides which row comes of it."""
        started = time.monotonic()
        result = self._result("lookup", key, gateway, started)
        return self._row("lookup", key, started, started, time.monotonic(), result, gateway, phase)

    def unasked(self, key: bytes, why: str, phase: Phase) -> Operation:
        """The row of a lookup for which there was nobody to ask."""
        now = time.monotonic()
        return self._row("lookup", key, now, now, now, _Result("error", why), "", phase)

    def tell(self, operation: Operation) -> None:
        """Pass a row on to all sinks."""
        for sink in self.sinks:
            sink(operation)

    def _result(self, kind: Kind, key: bytes, gateway: str, started: float) -> _Result:
        try:
            answer = self._answer(kind, key, gateway)
        except ClientFailure as failure:
            if failure.gateway_failed:
                self.gateways.failed(gateway, sent=started, now=time.monotonic())
            return _Result(failure.outcome, str(failure))
        except Exception as error:  # clients are extensions: theirs must not end the load
            self._report_defect(error)
            return _Result("error", f"client: {type(error).__name__}: {error}")
        self.gateways.answered(gateway, sent=started)
        return self._judge_store(answer) if isinstance(answer, Stored) else self._judge_lookup(key, answer)

    def _answer(self, kind: Kind, key: bytes, gateway: str) -> Stored | LookedUp:
        timeout = self.options.timeout_s
        client = self.clients.of(gateway)
        try:
            with gevent.Timeout(timeout + DEADLINE_SLACK, _Stuck):
                if kind == "store":
                    value = self.keys.value(key)
                    return client.store(key, value, version=FIRST_VERSION, timeout=timeout)
                return client.lookup(key, timeout=timeout)
        except _Stuck:
            self.clients.replace(gateway, client)
            raise NoAnswer("no_answer") from None

    def _judge_store(self, answer: Stored) -> _Result:
        enough = answer.acks >= self.options.write_acks
        outcome: Outcome = "ok" if enough else "error"
        error = "" if enough else "too_few_acks"
        return _Result(outcome, error, answer.hops, answer.rpcs, answer.acks, FIRST_VERSION)

    def _judge_lookup(self, key: bytes, answer: LookedUp) -> _Result:
        outcome: Outcome = "ok"
        error = ""
        if not answer.found:
            outcome, error = ("error", answer.error) if answer.error else ("not_found", "not_found")
        elif answer.value != self.keys.value(key, answer.version):
            outcome, error = "wrong_value", "wrong_value"
        version = answer.version if answer.found else UNKNOWN
        return _Result(outcome, error, answer.hops, answer.rpcs, UNKNOWN, version)

    def _row(
        self,
        kind: Kind,
        key: bytes,
        intended: float,
        started: float,
        finished: float,
        result: _Result,
        gateway: str,
        phase: Phase,
    ) -> Operation:
        outcome, error, worker = result.outcome, result.error, self.config.worker
        return Operation(
            kind, key.hex(), intended, started, finished, outcome, error, gateway,
            result.hops, result.rpcs, result.acks, phase, worker, result.version,
        )  # fmt: skip

    def _report_defect(self, error: Exception) -> None:
        """Log a client's own error, with its trace, once per kind."""
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            log.exception("the client raised %s, which is no ClientFailure", kind)
