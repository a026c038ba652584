"""How fast clusters become ready through the real Toxiproxy, forked from one warm process and started by command.

Run: ``python benchmarks/boot.py [--quick] [--json FILE]`` (a Toxiproxy binary as `harness.toxiproxy.binary` finds it).

Ready is what `boot` means by it: links made, every node serving, every routing table with its true closest nodes. Both
sides run in turn, in one go, with the same plan. Memory is each node's own (USS), read once the cluster is ready. The
processor time that a boot takes (all nodes, Toxiproxy and the harness) is printed beside, since it says what the figure
would be on a machine that is less busy, or has more cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import document, experiment
from harness.boot import boot
from harness.cleanup import processes_of, tidy_session
from harness.events import Events
from harness.plan import make_plan
from harness.records import Plan
from harness.runfolder import make_run_dir
from harness.targets.kademlia import KademliaTarget
from harness.toxiproxy import binary

LIMITS = {50: 5.0, 300: 30.0}  # s until that many nodes are ready
MEMORY_LIMIT = 20.0  # MB of its own, a node
WARM, COLD = "forked", "by command"


@dataclass(frozen=True)
class Boot:
    """One boot: seconds until ready, processor seconds until then by part, and each node's own memory in MB."""

    seconds: float
    cpu: dict[str, float]
    own: list[float]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="50 nodes only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    found = binary.find(progress=print)
    rows: list[dict[str, Any]] = []
    for nodes in [50] if options.quick else [50, 300]:
        boots = {kind: measured(nodes, kind, found) for kind in (WARM, COLD)}
        for kind, each in boots.items():
            print(
                f"{nodes} nodes {kind}: ready in {each.seconds:.1f} s; processor time {sum(each.cpu.values()):.1f} s "
                f"({', '.join(f'{part} {seconds:.1f}' for part, seconds in each.cpu.items())}); "
                f"own memory {statistics.mean(each.own):.1f} MB on average, {max(each.own):.1f} MB at most"
            )
        rows += rows_of(nodes, boots[WARM], boots[COLD])
    for row in rows:
        print(f"{row['name']}: {row['ours']} {row['unit']} against {row['theirs']}, ratio {row['ratio']}, "
              f"limit {row['limit']}: {'met' if row['met'] else 'NOT met'}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def rows_of(nodes: int, warm: Boot, cold: Boot) -> Iterator[dict[str, Any]]:
    """The figures that the design names: ours is forked, theirs by command."""
    yield row(f"{nodes} nodes ready", warm.seconds, cold.seconds, "s", LIMITS[nodes])
    yield row(f"own memory of a node, the largest of {nodes}", max(warm.own), max(cold.own), "MB", MEMORY_LIMIT)


def row(name: str, ours: float, theirs: float, unit: str, limit: float) -> dict[str, Any]:
    """One line of the table; ``limit`` holds for ours."""
    shown = {"name": name, "ours": round(ours, 2), "theirs": round(theirs, 2), "unit": unit}
    return {**shown, "ratio": round(ours / theirs, 3), "limit": limit, "met": ours <= limit}


def measured(nodes: int, kind: str, found: Path) -> Boot:
    """Boot ``nodes`` nodes once, and take them down again."""
    with started(kind), tempfile.TemporaryDirectory() as state, ExitStack() as stack:
        folder = make_run_dir(Path(state) / "run")
        session = stack.enter_context(tidy_session(folder))
        before, began = own_cpu(), time.monotonic()
        boot(plan_of(nodes), session, folder, found, Events(lambda _: None), lambda _, close: stack.callback(close))
        seconds = time.monotonic() - began
        processes = processes_of(session.id)
        cpu = {"harness": own_cpu() - before, "nodes": 0.0, "Toxiproxy": 0.0, "warm process": 0.0}
        for process in processes:
            cpu[part_of(process)] += sum(process.cpu_times()[:2])
        own = [process.memory_full_info().uss / 1e6 for process in processes if part_of(process) == "nodes"]
        assert len(own) == nodes, f"{len(own)} processes for {nodes} nodes"
        return Boot(seconds, cpu, own)


@contextmanager
def started(kind: str) -> Iterator[None]:
    """Members are forked, or started by command."""
    preload = KademliaTarget.preload
    KademliaTarget.preload = preload if kind == WARM else None
    try:
        yield
    finally:
        KademliaTarget.preload = preload


def part_of(process: psutil.Process) -> str:
    """What a process of a session is."""
    command = process.cmdline()
    if "harness.nursery_main" in command and process.ppid() == os.getpid():
        return "warm process"
    return "nodes" if "serve" in command or "harness.nursery_main" in command else "Toxiproxy"


def own_cpu() -> float:
    """Processor seconds of this process so far."""
    return sum(os.times()[:2])


def plan_of(nodes: int) -> Plan:
    """A cluster with the network of the first storm, and nothing else."""
    data = {"name": "boot", "seed": 1, "cluster": {"nodes": nodes}, "network": {"latency": "5ms", "jitter": "1ms"}}
    return make_plan(experiment.check(document.parse(json.dumps({**data, "duration": "1h"}), "benchmark")))


if __name__ == "__main__":
    main()
