"""What a long run costs to analyse: ten million operations within 60 s and 4 GB, and a page that opens in 3 s.

Run: ``python benchmarks/analysis.py [--quick] [--json FILE] [--keep DIR]``; `--quick` takes one million, and a tenth of
the time. Exit code 1 if a limit is missed.

The run folder is made up by a seeded generator: Arrow streams in the small batches that load workers write, a journal with
three faults, samples of a hundred nodes. Analysis and report run in a process of their own, whose peak memory the kernel
tells. That a percentile is the one of all rows is checked against numpy over the columns as they lie in the streams.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from figures import Figure, write

from harness.records import ADDED_OPERATION_COLUMNS, NODE_COLUMNS, OPERATION_COLUMNS, Action, Plan, PlannedNode

WORKERS, NODES, RATE = 2, 100, 10_000
BATCH = 2_000  # rows of one flush
STORES, PRELOADED = 0.2, 0.04  # of the load's rows; of all rows
LOADED = 0.8  # of all rows; the rest is the preload and the read-back
FAULTS = (("latency", 0.1, 0.2), ("partition", 0.4, 0.5), ("churn", 0.7, 0.85))
QUICK, FULL = 1_000_000, 10_000_000
SECONDS_PER_MILLION, MEMORY_GB, PAGE_S, OFF_BY = 6.0, 4.0, 3.0, 0.001
PROGRAM = "import sys, pathlib, reports; reports.write(pathlib.Path(sys.argv[1]))"
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}


def main() -> int:
    """Measure and print."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="kadstorm-analysis-") as scratch:
        folder = options.keep or Path(scratch) / "run"
        rows = QUICK if options.quick else FULL
        began = time.monotonic()
        generate(folder, rows)
        print(f"{rows:,} operations made in {time.monotonic() - began:.1f} s")
        figures = list(measure(folder, rows))
    table(figures)
    write(options.json, figures)
    return int(not all(figure.met for figure in figures))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one million operations")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--keep", type=Path, help="make the run folder there, and leave it")
    return parser.parse_args()


def table(figures: list[Figure]) -> None:
    """A line per figure."""
    print(f"{'':44} {'measured':>12} {'limit':>12} {'ratio':>7}")
    for one in figures:
        ours, theirs = f"{one.ours:.6g} {one.unit}", f"{one.theirs:.6g} {one.unit}"
        print(f"{one.name:44} {ours:>12} {theirs:>12} {one.ratio:7.3f}  {'met' if one.met else 'MISSED'}")


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(folder: Path, rows: int) -> Iterator[Figure]:
    """Analyse the folder in a process of its own; time, memory, exactness, and how fast the page opens."""
    exact = exact_quantiles(folder)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", PROGRAM, folder], check=True)
    yield within("analysis and report", time.monotonic() - began, SECONDS_PER_MILLION * rows / 1e6, "s")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"of which {spent.ru_utime + spent.ru_stime:.1f} s of processor time, whatever else the machine does")
    peak = spent.ru_maxrss * 1024 / 1e9
    yield within("peak memory", peak, MEMORY_GB, "GB")
    summary = json.loads((folder / "summary.json").read_text())
    for kind, quantiles in exact.items():
        for name, value in quantiles.items():
            off = abs(summary[kind][name] / value - 1)
            yield within(f"{kind} {name.removesuffix('_ms')}: off from numpy by", off * 100, OFF_BY * 100, "%")
    if (seconds := page_seconds(folder / "report.html")) is not None:
        yield within("the page in Chromium, charts drawn", seconds, PAGE_S, "s")
    yield within("size of the page", (folder / "report.html").stat().st_size / 1e6, 1.5, "MB")


def within(name: str, ours: float, limit: float, unit: str) -> Figure:
    """A figure that is to stay below its limit."""
    return Figure(name, round(ours, 6), limit, unit, round(ours / limit, 6), 1.0, ours <= limit)


def exact_quantiles(folder: Path) -> dict[str, dict[str, float]]:
    """By numpy, of every row of phase load in the streams, ms."""
    latencies: dict[str, list[Any]] = {"lookup": [], "store": []}
    for path in sorted((folder / "operations").glob("*.arrow")):
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                loaded = batch.column("phase").to_numpy(zero_copy_only=False) == "load"
                took = batch.column("finished").to_numpy() - batch.column("intended").to_numpy()
                kinds = batch.column("kind").to_numpy(zero_copy_only=False)
                for kind, several in latencies.items():
                    several.append(took[loaded & (kinds == kind)])
    joined = {kind: np.concatenate(several) * 1000 for kind, several in latencies.items()}
    return {kind: {name: float(np.quantile(all_, q)) for name, q in QUANTILES.items()} for kind, all_ in joined.items()}


def page_seconds(page: Path) -> float | None:
    """From asking for the page to its interactive charts, in a warm browser; None where there is no browser."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except Error:
            return None
        tab = browser.new_page()
        began = time.monotonic()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("#chart svg")
        seconds = time.monotonic() - began
        browser.close()
    return seconds


# --- the generator ----------------------------------------------------------------------------------------------------


def generate(folder: Path, rows: int, seed: int = 1) -> None:
    """Write a run folder with ``rows`` operations: 10,000 a second, through 100 nodes."""
    (folder / "operations").mkdir(parents=True, exist_ok=True)
    seconds = rows * LOADED / RATE
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan_of(seconds, seed)))
    events = journal_of(seconds)
    (folder / "events.jsonl").write_text(
        "".join(f"{json.dumps({'wall': '2026-01-02T03:04:05Z', **e})}\n" for e in events)
    )
    for worker in range(WORKERS):
        write_worker(folder / "operations" / f"load-{worker}.arrow", worker, rows // WORKERS, seconds, seed)
    write_samples(folder / "nodes.arrow", seconds)


def plan_of(seconds: float, seed: int) -> Plan:
    """The plan of a storm of three faults."""
    timeline = [{"at": f"{b * seconds:g}s", "for": f"{(e - b) * seconds:g}s", name: {}} for name, b, e in FAULTS]
    experiment = {
        "name": "long-storm",
        "description": "A generated run, for the figures of the analysis.",
        "cluster": {"nodes": NODES, "backend": "process", "node": {"k": 20}},
        "load": {"rate_per_1000s": RATE * 1000, "timeout_us": 5_000_000, "think_us": 0, "users": None},
        "duration_us": round(seconds * 1e6),
        "timeline": timeline,
        "expect": [
            "lookup.success >= 99% outside faults",
            "lookup.p99 <= 1s outside faults",
            "recovery <= 30s",
            "lost == 0",
        ],
    }
    actions = [
        Action(
            at_us=round(begin * seconds * 1e6),
            until_us=round(end * seconds * 1e6),
            fault=name,
            name=name,
            entry=number,
            targets=["site-0"],
        )
        for number, (name, begin, end) in enumerate(FAULTS)
    ]
    nodes = [PlannedNode(f"node-{n}", f"{n:040x}", f"site-{n}") for n in range(NODES)]
    return Plan(schema=1, seed=seed, experiment=experiment, nodes=nodes, actions=actions)


def journal_of(seconds: float) -> list[dict[str, Any]]:
    """What a run that went well says."""
    events: list[dict[str, Any]] = [
        {"t": None, "event": "session", "detail": {"environment": {"cpus": 2}, "replay": "kadstorm run plan.json"}},
        {"t": 0.0, "event": "clock"},
    ]
    for n, (name, begin, end) in enumerate(FAULTS):
        base = {"name": name, "fault": name, "action": n, "targets": ["site-0"]}
        events += [
            {**base, "t": begin * seconds, "event": "inject"},
            {**base, "t": begin * seconds + 1, "event": "observe", "observed": {"pairs": 64}, "effective": True},
            {**base, "t": end * seconds, "event": "heal"},
            {**base, "t": end * seconds + 0.1, "event": "heal-observed", "effective": True},
        ]
    events.append({"t": seconds + 5, "event": "phase", "name": "readback"})
    return [*events, {"t": seconds + 60, "event": "end", "detail": {"reasons": [], "timings": {"run_s": seconds}}}]


def write_worker(path: Path, worker: int, rows: int, seconds: float, seed: int) -> None:
    """One worker's stream: preload, load, read-back of every acknowledged key."""
    rng = np.random.default_rng([seed, worker])
    schema = schema_of(OPERATION_COLUMNS)
    preloaded, loaded = int(rows * PRELOADED), int(rows * LOADED)
    known = preloaded
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for start in range(0, preloaded, BATCH):
            numbers = np.arange(start, min(start + BATCH, preloaded))
            stream.write_batch(
                batch_of(worker, "preload", np.full(len(numbers), -1.0), numbers, np.ones(len(numbers), bool), rng)
            )
        for start in range(0, loaded, BATCH):
            count = min(BATCH, loaded - start)
            at = (start + np.sort(rng.random(count)) * count) / loaded * seconds
            store = rng.random(count) < STORES
            numbers = np.where(store, known + np.cumsum(store) - 1, rng.integers(0, known, count))
            known += int(store.sum())
            stream.write_batch(batch_of(worker, "load", at, numbers, store, rng, seconds))
        for start in range(0, known, BATCH):
            numbers = np.arange(start, min(start + BATCH, known))
            at = np.full(len(numbers), seconds + 6.0)
            stream.write_batch(batch_of(worker, "readback", at, numbers, np.zeros(len(numbers), bool), rng))


def batch_of(
    worker: int, phase: str, at: Any, numbers: Any, store: Any, rng: np.random.Generator, seconds: float = 0.0
) -> pa.RecordBatch:
    """Rows as the recorder writes them; late during `latency`, one lookup in five unanswered during `partition`."""
    count = len(numbers)
    latency = rng.lognormal(-5, 0.6, count)
    inside = {name: (at >= begin * seconds) & (at < end * seconds) for name, begin, end in FAULTS}
    failed = inside["partition"] & ~store & (rng.random(count) < 0.2) if seconds else np.zeros(count, bool)
    latency = np.where(failed, 5.0, latency + 0.15 * inside["latency"] * bool(seconds))
    started = at + rng.exponential(2e-4, count)
    columns = {
        "kind": np.where(store, "store", "lookup"),
        "key": key_texts(numbers, worker),
        "intended": at,
        "started": started,
        "finished": started + latency,
        "outcome": np.where(failed, "timeout", "ok"),
        "error": np.where(failed, "no_answer", ""),
        "gateway": np.char.add("node-", rng.integers(0, NODES, count).astype(str)),
        "hops": rng.integers(0, 3, count, dtype=np.int32),
        "rpcs": rng.integers(1, 9, count, dtype=np.int32),
        "acks": np.where(store, 20, -1).astype(np.int32),
        "phase": np.full(count, phase),
        "worker": np.full(count, f"load-{worker}"),
        "version": np.ones(count, np.int64),
    }
    columns |= {name: np.full(count, usual) for name, usual in ADDED_OPERATION_COLUMNS.items()}
    arrays = [pa.array(columns[name]).cast(schema_of(OPERATION_COLUMNS).field(name).type) for name in OPERATION_COLUMNS]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(OPERATION_COLUMNS))


def key_texts(numbers: Any, worker: int) -> list[str]:
    """40 hexadecimal digits per number, as scattered as hashes are."""
    scattered = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).tolist()
    return [f"{one:016x}{worker:08x}{one:016x}" for one in scattered]


def write_samples(path: Path, seconds: float) -> None:
    """Counters of all nodes, every two seconds."""
    schema = schema_of(NODE_COLUMNS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for t in np.arange(0, seconds, 2.0):
            rows = [
                {**dict.fromkeys(NODE_COLUMNS, int(t) + n), "t": float(t), "name": f"node-{n}", "up": True}
                for n in range(NODES)
            ]
            stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def schema_of(columns: dict[str, str]) -> pa.Schema:
    """The Arrow schema of one of records' tables."""
    return pa.schema([(name, pa.type_for_alias(alias)) for name, alias in columns.items()])


if __name__ == "__main__":
    sys.exit(main())
