"""One worker's load: its keys, its gateways, and the operations on them. Knows gevent, but not how it is driven.

An operation is one row: from when it was due to when its outcome was known. Locust hears of each one too, so that its own
statistics and page work; percentiles of reports come from the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any

import gevent
import msgspec
import tenacity
from gevent.pool import Pool

from loadtests.client import Answer, LoadClient, OperationFailed
from loadtests.gateways import Gateway, Gateways
from loadtests.recorder import FLUSH_EVERY, Recorder, Row
from loadtests.values import key_of, value_of

PRELOADERS, READERS = 16, 32  # operations side by side
PRELOAD_TRIES = 5
READBACK_GATEWAYS = 3
MAX_IN_FLIGHT = 2000  # operations of the open model; beyond that arrivals are shed, and say so

Fire = Callable[..., None]


class GatewayAddress(msgspec.Struct):
    name: str
    host: str
    port: int


class LoadOptions(msgspec.Struct):
    """What clients do. ``rate_per_s`` (open model) or ``users`` (closed model)."""

    rate_per_s: float | None
    users: int | None
    think_s: float
    arrivals: str | None
    stores: float
    keys: int
    value_size: int
    write_acks: int
    gateways: str
    timeout_s: float
    max_in_flight: int = MAX_IN_FLIGHT


class WorkerConfig(msgspec.Struct):
    """One worker's configuration file."""

    worker: str
    index: int
    workers: int
    seed: int
    cluster: str
    client: str  # dotted path of a `LoadClient`, as module:Class
    gateways: list[GatewayAddress]
    load: LoadOptions
    duration_s: float | None  # None: until told to stop
    operations: str  # path of the rows


class Window:
    """What finished since one last looked, by kind of operation: for the live view."""

    def __init__(self) -> None:
        self.latencies: dict[str, list[float]] = {"store": [], "lookup": []}
        self.ok: dict[str, int] = {"store": 0, "lookup": 0}


class LoadSession:
    """See the module. ``fire`` is Locust's request event."""

    def __init__(self, config: WorkerConfig, client_class: Callable[[str, int, str], LoadClient], fire: Fire) -> None:
        """Raises OSError if the file of rows cannot be made."""
        self.config = config
        self.options = config.load
        self.began = time.monotonic()
        self.rng = Random(f"{config.seed}/{config.worker}")
        self.recorder = Recorder(Path(config.operations))
        gateways = [Gateway(at.name, client_class(at.host, at.port, config.cluster)) for at in config.gateways]
        self.gateways = Gateways(gateways, Random(f"{config.seed}/{config.worker}/gateways"), time.monotonic)
        self.zero: float | None = None
        self.phase = "preload"
        self.stopping = False
        self.in_flight = 0
        self.lags: list[float] = []
        self.window = Window()
        self.failure: str = ""
        self._fire = fire
        self._numbers = 0
        self._acknowledged: list[bytes] = []
        self._idle = gevent.event.Event()
        self._idle.set()
        self._flusher = gevent.spawn(self._flush_for_ever)

    # --- phases ---------------------------------------------------------------------------------------------------

    def preload(self) -> tuple[int, int]:
        """Store this worker's share of the first keys; how many were acknowledged, and how many not."""
        share = len(range(self.config.index, self.options.keys, self.config.workers))
        pool = Pool(PRELOADERS)
        results = pool.map(lambda _: self._preload_one(), range(share))
        return sum(results), share - sum(results)

    def start(self, zero: float) -> None:
        """The clock starts at the monotonic time ``zero``."""
        self.zero = zero
        self.phase = "load"
        self.recorder.start_clock(zero)

    def drain(self) -> None:
        """Wait until nothing is in flight."""
        self._idle.wait()

    def readback(self, alive: Collection[str]) -> dict[str, int]:
        """Ask for every acknowledged key again; counts of outcomes."""
        self.phase = "readback"
        outcomes = Pool(READERS).map(lambda key: self._read_back(key, alive), list(self._acknowledged))
        return {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}

    def close(self) -> None:
        """Write what is left, close every connection."""
        self._flusher.kill()
        self.recorder.close(self.began)
        self.gateways.close()

    # --- operations -----------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the clock's start."""
        assert self.zero is not None
        return time.monotonic() - self.zero

    def over(self) -> bool:
        """Whether no operation is to begin any more."""
        return self.stopping or (self.config.duration_s is not None and self.now() >= self.config.duration_s)

    def draw_kind(self) -> str:
        """A store or a lookup, by the configured share; a store while there is nothing to look up."""
        return "store" if self.rng.random() < self.options.stores or not self._acknowledged else "lookup"

    def shed(self, kind: str, intended: float) -> None:
        """Record an arrival that could not be served, since too many are in flight."""
        now = time.monotonic()
        self._record(kind, b"", intended, now, now, "error", "shed", "", Answer())

    def operate(self, kind: str, intended: float, gateway: Gateway) -> None:
        """One operation that was due at the monotonic time ``intended``."""
        self.in_flight += 1
        self._idle.clear()
        try:
            if kind == "store":
                self._store(intended, gateway)
            else:
                self._lookup(intended, gateway)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def _store(self, intended: float, gateway: Gateway) -> bool:
        key = key_of(self.config.seed, self.config.worker, self._numbers)
        self._numbers += 1
        started, answer, outcome, error = time.monotonic(), Answer(), "ok", ""
        try:
            value = value_of(key, 0, self.options.value_size)
            answer = gateway.client.store(key, value, 0, self.options.timeout_s)
        except OperationFailed as failure:
            outcome, error = failure.outcome, failure.error
        finished = time.monotonic()
        if outcome != "ok":
            gateway.failed(finished)
        else:
            gateway.worked(finished)
            if answer.acks < self.options.write_acks:
                outcome, error = "error", "too_few_acks"
        if outcome == "ok":
            self._acknowledged.append(key)
        self._record("store", key, intended, started, finished, outcome, error, gateway.name, answer)
        return outcome == "ok"

    def _lookup(self, intended: float, gateway: Gateway) -> None:
        key = self._acknowledged[int(self.rng.random() * len(self._acknowledged))]
        started = time.monotonic()
        outcome, error, answer = self._ask(gateway, key)
        self._record("lookup", key, intended, started, time.monotonic(), outcome, error, gateway.name, answer)

    def _ask(self, gateway: Gateway, key: bytes) -> tuple[str, str, Answer]:
        try:
            answer = gateway.client.lookup(key, self.options.timeout_s)
        except OperationFailed as failure:
            gateway.failed(time.monotonic())
            return failure.outcome, failure.error, Answer()
        gateway.worked(time.monotonic())
        if answer.value is None:
            return "not_found", answer.error or "not_found", answer
        if answer.value != value_of(key, answer.version, self.options.value_size):
            return "wrong_value", "wrong_value", answer
        return "ok", "", answer

    def _preload_one(self) -> bool:
        store = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(PRELOAD_TRIES),
            wait=tenacity.wait_fixed(0.2),
            retry=tenacity.retry_if_result(lambda stored: not stored),
            retry_error_callback=lambda _: False,
            sleep=gevent.sleep,
        )
        return bool(store(lambda: self._store(time.monotonic(), self.gateways.random())))

    def _read_back(self, key: bytes, alive: Collection[str]) -> str:
        """Lost is only what all of the gateways that were asked say is not there."""
        started = time.monotonic()
        seen: list[tuple[str, str, Answer, str]] = []
        for gateway in self.gateways.some(alive, READBACK_GATEWAYS):
            seen.append((*self._ask(gateway, key), gateway.name))
            if seen[-1][0] in ("ok", "wrong_value"):
                break
        if not seen:
            seen = [("error", "no_live_gateway", Answer(), "")]
        silent = [row for row in seen if row[0] != "not_found"]
        outcome, error, answer, name = (silent or seen)[-1]
        self._record("lookup", key, started, started, time.monotonic(), outcome, error, name, answer)
        return outcome

    def _record(
        self,
        kind: str,
        key: bytes,
        intended: float,
        started: float,
        finished: float,
        outcome: str,
        error: str,
        gateway: str,
        answer: Answer,
    ) -> None:
        row = Row(
            kind, key.hex(), intended, started, finished, outcome, error, gateway,
            answer.hops, answer.rpcs, answer.acks, self.phase, self.config.worker, answer.version,
        )  # fmt: skip
        self.recorder.add(row)
        latency = finished - intended
        self.window.latencies[kind].append(latency)
        self.window.ok[kind] += outcome == "ok"
        self._fire(
            request_type=kind,
            name=self.phase,
            response_time=latency * 1000,
            response_length=len(answer.value or b""),
            exception=None if outcome == "ok" else OperationFailed(outcome, error or outcome),
            context={},
        )

    def _flush_for_ever(self) -> None:
        while True:
            gevent.sleep(FLUSH_EVERY)
            try:
                self.recorder.flush()
            except OSError as error:
                self.failure = f"{self.config.operations}: cannot write rows: {error}"
                return

    def take_window(self) -> dict[str, Any]:
        """Figures since the last call, for the live view."""
        window, self.window = self.window, Window()
        lags, self.lags = self.lags, []
        return {
            **{kind: _figures(sorted(window.latencies[kind]), window.ok[kind]) for kind in ("lookup", "store")},
            "in_flight": self.in_flight,
            "lag_ms": round(max(lags, default=0.0) * 1000, 1),
        }


def _figures(latencies: list[float], ok: int) -> dict[str, Any]:
    def quantile(q: float) -> float | None:
        return round(latencies[min(len(latencies) - 1, int(q * len(latencies)))] * 1000, 2) if latencies else None

    return {"count": len(latencies), "ok": ok, "p50_ms": quantile(0.5), "p99_ms": quantile(0.99)}
