"""What a load generator process reaches, costs and hides: against a null server, beside a bare Locust user, in one run.

    python benchmarks/load.py [--quick] [--json FILE] [--minutes N]

Both sides ask the same server with the same client (`node.client`), so the round trip is the same: what differs is what
Kadstorm adds to it (drawing keys, checking values, gateways, one recorded row per operation). The bare side is the least
that a custom user can be: one request, one `fire`.

- *closed*: so many users without think time; operations per second that each side reaches.
- *open*: arrivals at a rate that both can send; operations per second of CPU, which is what each could reach.
- *recorder*: CPU per row for recording and flushing it, beside all CPU per operation in the same seconds of the same worker.
- *lag*: how late operations are sent at half of what was reached, p99.
- *stall*: p99 that is reported for a server that stands still for 2 s. A closed model reports milliseconds.
- *memory*: what each process grows by in a run at 1,000 operations/s: the harness and its worker, and beside them Locust's own
  master and its two workers (`locust --processes 2`), which send as much again.

Sides take turns, and the best round of each counts: what other programs take is not ours. Of the recorder the median round does,
as both of its figures are from the same seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

USERS = 100  # enough to keep a generator busy whatever the server's answers take
HOST = "127.0.0.1"
CLUSTER = "null"
VALUE = 256
KEYS = 300
STALL = 2.0
LONG_RATE = 1000.0


@dataclass(frozen=True)
class Result:
    """One line of the table. ``ratio`` is held against ``limit``: at least it, or at most it where ``at_most``."""

    name: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    limit: float | None
    met: bool | None


def main() -> int:
    """Measure, print, and say by the exit code whether all limits were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rounds and fewer; --minutes 0.25, unless told")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="length of the run whose memory is watched (default: 10)"
    )
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return SIDES[options.side[0]](*options.side[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all sides are ended on the way out
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, null_server() as (port, _):
        bench = Bench(Path(folder), port, seconds=2.0 if options.quick else 4.0, rounds=2 if options.quick else 4)
        minutes = options.minutes or (0.25 if options.quick else 10.0)
        for result in measurements(bench, minutes):
            results.append(result)
            print(line(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0 if all(result.met is not False for result in results) else 1


def line(result: Result) -> str:
    """One result as a line of a table."""
    theirs = f"{result.theirs:12,.1f}" if result.theirs is not None else " " * 12
    ratio = f"{result.ratio:6.2f}" if result.ratio is not None else " " * 6
    limit = f"{result.limit:6.2f}" if result.limit is not None else " " * 6
    verdict = {True: "met", False: "MISSED", None: ""}[result.met]
    return f"{result.name:52} {result.ours:12,.1f} {theirs} {result.unit:12} {ratio} {limit} {verdict}"


def measurements(bench: Bench, minutes: float) -> Iterator[Result]:
    """All figures, in the order of the table."""
    print(f"{'':52} {'ours':>12} {'theirs':>12} {'unit':12} {'ratio':>6} {'limit':>6}")
    closed = {"users": USERS, "think_s": 0.0}
    ours, theirs = bench.in_turn(lambda: bench.ours(closed), lambda: bench.bare("closed", 0.0))
    reached = best(ours, "rate")
    yield at_least("closed model: operations/s reached", reached, best(theirs, "rate"), "1/s", 0.8)
    rate = round(reached / 2)
    opened = {"rate_per_s": float(rate), "arrivals": "constant"}
    ours, theirs = bench.in_turn(lambda: bench.ours(opened), lambda: bench.bare("open", rate))
    yield at_least(
        f"open model at {rate:,}/s: operations per CPU second",
        best(ours, "per_cpu"),
        best(theirs, "per_cpu"),
        "1/s",
        0.8,
    )
    yield Result("CPU of the generator per operation, open", 1e6 / best(ours, "per_cpu"), None, "us", None, None, None)
    lag = min(sample["lag_ms"] for sample in ours)
    yield Result(f"lag at half of what it reaches ({rate:,}/s), p99", lag, None, "ms", lag / 50, 1.0, lag <= 50)
    [accounts] = bench.in_turn(lambda: bench.account(closed))
    row, operation, share = median_of(accounts)
    yield Result(
        "recorder: CPU per row, of all per operation", row * 1e6, operation * 1e6, "us", share, 0.1, share <= 0.1
    )
    p99 = bench.stall()
    yield Result("stall of 2 s in the server: p99 in the open model", p99, None, "s", p99 / 1.5, 1.0, p99 >= 1.5)
    for who, grown, start in bench.memory(minutes):
        yield Result(
            f"memory: growth of {who}, {minutes:g} min at 1,000/s", grown, start, "MiB",
            grown / start, 0.05, grown <= 0.05 * start,
        )  # fmt: skip
    sent = bench.sent / (2 * LONG_RATE)
    yield Result("  sent meanwhile, by both together", bench.sent, 2 * LONG_RATE, "1/s", sent, 0.95, sent >= 0.95)


def at_least(name: str, ours: float, theirs: float, unit: str, limit: float) -> Result:
    """A result whose ratio must reach a limit."""
    return Result(name, ours, theirs, unit, ours / theirs, limit, ours / theirs >= limit)


def best(samples: Sequence[dict[str, float]], name: str) -> float:
    """The best round."""
    return max(sample[name] for sample in samples)


def median_of(accounts: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """Seconds per row and per operation, and the share that those for the row have: of the round with the median share (of
    two, the larger)."""
    shares = sorted((each["recording"] / each["operation"], each["recording"], each["operation"]) for each in accounts)
    share, row, operation = shares[len(shares) // 2]
    return row, operation, share


class Bench:
    """Runs sides in processes of their own against one null server."""

    def __init__(self, folder: Path, port: int, *, seconds: float, rounds: int) -> None:
        self._folder, self._port, self._seconds, self._rounds = folder, port, seconds, rounds
        self._number = 0
        self.sent = 0.0  # operations a second in the long run

    def in_turn(self, *sides: Callable[[], dict[str, float]]) -> list[list[dict[str, float]]]:
        """All sides, one after the other, so many rounds; the samples of each."""
        rounds = [[side() for side in sides] for _ in range(self._rounds)]
        return [list(samples) for samples in zip(*rounds, strict=True)]

    def account(self, load: dict[str, Any]) -> dict[str, float]:
        """CPU seconds of a load worker per row that it records, and per operation."""
        with self._loading(load, self._seconds, self._port, "accounted") as (driver, _):
            driver.wait_drained(self._seconds + 30)
        told: dict[str, float] = json.loads((self._folder / f"{self._number}.arrow.json").read_text())
        return told

    def ours(self, load: dict[str, Any]) -> dict[str, float]:
        """A real load worker, driven as a run drives it."""
        with self._loading(load, self._seconds, self._port) as (driver, process):
            began = cpu_of(process.pid)
            done = driver.wait_drained(self._seconds + 30)
            spent = cpu_of(process.pid) - began
        return {"rate": done.rows / self._seconds, "per_cpu": done.rows / spent, "lag_ms": done.lag_ms}

    def bare(self, model: str, rate: float) -> dict[str, float]:
        """A bare Locust user."""
        command = [
            *leash(),
            sys.executable,
            __file__,
            "--side",
            "bare",
            model,
            str(self._port),
            str(rate),
            str(self._seconds),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told

    def stall(self) -> float:
        """p99 in seconds that a worker's rows show for a server that stands still for STALL seconds."""
        import numpy as np

        load = {"rate_per_s": 200.0, "arrivals": "constant"}
        with null_server(stall_after=1.0) as (port, wake), self._loading(load, 6.0, port) as (driver, _):
            wake()
            driver.wait_drained(30)
        rows = self._rows()
        return float(np.quantile([row["finished"] - row["intended"] for row in rows if row["phase"] == "load"], 0.99))

    def memory(self, minutes: float) -> list[tuple[str, float, float]]:
        """By how many MiB each process grows, and what it had after the first tenth."""
        import psutil

        seconds = minutes * 60
        load = {"rate_per_s": LONG_RATE, "stores": 0.2}
        with self._locust(seconds) as locust, self._loading(load, seconds, self._port) as (driver, process):
            master = psutil.Process(locust.pid)
            watched = {"the harness": psutil.Process(), "its worker": psutil.Process(process.pid)}
            watched |= {"Locust's master": master}
            watched |= {f"Locust's worker {number}": child for number, child in enumerate(master.children())}
            time.sleep(seconds / 10)
            start = {who: seen.memory_info().rss / 2**20 for who, seen in watched.items()}
            time.sleep(seconds * 0.85)
            end = {who: seen.memory_info().rss / 2**20 for who, seen in watched.items()}
            self.sent = driver.wait_drained(seconds).rows / seconds
        self.sent += sum(self._rate(path) for path in (self._folder / "locust").glob("*.arrow"))
        return [(who, end[who] - start[who], start[who]) for who in watched]

    @contextmanager
    def _locust(self, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
        """Locust's own command with a master and two workers; the block is entered when their rows begin."""
        from harness.load_page import free_port

        rows, port = self._folder / "locust", str(free_port(HOST))
        locustfile = str(Path(__file__).parents[1] / "loadtests" / "locustfile.py")
        command = [
            *leash(),
            sys.executable,
            "-P",
            "-m",
            "locust",
            "-f",
            locustfile,
            "--headless",
            "-t",
            f"{seconds + 5:.0f}s",
        ]
        command += ["--processes", "2", "--master-bind-port", port, "--master-port", port]
        command += ["-H", ",".join(f"null-{i}={HOST}:{self._port}" for i in range(4)), "--cluster-id", CLUSTER]
        command += ["--rate", f"{LONG_RATE:g}", "--stores", "0.2", "--keys", str(KEYS), "--operations", str(rows)]
        with (self._folder / "locust.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while sum(path.stat().st_size > 100_000 for path in rows.glob("*.arrow")) < 2:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"Locust did not start:\n{(self._folder / 'locust.log').read_text()[-2000:]}")
                time.sleep(0.1)
            yield process
            process.wait(60)
        finally:
            process.terminate()
            process.wait()

    @staticmethod
    def _rate(path: Path) -> float:
        """Operations of the load a second, of one file of rows."""
        import pyarrow as pa

        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            rows = stream.read_all().select(["phase", "intended"]).to_pandas()
        moments = rows.loc[rows["phase"] == "load", "intended"]
        return float(len(moments) / (moments.max() - moments.min()))

    def _rows(self) -> list[dict[str, Any]]:
        import pyarrow as pa

        with pa.OSFile(str(self._folder / f"{self._number}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            rows: list[dict[str, Any]] = stream.read_all().to_pylist()
        return rows

    @contextmanager
    def _loading(
        self, load: dict[str, Any], seconds: float, port: int, side: str = "worker"
    ) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
        from harness.load import LoadDriver

        self._number += 1
        processes: list[subprocess.Popen[bytes]] = []

        def spawn(
            argv: Sequence[str],
            *,
            name: str,  # noqa: ARG001
            stdin: Any,
            stdout: Any,
            stderr: Path,
        ) -> subprocess.Popen[bytes]:
            command = list(argv) if side == "worker" else [sys.executable, __file__, "--side", side, argv[-1]]
            with stderr.open("ab") as log:
                processes.append(subprocess.Popen([*leash(), *command], stdin=stdin, stdout=stdout, stderr=log))
            return processes[-1]

        config = {
            "worker": f"load-{self._number}",
            "seed": 1,
            "cluster": CLUSTER,
            "gateways": [{"name": f"null-{i}", "host": HOST, "port": port} for i in range(4)],
            "load": {"keys": KEYS, "value_size": VALUE, "stores": 0.0, "timeout_s": 5.0} | load,
            "duration_s": seconds,
            "operations": str(self._folder / f"{self._number}.arrow"),
        }
        driver = LoadDriver([config], spawn=spawn, folder=self._folder)
        try:
            driver.launch()
            driver.wait_up()
            driver.preload()
            driver.start_clock(time.monotonic() + 0.2)
            yield driver, processes[0]
            driver.quit()
        finally:
            driver.close()


def leash() -> list[str]:
    """Before a side's command: it ends when this process does, however that comes about (Linux)."""
    from harness.spawner import LEASH

    return [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]


def cpu_of(pid: int) -> float:
    """CPU seconds of a process."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def null_server(stall_after: float = 0.0) -> Iterator[tuple[int, Callable[[], None]]]:
    """A server that does nothing but answer; its port, and what starts the wait before its stall."""
    command = [*leash(), sys.executable, __file__, "--side", "server", str(stall_after)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin = process.stdin

    def wake() -> None:
        stdin.write(b"stall\n")
        stdin.flush()

    try:
        yield int(process.stdout.readline()), wake
    finally:
        process.kill()
        process.wait()
        stdin.close()
        process.stdout.close()


# --- sides, each in a process of its own ----------------------------------------------------------------------------


def serve(stall_after: str) -> int:
    """Keep what is stored, answer what is asked, at once; on a line of stdin stand still once for STALL seconds."""
    import asyncio

    import uvloop

    from node.wire import Envelope, FrameReader, Get, GetResult, Put, PutResult, decode, encode

    kept: dict[bytes, tuple[bytes, int]] = {}

    class Null(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.reader = transport, FrameReader()

        def data_received(self, data: bytes) -> None:
            answers = []
            for body in self.reader.feed(data):
                envelope = decode(body, CLUSTER)
                answers.append(encode(Envelope(CLUSTER, envelope.rid, None, self.answer(envelope.message))))
            self.transport.write(b"".join(answers))

        def answer(self, message: Any) -> Any:
            if isinstance(message, Put):
                kept[message.key] = (message.value, message.version)
                return PutResult(acks=5, holds=True, hops=0, rpcs=0, timeouts=0)
            assert isinstance(message, Get)
            value, version = kept.get(message.key, (b"", -1))
            return GetResult(found=version >= 0, value=value, version=version, hops=0, rpcs=0, timeouts=0)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Null, HOST, 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        loop.add_reader(sys.stdin, lambda: os.read(0, 99) and loop.call_later(float(stall_after), time.sleep, STALL))
        await server.serve_forever()

    uvloop.run(run())
    return 0


def accounted(config: str) -> int:
    """A load worker that keeps account of what its rows cost: between the ends of its first and its last flush, so that every
    row of that time is recorded, flushed and paid for in it."""
    from gevent import monkey

    monkey.patch_all()
    from loadtests import worker

    class Accounted(worker.Recorder):
        began, first, ended, spent = 0.0, 0, 0.0, 0.0

        def flush(self) -> None:
            before, cpu = self.written, time.thread_time()
            super().flush()
            if self.written == before:
                return
            self.ended = time.process_time()
            if self.began:
                self.spent += time.thread_time() - cpu
            else:
                self.began, self.first = self.ended, self.written

        def close(self, fallback_clock: float = 0.0) -> None:
            rows, spent = self.written - self.first, self.spent
            account = {"recording": spent / rows + appending(), "operation": (self.ended - self.began) / rows}
            Path(json.loads(Path(config).read_text())["operations"] + ".json").write_text(json.dumps(account))
            super().close(fallback_clock)

    worker.Recorder = Accounted  # type: ignore[misc]
    return worker.main([config])


def appending() -> float:
    """CPU seconds that it takes to record one row, its flush apart; those of the loop around it count as well."""
    rows: list[tuple[()]] = []
    record, began = rows.append, time.thread_time()
    for _ in range(100_000):
        record(())
    return (time.thread_time() - began) / 100_000


def bare(model: str, port: str, rate: str, seconds: str) -> int:
    """The least that a custom user of Locust can be, with the same round trip."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from locust import User, constant, task
    from locust.env import Environment

    from node.client import Client

    clients = [Client(HOST, int(port), CLUSTER) for _ in range(4)]
    keys = [b"%020d" % number for number in range(KEYS)]
    for key in keys:
        clients[0].put(key, bytes(VALUE), version=1, timeout=5.0)
    state = {"number": 0, "end": 0.0}

    def operate(environment: Any) -> None:
        state["number"] += 1
        number = state["number"]
        began = time.perf_counter()
        failure = None
        try:
            clients[number % 4].get(keys[number % KEYS], timeout=5.0)
        except Exception as error:
            failure = error
        environment.events.request.fire(
            request_type="lookup",
            name="load",
            response_time=(time.perf_counter() - began) * 1e3,
            response_length=0,
            exception=failure,
            context={},
        )

    class Closed(User):
        wait_time = constant(0)

        @task
        def ask(self) -> None:
            operate(self.environment)

    class Open(User):
        @task
        def send(self) -> None:
            start, number = time.monotonic(), 0
            while (due := start + number / float(rate)) < state["end"]:
                gevent.sleep(max(0.0, due - time.monotonic()))
                gevent.spawn(operate, self.environment)
                number += 1
            gevent.sleep(60)

    environment = Environment(user_classes=[Closed if model == "closed" else Open])
    runner = environment.create_local_runner()
    state["end"] = time.monotonic() + float(seconds)
    began, cpu_before = time.monotonic(), time.process_time()
    runner.start(USERS if model == "closed" else 1, spawn_rate=USERS)
    gevent.sleep(float(seconds))
    count = environment.stats.total.num_requests
    spent, took = time.process_time() - cpu_before, time.monotonic() - began  # a busy loop may wake this one late
    assert environment.stats.total.num_failures == 0
    print(json.dumps({"rate": count / took, "per_cpu": count / spent}), flush=True)
    os._exit(0)


SIDES: dict[str, Callable[..., int]] = {"server": serve, "accounted": accounted, "bare": bare}

if __name__ == "__main__":
    sys.exit(main())
