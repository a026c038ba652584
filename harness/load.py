"""Driving the load: worker processes that run Locust, told what to do over their standard input. See loadtests/worker.py.

A worker that dies, or that says something wrong, is a failure of the run: it is remembered, told to a listener, and every wait
that concerns it ends at once. Nothing here imports Locust, which patches the process that imports it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import LoadFailed
from harness.spawner import Spawn, describe_exit, tail

UP_DEADLINE = 60.0  # s; importing Locust takes one to two of CPU
QUIT_GRACE = 5.0  # s


@dataclass(frozen=True)
class KindStats:
    """Figures of one kind of operation over the last window."""

    count: int
    ok: int
    rate: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class LoadStats:
    """What all workers said last. Quantiles of several workers cannot be added: the worst one is shown."""

    t: float
    lookup: KindStats
    store: KindStats
    in_flight: int
    lag_ms: float

    def kinds(self) -> dict[str, KindStats]:
        return {"lookup": self.lookup, "store": self.store}


@dataclass
class LoadWorker:
    """One worker process and all that it said, the newest of each kind."""

    name: str
    config: Path
    log: Path
    process: subprocess.Popen[bytes]
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    window_s: float = 1.0
    ended: bool = False
    leaving: bool = False


class LoadDriver:
    """All workers of a run. Methods raise LoadFailed, naming the worker, how it ended and what it last said."""

    def __init__(
        self, configs: Sequence[Path], logs: Path, spawn: Spawn, *, on_exit: Callable[[str, str], None]
    ) -> None:
        """``configs``: one JSON file per worker, named after it. ``on_exit`` is told the name and end of a dead worker."""
        self._configs, self._logs, self._spawn, self._on_exit = configs, logs, spawn, on_exit
        self._workers: list[LoadWorker] = []
        self._readers: list[threading.Thread] = []
        self._changed = threading.Condition()

    def launch(self) -> None:
        """Start all workers; they come up by themselves (see `wait_up`)."""
        for config in self._configs:
            log = self._logs / f"{config.stem}.log"
            process = self._spawn(
                [sys.executable, "-P", "-m", "loadtests", str(config)],
                name=config.stem,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            worker = LoadWorker(config.stem, config, log, process)
            self._workers.append(worker)
            reader = threading.Thread(target=self._read, args=(worker,), name=f"kadstorm-{worker.name}", daemon=True)
            self._readers.append(reader)
            reader.start()

    def wait_up(self) -> None:
        """Wait until all workers are ready to work."""
        self._wait("up", UP_DEADLINE)

    def preload(self, *, deadline: float) -> tuple[int, int]:
        """Have the first keys stored; how many were acknowledged, and how many not."""
        self._tell({"command": "preload"})
        said = self._wait("preloaded", deadline)
        return sum(each["stored"] for each in said), sum(each["failed"] for each in said)

    def start(self, clock: float) -> None:
        """Start the load; its t = 0 is the monotonic time ``clock``."""
        self._tell({"command": "start", "clock": clock})

    def wait_drained(self, deadline: float) -> int:
        """Wait until the load has ended and nothing is in flight; how many rows there are. ``deadline`` in s from now."""
        return sum(each["rows"] for each in self._wait("drained", deadline))

    def stop(self) -> None:
        """Let no further operation begin."""
        self._tell({"command": "stop"})

    def readback(self, alive: Collection[str], *, deadline: float) -> dict[str, int]:
        """Have every acknowledged key read back through the live gateways; how often each outcome."""
        self._tell({"command": "readback", "gateways": list(alive)})
        total: dict[str, int] = {}
        for each in self._wait("readback", deadline):
            for outcome, count in each["outcomes"].items():
                total[outcome] = total.get(outcome, 0) + count
        return total

    def stats(self) -> LoadStats | None:
        """The last figures; None before there are any."""
        latest = [(worker.stats, worker.window_s) for worker in self._workers if worker.stats]
        if not latest:
            return None
        return LoadStats(
            t=max(stats["t"] for stats, _ in latest),
            lookup=_merged([(stats["lookup"], window) for stats, window in latest]),
            store=_merged([(stats["store"], window) for stats, window in latest]),
            in_flight=sum(stats["in_flight"] for stats, _ in latest),
            lag_ms=max(stats["lag_ms"] for stats, _ in latest),
        )

    def check(self) -> None:
        """Raise LoadFailed if a worker has died or has reported an error."""
        with self._changed:
            self._check()

    def close(self) -> None:
        """Have all workers write what they have and leave; end those that do not. Never raises for a dead one."""
        for worker in self._workers:
            worker.leaving = True
            self._send(worker, {"command": "quit"})
        deadline = time.monotonic() + QUIT_GRACE
        for worker in self._workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        for reader in self._readers:
            reader.join()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _tell(self, command: dict[str, Any]) -> None:
        for worker in self._workers:
            self._send(worker, command)

    @staticmethod
    def _send(worker: LoadWorker, command: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(command).encode() + b"\n")
            worker.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended: its reader tells, and whoever waits for it hears of it

    def _wait(self, event: str, deadline: float) -> list[dict[str, Any]]:
        until = time.monotonic() + deadline
        with self._changed:
            while missing := [worker for worker in self._workers if event not in worker.said]:
                self._check()
                left = until - time.monotonic()
                if left <= 0:
                    raise LoadFailed(
                        f"{missing[0].name} did not say `{event}` within {deadline:.0f} s. The end of {missing[0].log}:\n"
                        f"{tail(missing[0].log)}"
                    )
                self._changed.wait(min(left, 0.5))
            return [worker.said.pop(event) for worker in self._workers]

    def _check(self) -> None:
        for worker in self._workers:
            if "error" in worker.said:
                raise LoadFailed(f"load worker {worker.name}: {worker.said['error'].get('message')}")
            if worker.ended:
                raise LoadFailed(
                    f"load worker {worker.name} died: {describe_exit(worker.process.returncode)}. "
                    f"The end of {worker.log}:\n{tail(worker.log)}"
                )

    def _read(self, worker: LoadWorker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._hear(worker, line)
        worker.process.wait()
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        with self._changed:
            worker.ended = True
            self._changed.notify_all()
        if not worker.leaving:
            self._on_exit(worker.name, describe_exit(worker.process.returncode))

    def _hear(self, worker: LoadWorker, line: bytes) -> None:
        try:
            said = json.loads(line)
            event = said["event"]
        except (ValueError, KeyError, TypeError):
            said, event = {"message": f"said something strange: {line[:200]!r}"}, "error"
        with self._changed:
            if event == "stats":
                worker.window_s = max(0.1, said["t"] - worker.stats.get("t", said["t"] - 0.5))
                worker.stats = said
            else:
                worker.said[event] = said
            self._changed.notify_all()


def _merged(parts: list[tuple[dict[str, Any], float]]) -> KindStats:
    def worst(name: str) -> float | None:
        return max((part[name] for part, _ in parts if part[name] is not None), default=None)

    return KindStats(
        count=sum(part["count"] for part, _ in parts),
        ok=sum(part["ok"] for part, _ in parts),
        rate=sum(part["count"] / window for part, window in parts),
        p50_ms=worst("p50_ms"),
        p99_ms=worst("p99_ms"),
    )
