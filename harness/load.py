"""Drives the load's workers: processes of their own (Locust monkey-patches its process), told what to do over stdin.

Rules:
- One thread per worker reads its stdout. What it learns lands in one place, under one condition, and everything that
  waits, waits on that condition with a deadline. A worker that dies wakes all waits.
- Before the clock starts, a worker that dies is an error: nothing was measured yet. From then on it is remembered
  (`exits`), told to ``on_exit``, and the others go on; the caller decides what the run is worth. If none is left, waits
  raise.
- The harness imports nothing of loadtests/: the protocol (loadtests/control.py) is all that they share.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.errors import LoadFailed
from harness.spawner import Spawn, describe_exit, tail

CHECK_EVERY = 0.1  # s
UP_TIMEOUT = 60.0  # s for an interpreter and Locust to start on a busy machine
PRELOAD_TIMEOUT = 300.0  # s; workers bound their tries by themselves
READBACK_TIMEOUT = 600.0  # s; so do they here
UNFLUSHED = 0.25  # s of rows that a worker may hold in memory (loadtests/recorder.py)
QUIT_TIMEOUT = 10.0  # s to write what is left
CLOSE_TIMEOUT = 2.0  # s between the end of stdin and SIGKILL


@dataclass(frozen=True)
class KindStats:
    """One kind of operation in the last window of about half a second. Quantiles are of finished - intended."""

    count: int = 0
    ok: int = 0
    rate: float = 0.0  # finished per second
    p50_ms: float | None = None  # null if nothing finished; over several workers the slowest one's, an upper bound
    p99_ms: float | None = None


@dataclass(frozen=True)
class LoadStats:
    """All workers' last windows, for the live view. Verdicts come from the recorded rows, never from here."""

    t: float  # s since the clock started
    lookup: KindStats
    store: KindStats
    in_flight: int
    lag_ms: float  # how late operations were sent: p99 of the slowest worker

    def kinds(self) -> dict[str, KindStats]:
        """By kind of operation."""
        return {"lookup": self.lookup, "store": self.store}


@dataclass(frozen=True)
class Preloaded:
    """Keys that were stored and acknowledged, and those that never were."""

    stored: int
    failed: int


@dataclass(frozen=True)
class Drained:
    """The whole load: its rows, what Locust's own statistics counted, and how far the generator fell behind."""

    rows: int
    requests: int
    lag_ms: float  # p99, of the slowest worker
    lag_max_ms: float


@dataclass(frozen=True)
class ReadBack:
    """What became of the acknowledged keys."""

    keys: int
    lost: int
    unreachable: int
    wrong: int


@dataclass(frozen=True)
class WorkerExit:
    """A worker that ended. ``code`` as Popen has it; ``said`` its last word, if it had one; ``log`` its log's end;
    ``missing`` what of its records may be gone."""

    worker: str
    code: int
    said: str
    log: str
    missing: str = ""

    def __str__(self) -> str:
        said = f"; it said: {self.said}" if self.said else ""
        missing = f"; {self.missing}" if self.missing else ""
        return (
            f"load worker {self.worker} ended: {describe_exit(self.code)}{said}{missing}\nend of its log:\n{self.log}"
        )


class _Worker:
    """One worker's process and what is known of it. Guarded by the driver's condition."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        self.name: str = config["worker"]
        self.log = folder / f"{self.name}.log"
        self.config_path = folder / f"{self.name}.json"
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self.thread: threading.Thread | None = None
        self.heard: dict[str, dict[str, Any]] = {}  # the last event of each kind
        self.window_s = 0.0  # s that the last stats cover
        self.exit: WorkerExit | None = None
        self.ending = False  # it was asked to end

    def hear(self, line: bytes) -> None:
        """Take note of one line of its stdout. Raises ValueError if it is none of the protocol's."""
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
            kind = event["event"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise ValueError(f"not an event of the control protocol: {line[:200]!r}") from error
        if kind == "stats":
            self.window_s = event["t"] - self.heard.get("stats", {"t": 0.0})["t"]
        self.heard[kind] = event

    def may_miss(self) -> str:
        """What may not be on disk if it ended now, from the last that it told."""
        stats = self.heard.get("stats")
        if stats is None:
            return "none of its rows may be on disk"
        count = stats["lookup"]["count"] + stats["store"]["count"]
        unwritten = math.ceil(count / self.window_s * UNFLUSHED) if self.window_s > 0 else 0
        return (
            f"its rows up to {stats['t'] - UNFLUSHED:.1f} s are on disk; of the time up to its end about {unwritten} may "
            f"be missing, and up to {stats['in_flight']} that were in flight"
        )

    def tell(self, command: str, **fields: Any) -> None:
        """Send a command. To a worker that is gone it is lost: its reader will say so."""
        if self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(msgspec.json.encode({"command": command, **fields}) + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: its stdin was closed by `close`
            return


class LoadDriver:
    """All workers of one load.

    ``configs`` are the workers' configurations (loadtests/config.py), each with a ``worker`` name of its own; they and
    the workers' logs are kept in ``folder``. ``on_exit`` is called from a thread of the driver's, once for each worker
    that ends unasked. ``check`` is called several times a second while something is waited for; what it raises ends the wait.
    """

    def __init__(
        self,
        configs: Sequence[Mapping[str, Any]],
        *,
        spawn: Spawn,
        folder: Path,
        on_exit: Callable[[WorkerExit], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._spawn = spawn
        self._folder = folder
        self._on_exit = on_exit
        self._check = check
        self._workers = [_Worker(config, folder) for config in configs]
        self._changed = threading.Condition()
        self._exits: list[WorkerExit] = []

    @property
    def exits(self) -> tuple[WorkerExit, ...]:
        """Workers that ended unasked, so far."""
        with self._changed:
            return tuple(self._exits)

    # --- phases, in their order ------------------------------------------------------------------

    def launch(self) -> None:
        """Start all workers; `wait_up` waits for them.

        Raises:
            LoadFailed: their folder cannot be written.
            HarnessError: one cannot be started.
        """
        for worker in self._workers:
            self._prepare(worker)
            command = [sys.executable, "-P", "-m", "loadtests", str(worker.config_path)]
            worker.process = self._spawn(
                command, name=worker.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=worker.log
            )
            worker.thread = threading.Thread(
                target=self._listen, args=(worker, worker.process), name=f"kadstorm-{worker.name}", daemon=True
            )
            worker.thread.start()

    def wait_up(self, timeout: float = UP_TIMEOUT) -> None:
        """Wait until all workers can work. Raises LoadFailed if one cannot."""
        self._await("up", timeout, all_needed=True)

    def preload(self, timeout: float = PRELOAD_TIMEOUT) -> Preloaded:
        """Have the first keys stored. Raises LoadFailed if a worker dies, or if not a single key was acknowledged."""
        self._tell("preload")
        answers = self._await("preloaded", timeout, all_needed=True)
        result = Preloaded(_total(answers, "stored"), _total(answers, "failed"))
        if result.failed and not result.stored:
            raise LoadFailed(f"preload: none of {result.failed} keys was acknowledged by enough nodes")
        return result

    def start_clock(self, clock: float, timeout: float = UP_TIMEOUT) -> None:
        """Set t = 0 to ``clock`` (CLOCK_MONOTONIC, s; better in the near future) and start the load."""
        self._tell("start", clock=clock)
        self._await("started", timeout, all_needed=True)

    def stats(self) -> LoadStats | None:
        """The last figures; None before there are any."""
        with self._changed:
            seen = [(worker.heard["stats"], worker.window_s) for worker in self._workers if "stats" in worker.heard]
        if not seen:
            return None
        events = [event for event, _ in seen]
        return LoadStats(
            t=max(event["t"] for event in events),
            lookup=_kind_stats(seen, "lookup"),
            store=_kind_stats(seen, "store"),
            in_flight=_total(events, "in_flight"),
            lag_ms=max(event["lag_ms"] for event in events),
        )

    def stop(self) -> None:
        """End the load before its time; `wait_drained` waits until nothing is in flight."""
        self._tell("stop")

    def wait_drained(self, timeout: float) -> Drained:
        """Wait until the load is over and nothing is in flight. Raises LoadFailed after ``timeout`` seconds, or if no
        worker is left."""
        answers = self._await("drained", timeout)
        return Drained(
            rows=_total(answers, "rows"),
            requests=_total(answers, "requests"),
            lag_ms=max(answer["lag_ms"] for answer in answers),
            lag_max_ms=max(answer["lag_max_ms"] for answer in answers),
        )

    def readback(self, gateways: Sequence[str], timeout: float = READBACK_TIMEOUT) -> ReadBack:
        """Have every acknowledged key looked up through ``gateways``, the members believed alive. Raises LoadFailed."""
        self._tell("readback", gateways=list(gateways))
        answers = self._await("readback", timeout)
        return ReadBack(*(_total(answers, name) for name in ("keys", "lost", "unreachable", "wrong")))

    def quit(self, timeout: float = QUIT_TIMEOUT) -> int:
        """End all workers and return how many rows they wrote.

        Raises:
            LoadFailed: one did not end in time, or could not write all its rows.
        """
        living = self._end()
        self._tell("quit")
        with self._changed:
            in_time = self._changed.wait_for(lambda: all(worker.exit for worker in living), timeout)
            failed = [str(worker.exit) for worker in living if worker.exit and worker.exit.code]
            rows = _total([worker.heard["bye"] for worker in living if "bye" in worker.heard], "rows")
        if not in_time:
            raise LoadFailed(f"load workers did not end within {timeout:g} s: {self._names(living)}")
        if failed:
            raise LoadFailed("\n".join(failed))
        return rows

    def close(self) -> None:
        """Make sure that nothing is left: workers first by the end of their stdin, then by SIGKILL. Never raises."""
        self._end()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        started = [(worker.process, worker.thread) for worker in self._workers if worker.process and worker.thread]
        for process, _ in started:
            _close_quietly(process.stdin)
        for process, thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                process.kill()
                thread.join()
            _close_quietly(process.stdout)

    # --- how it is done --------------------------------------------------------------------------

    def _prepare(self, worker: _Worker) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            Path(worker.config["operations"]).parent.mkdir(parents=True, exist_ok=True)
            worker.config_path.write_bytes(msgspec.json.format(msgspec.json.encode(worker.config)))
        except OSError as error:
            raise LoadFailed(f"{self._folder}: cannot prepare load worker {worker.name}: {error}") from error

    def _tell(self, command: str, **fields: Any) -> None:
        for worker in self._workers:
            worker.tell(command, **fields)

    def _end(self) -> list[_Worker]:
        """Note that workers may end from now on; those that still live."""
        with self._changed:
            for worker in self._workers:
                worker.ending = True
            return [worker for worker in self._workers if worker.process is not None and worker.exit is None]

    def _await(self, event: str, timeout: float, *, all_needed: bool = False) -> list[dict[str, Any]]:
        """The ``event`` of every worker that lives to tell it."""
        with self._changed:
            if not self._settled_within(timeout, lambda: self._settled(event, all_needed)):
                late = [worker for worker in self._workers if not worker.exit and event not in worker.heard]
                raise LoadFailed(self._too_late(event, timeout, late))
            told = [worker.heard[event] for worker in self._workers if event in worker.heard]
            dead = [str(worker.exit) for worker in self._workers if event not in worker.heard]
        if dead and (all_needed or not told):
            raise LoadFailed("\n".join(dead))
        return told

    def _settled_within(self, timeout: float, settled: Callable[[], bool]) -> bool:
        """Wait for it, and look several times a second whether anybody still wants us to."""
        until = time.monotonic() + timeout
        while not self._changed.wait_for(settled, min(CHECK_EVERY, max(0.0, until - time.monotonic()))):
            self._check()
            if time.monotonic() >= until:
                return settled()
        return True

    def _settled(self, event: str, all_needed: bool) -> bool:
        missing = [worker for worker in self._workers if event not in worker.heard]
        dead = [worker for worker in missing if worker.exit]
        return len(dead) == len(missing) or (all_needed and bool(dead))

    def _too_late(self, event: str, timeout: float, late: Sequence[_Worker]) -> str:
        logs = "\n".join(f"end of {worker.log}:\n{tail(worker.log)}" for worker in late)
        return f"load workers without '{event}' after {timeout:g} s: {self._names(late)}\n{logs}"

    @staticmethod
    def _names(workers: Sequence[_Worker]) -> str:
        return ", ".join(worker.name for worker in workers)

    # --- one thread per worker -------------------------------------------------------------------

    def _listen(self, worker: _Worker, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        broken = ""
        try:
            for line in process.stdout:
                self._hear(worker, line)
        except ValueError as error:
            broken = str(error)
            process.kill()
        code = process.wait()
        self._note_exit(worker, code, broken)

    def _hear(self, worker: _Worker, line: bytes) -> None:
        with self._changed:
            worker.hear(line)
            self._changed.notify_all()

    def _note_exit(self, worker: _Worker, code: int, broken: str) -> None:
        said = broken or worker.heard.get("error", {}).get("message", "")
        exited = WorkerExit(worker.name, code, said, tail(worker.log), worker.may_miss())
        with self._changed:
            unasked = not worker.ending
            if unasked:
                self._exits.append(exited)
            worker.exit = exited
            self._changed.notify_all()
        if unasked and self._on_exit is not None:
            self._on_exit(exited)


def _close_quietly(pipe: IO[bytes] | None) -> None:
    if pipe is None:
        return
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was still buffered for a worker that is gone


def _total(events: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(event[name] for event in events)


def _kind_stats(seen: Sequence[tuple[Mapping[str, Any], float]], kind: str) -> KindStats:
    events = [event[kind] for event, _ in seen]
    return KindStats(
        count=_total(events, "count"),
        ok=_total(events, "ok"),
        rate=sum(event[kind]["count"] / window for event, window in seen if window > 0),
        p50_ms=max((event["p50_ms"] for event in events if event["p50_ms"] is not None), default=None),
        p99_ms=max((event["p99_ms"] for event in events if event["p99_ms"] is not None), default=None),
    )
